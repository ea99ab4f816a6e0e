"""Look after the command, and after the lock meanwhile, until the command has ended.

One thread does it all: the kernel tells it by signals of the command's end and of every word from
the server, and it wakes by itself when the lock needs a heartbeat. Nothing here knows a database.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from advlock._duration import brief
from advlock.cli._child import LOOK_EVERY
from advlock.cli._signals import Stop
from advlock.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from advlock.cli._child import Child
    from advlock.cli._signals import Arrival


class Watched(Protocol):
    """What carries the lock, as far as the command's supervisor needs to know it."""

    def fileno(self) -> int:
        """The socket on which the end of the lock is heard."""

    def alive(self) -> bool:
        """Do what keeps the lock, and tell whether it is still held; never waits."""

    def look_again(self) -> float:
        """When to call `alive` again if nothing is heard, in `time.monotonic` seconds."""

    @property
    def why(self) -> str:
        """Why the lock is lost."""


class Mail(Protocol):
    """Where the supervisor hears of everything: signals, the lock's socket, requests to stop."""

    def listening(self, fd: int, /) -> AbstractContextManager[None]:
        """Hear of the lock's socket, too, as of a SIGIO."""

    def wait(self, deadline: float | None, /) -> Arrival | Stop | None:
        """The next message; None when `deadline` (of `time.monotonic`) has passed, or earlier."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When to stop the command.

    Attributes:
        max_runtime: Seconds until it is stopped; None for never.

        kill_after: Seconds between TERM and KILL.

        stop_when_lost: Stop it when the lock is lost; otherwise only warn.

        what: The lock, as messages name it.

        limit: `max_runtime`, as messages name it.

        on_lost: What says that the command runs on without the lock, as messages name it.
    """

    max_runtime: float | None = None
    kill_after: float = 10.0
    stop_when_lost: bool = True
    what: str = "the lock"
    limit: str = "--max-runtime"
    on_lost: str = "--on-lost continue"


def supervise(
    child: Child, lock: Watched, rules: Rules, inbox: Mail, say: Callable[[str], None]
) -> int:
    """Look after the command until it has ended; leave no part of it behind on our own failure.

    Args:
        child: The command's process.
        lock: What carries the lock.
        rules: When to stop the command.
        inbox: Where messages come in; an inbox of signals has to be opened.
        say: Takes a message for people.

    Returns:
        The command's own exit code; an `Exit` if it was stopped, or its lock was lost.
    """
    try:
        with inbox.listening(lock.fileno()):
            return _Supervisor(child, lock, rules, inbox, say).run()
    except BaseException:
        child.destroy(rules.kill_after)
        raise


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


@dataclass(slots=True)
class _Supervisor:
    """One command's life: what came in, what the clock says, what follows from it."""

    _child: Child
    _lock: Watched
    _rules: Rules
    _inbox: Mail
    _say: Callable[[str], None]
    _held: bool = True
    _unread: bool = False  # the lock's socket had more to say than was read
    _verdict: Exit | None = None  # why we stop the command; None while we do not
    _killed: bool = False
    _deadline: float | None = None

    def run(self) -> int:
        if self._rules.max_runtime:
            self._deadline = time.monotonic() + self._rules.max_runtime
        self._look_at_lock()  # SIGIO tells of changes only
        while not self._over():
            arrival = self._inbox.wait(self._next_look())
            if isinstance(arrival, Stop):
                self._obey(arrival)
            elif arrival is not None:
                self._take(arrival)
            if self._unread or (self._held and time.monotonic() >= self._lock.look_again()):
                self._look_at_lock()
            self._look_at_clock()
        for _ in range(2):  # first the server's last words, then its end
            self._look_at_lock()
        return (self._child.code or 0) if self._verdict is None else self._verdict

    def _over(self) -> bool:
        if self._child.code is None:
            return False
        return self._verdict is None or self._killed or not self._child.leaves_others()

    def _next_look(self) -> float | None:
        moments = [self._deadline, self._lock.look_again() if self._held else None]
        if self._child.code is not None or self._unread:
            moments.append(time.monotonic() + LOOK_EVERY)
        return min((moment for moment in moments if moment is not None), default=None)

    def _take(self, arrival: Arrival) -> None:
        if arrival.signum == signal.SIGCHLD:
            self._child.reap()
        elif arrival.signum == signal.SIGIO:
            self._look_at_lock()
        elif arrival.signum == signal.SIGTSTP:
            self._suspend()
        elif not self._has_it_already(arrival):
            self._send(arrival.signum)

    def _obey(self, stop: Stop) -> None:
        if self._verdict is None:
            self._stop(Exit.LOST, f"{stop.reason}; stopping the command")

    def _has_it_already(self, arrival: Arrival) -> bool:
        # Not so for HUP: a terminal that goes away tells the leader of its session only.
        typed = arrival.typed and arrival.signum in {signal.SIGINT, signal.SIGQUIT}
        return typed and not self._child.own_session

    def _suspend(self) -> None:
        """Ctrl-Z for a command in another session: STOP, as TSTP does nothing without a shell."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._look_at_lock()  # a command whose lock has gone meanwhile wakes up to TERM
        self._send(signal.SIGCONT)

    def _look_at_lock(self) -> None:
        if not self._held:
            return
        if self._lock.alive():
            # A server that ends a session says why and hangs up: one SIGIO, and one read sees
            # only the first half of it.
            self._unread = _readable(self._lock.fileno())
            return
        self._held = self._unread = False
        lost = f"lost {self._rules.what}: {self._lock.why}"
        if not self._rules.stop_when_lost:
            self._say(f"{lost}; the command runs on without it ({self._rules.on_lost})")
        elif self._child.code is not None and self._verdict is None:
            self._say(f"{lost} before the command ended with exit code {self._child.code}")
            self._verdict = Exit.LOST
        elif self._verdict is None:
            self._stop(Exit.LOST, f"{lost}; stopping the command")

    def _look_at_clock(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self._verdict is None:
            limit = brief(self._rules.max_runtime or 0)
            over = f"{self._rules.limit} of {limit} is over; stopping the command"
            self._stop(Exit.TIMED_OUT, over)
        elif not self._killed:
            self._killed = True
            self._deadline = None
            self._send(signal.SIGKILL)
            self._say(f"not ended {brief(self._rules.kill_after)} after TERM; sending KILL")

    def _stop(self, verdict: Exit, message: str) -> None:
        self._verdict = verdict
        self._deadline = time.monotonic() + self._rules.kill_after
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # a stopped process would not hear of it
        self._say(message)  # last: whoever reads it may be slow

    def _send(self, signum: int) -> None:
        try:
            self._child.send(signum)
        except PermissionError:  # sudo, or another program that runs as somebody else
            name = signal.Signals(signum).name
            self._say(f"may not send {name} to the command (pid {self._child.pid})")
