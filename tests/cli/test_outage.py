"""When the server goes away while `advlock run` waits: it waits on, on the next connection."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from clusters import hot_standby, private_cluster, steady_cluster
from waiting import eventually

from advlock.cli.exits import Exit

from .helpers import WORKER, Cli, Running, sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection
    from servers import Server


SHOW = ("sh", "-c", 'echo $ADVLOCK_TOKEN; exec "$@"', "sh")
LIMIT = 5.0  # the `-w` of a waiter that gives up, in seconds


@contextmanager
def commands(dsn: str) -> Iterator[Cli]:
    """The command, with a server of the test's own."""
    cli = Cli(dsn)
    try:
        yield cli
    finally:
        cli.close()


def waiting(cli: Cli, name: str, *options: str) -> Running:
    """Start somebody who waits, and see him wait."""
    started = cli.start("run", *options, name, "--", "sh", "-c", "echo $ADVLOCK_TOKEN")
    assert started.said().startswith(f"advlock: waiting for '{name}'")
    return started


def lost(started: Running, name: str) -> None:
    """See that a waiter says that he lost the server."""
    expected = f"advlock: lost the database while waiting for '{name}'; trying again"
    assert started.said() == expected


def test_waiters_outlast_a_restart(server: Server, name: str) -> None:
    """They try again until the server is there, time is up, or a signal comes; `-n` does not."""
    slots = f"{name}-slots"
    with steady_cluster(server) as cluster, commands(cluster.dsn()) as cli:
        holder = cli.start("run", name, "--", *WORKER)
        slotted = cli.start("run", "--slots", "1", slots, "--", *WORKER)
        holder.worker()
        slotted.worker()
        patient, unlucky = waiting(cli, name), waiting(cli, name)
        for_a_slot = waiting(cli, slots, "--slots", "1")
        short = waiting(cli, name, "-w", f"{LIMIT}s", "-E", "9")
        cluster.stop("immediate")
        assert (holder.code(), slotted.code()) == (Exit.LOST, Exit.LOST)
        for one in (short, patient, unlucky):
            lost(one, name)
        lost(for_a_slot, slots)
        unlucky.send(signal.SIGTERM)
        assert (unlucky.code(), unlucky.stderr()) == (128 + signal.SIGTERM, "")
        assert cli("run", "-n", name, "--", "true")[0] == Exit.UNAVAILABLE
        assert cli("run", "-w", "60", name, "--", "true")[0] == Exit.UNAVAILABLE
        assert short.code() == 9
        expected = f"advlock: skipped '{name}': the database did not come back in time\n"
        assert short.stderr() == expected
        cluster.start()
        assert int(patient.line()) > 0
        assert int(for_a_slot.line()) > 0
        assert (patient.code(), for_a_slot.code()) == (0, 0)
        assert (patient.stderr(), for_a_slot.stderr()) == ("", ""), "said once for one outage"


def test_waiters_follow_a_fail_over(server: Server, name: str) -> None:
    """With several hosts in the DSN they wait for the next primary, even if a replica answers."""
    with private_cluster(server) as primary, hot_standby(primary) as standby:
        places = ",".join(f"127.0.0.1:{cluster.port}" for cluster in (primary, standby))
        hosts = f"postgresql://postgres@{places}/postgres"
        with commands(hosts) as cli:
            holder = cli.start("run", name, "--", *SHOW, *WORKER)
            before = int(holder.line())
            holder.worker()
            careful = waiting(cli, name, "--dsn", f"{hosts}?target_session_attrs=read-write")
            careless = waiting(cli, name)
            primary.stop("immediate")
            assert holder.code() == Exit.LOST
            lost(careful, name)
            lost(careless, name)
            refused = cli("run", name, "--", "true")
            assert refused[0] == Exit.CONFIG, "who has not waited before is told about the replica"
            assert careless.process.poll() is None
            with psycopg.connect(standby.dsn(), autocommit=True) as session:
                session.execute("SELECT pg_promote()")
            assert int(careful.line()) > before
            assert int(careless.line()) > before
            assert (careful.code(), careless.code()) == (0, 0)


def test_a_waiter_whose_session_is_ended_waits_on(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """A waiter that a DBA throws out comes back, and gets the lock when it is free."""
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    started = waiting(cli, name)
    (waiter,) = eventually(lambda: sessions(admin, name, granted=False))
    admin.execute("SELECT pg_terminate_backend(%s)", [waiter])
    lost(started, name)
    assert started.said().startswith(f"advlock: waiting for '{name}': held by test-admin")
    admin.execute("SELECT pg_advisory_unlock_all()")
    assert int(started.line()) > 0
    assert started.code() == 0
