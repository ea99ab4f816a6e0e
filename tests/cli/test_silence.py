"""When the network is silent: the command is stopped before anybody else can have the lock."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

from advlock._liveness import Bounds
from advlock.cli.exits import Exit

from .helpers import WORKER, Cli, Running, alive, sessions
from .silence import silence

if TYPE_CHECKING:
    from psycopg import Connection
    from servers import Server

LIVENESS = 4.0
BOUNDS = Bounds(LIVENESS)
LETS_GO = float(BOUNDS.user_timeout) / 1000  # after so many seconds of silence, at the earliest
BUSY = 1.5  # seconds that a busy machine may take to do what is due
RUN = ("run", "--liveness", f"{LIVENESS}s")

_PORT = "SELECT client_port FROM pg_stat_activity WHERE pid = ANY(%s)"


def distant(cli: Cli, server: Server) -> tuple[str, ...]:
    """Options for a connection to the test's database that can be cut."""
    database = str(conninfo_to_dict(cli.env["ADVLOCK_DSN"])["dbname"])
    return ("--dsn", server.tcp_dsn(database))


def ports(admin: Connection[Any], *names: str) -> list[int]:
    """The ports of the clients that hold these locks."""
    holders = [pid for name in names for pid in sessions(admin, name)]
    found = [port for (port,) in admin.execute(_PORT, [holders])]
    assert len(found) == len(names)
    return found


def next_one(cli: Cli, name: str) -> Running:
    """Start somebody who waits for the lock, near the server."""
    waiter = cli.start("run", name, "--", "echo", "ran")
    assert "waiting" in waiter.said()
    return waiter


def test_silence_stops_the_command_before_the_next_one_runs(
    cli: Cli, server: Server, admin: Connection[Any], name: str
) -> None:
    """TERM when the trust ends, then the server lets go; the control, which goes on, overlaps."""
    control = f"{name}-control"
    far = distant(cli, server)
    held = cli.start(*RUN, *far, name, "--", *WORKER)
    kept = cli.start(*RUN, *far, "--on-lost", "continue", control, "--", *WORKER)
    held.worker()
    unstopped = kept.worker()
    after_held, after_kept = next_one(cli, name), next_one(cli, control)
    with silence(*ports(admin, name, control)):
        cut = time.monotonic()
        assert held.line() == "child got TERM"
        stopped = time.monotonic() - cut
        assert held.code() == Exit.LOST
        assert after_held.process.poll() is None, "the next one did not run yet"
        assert after_held.line() == "ran"
        granted = time.monotonic() - cut
        assert after_kept.line() == "ran"
        assert alive(unstopped), "the control shows an overlap"
    assert stopped < BOUNDS.trust + BUSY
    assert LETS_GO - BOUNDS.heartbeat < granted < LIVENESS + BUSY
    assert stopped < granted
    why = f"no word from the server for {BOUNDS.trust:.1f} s"
    assert held.stderr() == f"advlock: lost the lock '{name}': {why}; stopping the command\n"
    kept.send(signal.SIGTERM)
    assert kept.code() == 0
    expected = f"advlock: lost the lock '{control}': {why}; the command runs on without it"
    assert kept.stderr() == f"{expected} (--on-lost continue)\n"


def test_a_short_silence_is_no_loss(
    cli: Cli, server: Server, admin: Connection[Any], name: str
) -> None:
    """A network that is back before the trust ends has lost a heartbeat, and nothing else."""
    bounds = Bounds(10.0)  # TCP may take its time to try again, and so may a busy machine
    options = ("--liveness", "10s", *distant(cli, server))
    held = cli.start("run", *options, name, "--", *WORKER)
    held.worker()
    (before,) = sessions(admin, name)
    with ExitStack() as stack:
        stack.enter_context(silence(*ports(admin, name)))
        time.sleep(bounds.heartbeat * 1.5)
    time.sleep(bounds.trust)
    assert sessions(admin, name) == [before]
    held.send(signal.SIGTERM)
    assert (held.code(), held.stderr()) == (0, "")
    eventually(lambda: not sessions(admin, name))
