"""The supervisor alone: no database, and a lock whose end a test decides."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from advlock.cli.exits import Exit

from .helpers import WORKER, Cli, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Supervise = Callable[..., Running]

SUPERVISED = str(Path(__file__).with_name("supervised.py"))


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """Start the supervisor over a worker."""
    cli = Cli("")

    def start(*flags: str, **rules: Any) -> Running:
        arguments = (sys.executable, SUPERVISED, json.dumps(rules), "--", *WORKER, *flags)
        return cli.program(*arguments, stdin=subprocess.PIPE)

    yield start
    cli.close()


def tell(started: Running, line: str) -> None:
    """Have the other end of the lock do something."""
    assert started.process.stdin
    started.process.stdin.write(f"{line}\n".encode())


def test_a_lock_that_hangs_up_stops_the_command(supervise: Supervise) -> None:
    """The end of the socket is heard at once, while the command holds a copy of our end."""
    started = supervise()
    started.worker()
    tell(started, "hang up")
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST
    assert "lost the lock: the server closed the session; stopping the command" in started.stderr()


def test_a_lock_that_talks_is_still_held(supervise: Supervise) -> None:
    """Something to read is no loss: a notice, a changed setting; the end after it is."""
    started = supervise()
    started.worker()
    for _ in range(3):
        tell(started, "chat")
        started.send(signal.SIGUSR1)
        assert started.line() == "child got USR1"
    tell(started, "hang up")
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST


def test_last_words_do_not_hide_the_end(supervise: Supervise) -> None:
    """A server that says why and hangs up, both before we look, is heard to have hung up."""
    started = supervise()
    started.worker()
    started.send(signal.SIGSTOP)
    tell(started, "last words")
    assert started.line() == "hung up"
    started.send(signal.SIGCONT)
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST


def test_a_lost_lock_can_be_survived(supervise: Supervise) -> None:
    """With `stop_when_lost` off, the command goes on and its own code counts."""
    started = supervise("--ends-on", "USR2", stop_when_lost=False)
    started.worker()
    tell(started, "hang up")
    assert "runs on without it" in started.said()
    started.send(signal.SIGUSR2)
    assert started.line() == "child got USR2"
    assert started.code() == 0


def test_the_first_reason_to_stop_is_the_code(supervise: Supervise) -> None:
    """A lock that is lost while the command is being stopped for its time changes no verdict."""
    started = supervise("--ignore", "TERM", max_runtime=4.0, kill_after=1.0)
    started.worker()
    assert "--max-runtime of 4s is over" in started.said()
    tell(started, "hang up")
    assert "sending KILL" in started.said()
    assert started.code() == Exit.TIMED_OUT


def test_kill_after_zero_kills_at_once(supervise: Supervise) -> None:
    """With no time between TERM and KILL, a command that ignores TERM is gone at once."""
    started = supervise("--ignore", "TERM", kill_after=0.0)
    started.worker()
    tell(started, "hang up")
    assert started.code() == Exit.LOST
    assert "sending KILL" in started.stderr()


def test_signals_still_arrive_while_the_command_is_being_stopped(supervise: Supervise) -> None:
    """Somebody who is losing patience can send another signal."""
    started = supervise("--ignore", "TERM", "--ends-on", "INT", kill_after=15.0)
    started.worker()
    tell(started, "hang up")
    assert "stopping the command" in started.said()
    started.send(signal.SIGINT)
    assert started.line() == "child got INT"
    assert started.code() == Exit.LOST
