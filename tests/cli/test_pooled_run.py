"""`advlock run` through a connection pooler: the same promises, and the same exit codes."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from conformance.pooled import FREE, TAKE, plain_clients
from waiting import eventually

from advlock._liveness import Bounds
from advlock.cli.exits import Exit

from .helpers import PATIENCE, WORKER, Cli, alive, sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.pooled import Pools
    from psycopg import Connection

pytest_plugins = ["conformance.pooled_fixtures"]

LEASE = 2.0
BUSY = 3.0  # seconds that a busy machine may take more
MODES = ["transaction", "session"]
PRINT = ("sh", "-c", 'echo "$ADVLOCK_NAME $ADVLOCK_TOKEN $ADVLOCK_SLOT"')


@pytest.fixture
def admin(pools: Pools) -> Connection[Any]:
    """A bystander's session in the database behind the pooler."""
    return pools.admin


@pytest.fixture(params=MODES)
def pooled(pools: Pools, request: pytest.FixtureRequest) -> Iterator[Cli]:
    """The command, behind a pooler in each mode in which locks can be held."""
    started = Cli(pools.dsn(request.param))
    yield started
    started.close()


@pytest.fixture
def direct(pools: Pools) -> Iterator[Cli]:
    """The command, without a pooler."""
    started = Cli(pools.database)
    yield started
    started.close()


def is_free(admin: Connection[Any], name: str, within: float = PATIENCE) -> float:
    """Wait until nobody holds it; how long that took."""
    start = time.monotonic()
    eventually(lambda: not sessions(admin, name), within=within, message="the lock is free")
    return time.monotonic() - start


def test_it_runs_and_gives_the_commands_code(
    pooled: Cli, direct: Cli, admin: Connection[Any], name: str
) -> None:
    """The command has a token, greater each time, and its exit code is ours; nothing is left."""
    tokens = []
    for way in (pooled, direct, pooled):
        code, out, err = way("run", name, "--", *PRINT)
        assert (code, err) == (0, "")
        told, token = out.split()
        assert told == name
        tokens.append(int(token))
    assert tokens == sorted(set(tokens))
    assert pooled("run", name, "--", "sh", "-c", "exit 7")[0] == 7
    assert pooled("run", name, "--", "sh", "-c", "kill -9 $$")[0] == 128 + signal.SIGKILL
    assert pooled("run", name, "--", "/nonexistent")[0] == Exit.NOT_FOUND
    assert pooled("run", "-o", name, "--", "true")[0] == 0
    is_free(admin, name)


def test_it_excludes_others_on_every_way(
    pooled: Cli, direct: Cli, admin: Connection[Any], name: str
) -> None:
    """Pooled excludes pooled and direct; direct excludes pooled; the holder is named."""
    for holder, others in ((pooled, (pooled, direct)), (direct, (pooled,))):
        started = holder.start("run", name, "--", *WORKER)
        started.worker()
        for other in others:
            code, out, err = other("run", "-n", name, "--", "echo", "ran")
            assert (code, out) == (Exit.BUSY, "")
            assert f"advlock: skipped {name!r}: held by" in err
        assert len(sessions(admin, name)) == 1
        started.send(signal.SIGTERM)
        started.code()
        is_free(admin, name)


def test_slots(pooled: Cli, admin: Connection[Any], name: str) -> None:
    """So many at a time and no more, each with a slot of its own."""
    holders = [pooled.start("run", "--slots", "2", name, "--", *WORKER) for _ in range(2)]
    for holder in holders:
        holder.worker()
    assert pooled("run", "-n", "--slots", "2", name, "--", "true")[0] == Exit.BUSY
    assert sorted(len(sessions(admin, name, slot=slot)) for slot in (0, 1)) == [1, 1]
    holders[0].send(signal.SIGTERM)
    holders[0].code()
    code, out, _ = pooled("run", "-w", "5s", "--slots", "2", name, "--", *PRINT)
    assert code == 0
    assert out.split()[2] in {"0", "1"}
    holders[1].send(signal.SIGTERM)
    holders[1].code()


def test_it_waits_and_gets_it(pooled: Cli, admin: Connection[Any], name: str) -> None:
    """Who waits says for whom, and runs as soon as it is free; a signal or -w ends the wait."""
    admin.execute(TAKE, [name])
    limited = pooled.start("run", "-w", "2s", "-E", "9", name, "--", *PRINT)
    waiter = pooled.start("run", name, "--", *PRINT)
    unlucky = pooled.start("run", name, "--", *PRINT)
    for one in (waiter, unlucky):
        assert one.said().startswith(f"advlock: waiting for {name!r}: held by")
    unlucky.send(signal.SIGTERM)
    assert unlucky.code() == 128 + signal.SIGTERM
    assert limited.code() == 9
    admin.execute(FREE, [name])
    freed = time.monotonic()
    assert waiter.line().startswith(name)
    assert time.monotonic() - freed < 2 * BUSY
    assert waiter.code() == 0
    is_free(admin, name)


def test_killed_alone_it_leaves_the_lock_to_the_command(
    pooled: Cli, admin: Connection[Any], name: str
) -> None:
    """Without --lease the lock stays for as long as the command runs, and not longer."""
    started = pooled.start("run", name, "--", *WORKER)
    worker = started.worker()
    held_by = sessions(admin, name)
    started.send(signal.SIGKILL)
    started.process.wait(PATIENCE)
    time.sleep(LEASE)
    assert sessions(admin, name) == held_by, "the command still runs"
    assert pooled("run", "-n", name, "--", "true")[0] == Exit.BUSY
    os.kill(worker, signal.SIGKILL)
    assert is_free(admin, name) < BUSY


def test_a_lease_bounds_that(pooled: Cli, admin: Connection[Any], name: str) -> None:
    """With --lease the lock is free after it, though the command runs; and with -o at once."""
    leased = pooled.start("run", "--lease", f"{LEASE}s", name, "--", *WORKER)
    closing = pooled.start("run", "-o", f"{name}-o", "--", *WORKER)
    workers = [leased.worker(), closing.worker()]
    time.sleep(1.5 * LEASE)
    assert sessions(admin, name), "heartbeats keep it"
    closing.send(signal.SIGKILL)
    assert is_free(admin, f"{name}-o") < BUSY
    leased.send(signal.SIGKILL)
    took = is_free(admin, name, within=LEASE + BUSY)
    assert took > LEASE - Bounds(lease=LEASE).heartbeat - 0.5
    for worker in workers:
        assert alive(worker)
        os.kill(worker, signal.SIGKILL)


def test_a_lost_session_stops_the_command(pooled: Cli, admin: Connection[Any], name: str) -> None:
    """The session is ended on the server: TERM for the command, and exit code 74."""
    started = pooled.start("run", name, "--", *WORKER)
    started.worker()
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, name))
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST
    assert "administrator command" in started.stderr()


@pytest.mark.parametrize("mode", MODES)
def test_the_poolers_restart(pools: Pools, admin: Connection[Any], name: str, mode: str) -> None:
    """Who runs has lost the lock, 74; who waits goes on waiting, and gets it from the new one."""
    with pools.own(mode) as made:
        pooled = Cli(made.dsn(pools.dbname))
        try:
            holder = pooled.start("run", name, "--", *WORKER)
            holder.worker()
            waiter = pooled.start("run", name, "--", *PRINT)
            assert waiter.said().startswith(f"advlock: waiting for {name!r}: held by")
            made.kill()
            assert holder.code() == Exit.LOST
            is_free(admin, name, within=BUSY)
            lost = f"advlock: lost the database while waiting for {name!r}; trying again"
            assert waiter.said() == lost
            assert pooled("run", "-n", name, "--", "true")[0] == Exit.UNAVAILABLE
            made.start()
            assert waiter.line().startswith(name)
            assert waiter.code() == 0
        finally:
            pooled.close()


def test_statement_pooling_is_refused(pools: Pools, admin: Connection[Any], name: str) -> None:
    """Exit code 78, and what to change; the command does not run."""
    cli = Cli(pools.dsn("statement"))
    for options in ([], ["-n"], ["-w", "3s"], ["--slots", "2"]):
        code, out, err = cli("run", *options, name, "--", "echo", "ran")
        assert (code, out) == (Exit.CONFIG, "")
        assert "statement mode" in err
        assert "pool_mode = transaction" in err
        assert "Traceback" not in err
    assert not sessions(admin, name)


def test_a_full_pool(pools: Pools, name: str) -> None:
    """The error names the pool, 69; when there is room again it runs."""
    with pools.own(default_pool_size=2, query_wait_timeout=1) as made:
        pooled = Cli(made.dsn(pools.dbname))
        with plain_clients(made, pools.dbname, 2):
            code, _, err = pooled("run", "-n", name, "--", "true")
            assert code == Exit.UNAVAILABLE
            assert "default_pool_size" in err
        assert pooled("run", "-n", name, "--", "true")[0] == 0
