"""When advlock itself is stopped and continued: it asks the server before it judges."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from waiting import eventually

from advlock._liveness import Bounds
from advlock.cli.exits import Exit

from .helpers import WORKER, Cli, Running, sessions, state

if TYPE_CHECKING:
    from psycopg import Connection

LIVENESS = 6.0
BOUNDS = Bounds(LIVENESS)
OPTIONS = ("--liveness", f"{LIVENESS}s")

UNFORGIVING = """
import sys
from advlock._liveness import Pulse
from advlock.cli import main
Pulse.forgive = lambda *_: None
sys.exit(main(sys.argv[1:]))
"""


def stop_and_continue(started: Running) -> None:
    """Keep advlock from running for longer than it believes without asking."""
    started.send(signal.SIGSTOP)
    eventually(lambda: state(started.pid) == "T")
    time.sleep(BOUNDS.trust + BOUNDS.heartbeat)
    started.send(signal.SIGCONT)


def test_a_stopped_advlock_asks_before_it_stops_the_command(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """After a Ctrl-Z or a paused container the command runs on, as the lock is still held."""
    started = cli.start("run", *OPTIONS, name, "--", *WORKER)
    started.worker()
    before = sessions(admin, name)
    stop_and_continue(started)
    time.sleep(2 * BOUNDS.heartbeat)  # the time in which it would not be forgiven
    assert sessions(admin, name) == before
    started.send(signal.SIGTERM)
    assert (started.code(), started.stderr()) == (0, "")


def test_without_asking_the_command_would_be_stopped(cli: Cli, name: str) -> None:
    """The control: to who only looks at the clock, a stop is a silence."""
    arguments = (sys.executable, "-c", UNFORGIVING, "run", *OPTIONS, name, "--", *WORKER)
    started = cli.program(*arguments)
    started.worker()
    stop_and_continue(started)
    assert started.code() == Exit.LOST
    assert "no word from the server" in started.stderr()


def test_a_stopped_advlock_hears_that_its_session_was_ended(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """What the server said meanwhile is heard first: the lock is lost."""
    started = cli.start("run", *OPTIONS, name, "--", *WORKER)
    started.worker()
    started.send(signal.SIGSTOP)
    eventually(lambda: state(started.pid) == "T")
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", sessions(admin, name))
    started.send(signal.SIGCONT)
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST
    assert "the server closed the session" in started.stderr()


def test_ctrl_z_of_a_lost_lock_wakes_the_command_to_its_end(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """TSTP stops both; when the lock is gone at CONT, the command gets TERM with it."""
    started = cli.start("run", *OPTIONS, name, "--", *WORKER)
    child = started.worker()
    started.send(signal.SIGTSTP)
    eventually(lambda: state(child) == state(started.pid) == "T", message="both stopped")
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", sessions(admin, name))
    started.send(signal.SIGCONT)
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST
