"""Start the command under the lock and look after it until it has ended.

Nothing here knows a database: the lock is something with a `fileno()` and an `alive()`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from advlock._duration import brief
from advlock.cli._signals import Inbox, announced
from advlock.cli.exits import Exit, signalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from advlock.cli._signals import Arrival

# How often to look whether a group that was told to end is empty: no signal tells us of
# processes that are not our own children.
_LOOK_EVERY = 0.05
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Watched(Protocol):
    """What carries the lock, as far as the command's supervisor needs to know it."""

    def fileno(self) -> int:
        """The socket on which the end of the lock is heard."""

    def alive(self) -> bool:
        """Whether the socket is still good; never waits."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When to stop the command.

    Attributes:
        max_runtime: Seconds until it is stopped; None for never.

        kill_after: Seconds between TERM and KILL.

        stop_when_lost: Stop it when the lock is lost; otherwise only warn.

        what: The lock, as messages name it.
    """

    max_runtime: float | None = None
    kill_after: float = 10.0
    stop_when_lost: bool = True
    what: str = "the lock"


class NotStarted(Exception):  # noqa: N818 - an exit code on its way, not a failure of ours
    """The command could not be executed; `code` is the exit code that says so."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


def has_terminal() -> bool:
    """Whether a terminal talks to us: stdin is one, and we are its foreground group."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def adopt_orphans() -> None:
    """Become the parent of what the command leaves behind, as PID 1 is in any case (Linux only).

    Otherwise nobody may ever reap it, in a container whose first process does not: a group of
    zombies looks like a group that still runs, and we would wait for it until `kill_after`.
    """
    import ctypes  # noqa: PLC0415 - psycopg has loaded it by now

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Child:
    """The command's process: in a session of its own, or in our group when there is a terminal."""

    def __init__(self, pid: int, *, own_session: bool) -> None:
        self.pid = pid
        self.own_session = own_session
        self.code: int | None = None

    def send(self, signum: int) -> None:
        """Send a signal to the whole group; with a terminal, to the command alone.

        With a terminal the group is our own, and the rest of the shell's pipeline is in it.
        """
        if self.code is not None and not self.own_session:
            return
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self.own_session else os.kill)(self.pid, signum)

    def reap(self) -> None:
        """Collect whatever has ended: the command, and the orphans that we have adopted."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self.code = code if code >= 0 else signalled(-code)

    def leaves_others(self) -> bool:
        """Whether the command's group still has members."""
        try:
            if self.own_session:
                os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return self.own_session

    def destroy(self, grace: float) -> None:
        """End the group whatever happens: TERM, `grace` seconds, KILL. The last resort."""
        with contextlib.suppress(PermissionError):
            self.send(signal.SIGTERM)
            give_up = time.monotonic() + grace
            while self.code is None and time.monotonic() < give_up:
                time.sleep(_LOOK_EVERY)
                self.reap()
            self.send(signal.SIGKILL)


def spawn(
    command: Sequence[str], *, env: Mapping[str, str], inherit: Iterable[int], own_session: bool
) -> Child:
    """Execute the command directly, without a shell; stdin, stdout and stderr are inherited.

    It starts with no signal blocked and with default actions, but for those signals that were
    ignored when we were started.

    Args:
        command: The program, looked up on PATH, and its arguments.
        env: Its environment.
        inherit: File descriptors that it is to have besides those which we inherited ourselves.
        own_session: Give it a session, and so a process group, of its own.

    Raises:
        NotStarted: It could not be executed.
    """
    # Python ignores these two; everything with a handler is reset by exec itself.
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]
    with _inheritable(inherit):
        try:
            pid = os.posix_spawnp(
                command[0],
                list(command),
                dict(env),
                setsid=own_session,
                setsigmask=(),
                setsigdef=defaults,
            )
        except OSError as error:
            raise _not_started(command[0], error) from None
    return Child(pid, own_session=own_session)


@contextlib.contextmanager
def _inheritable(fds: Iterable[int]) -> Iterator[None]:
    fds = list(fds)
    for fd in fds:
        os.set_inheritable(fd, True)  # noqa: FBT003
    try:
        yield
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)  # noqa: FBT003


def _not_started(program: str, error: OSError) -> NotStarted:
    if error.errno != errno.ENOENT:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.ENOEXEC:
            reason += "; a script needs a first line such as #!/bin/sh"
        return NotStarted(Exit.CANNOT_EXECUTE, f"cannot execute {program!r}: {reason}")
    if shutil.which(program):
        message = f"cannot execute {program!r}: the interpreter in its first line does not exist"
    elif any(char in program for char in " |;&<>"):
        message = f"command not found: {program!r}; for a shell's line write: -- sh -c {program!r}"
    else:
        message = f"command not found: {program!r}; is it on PATH?"
    return NotStarted(Exit.NOT_FOUND, message)


def supervise(
    child: Child, lock: Watched, rules: Rules, inbox: Inbox, say: Callable[[str], None]
) -> int:
    """Look after the command until it has ended; leave no part of it behind on our own failure.

    Args:
        child: The command's process.
        lock: What carries the lock.
        rules: When to stop the command.
        inbox: The opened inbox of signals.
        say: Takes a message for people.

    Returns:
        The exit code for `advlock run`.
    """
    try:
        with announced(lock.fileno()):
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
    _inbox: Inbox
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
            if arrival is not None:
                self._take(arrival)
            if self._unread:
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
        soon = time.monotonic() + _LOOK_EVERY
        if self._child.code is not None or self._unread:
            return soon if self._deadline is None else min(soon, self._deadline)
        return self._deadline

    def _take(self, arrival: Arrival) -> None:
        if arrival.signum == signal.SIGCHLD:
            self._child.reap()
        elif arrival.signum == signal.SIGIO:
            self._look_at_lock()
        elif arrival.signum == signal.SIGTSTP:
            self._suspend()
        elif not self._has_it_already(arrival):
            self._send(arrival.signum)

    def _has_it_already(self, arrival: Arrival) -> bool:
        # Not so for HUP: a terminal that goes away tells the leader of its session only.
        typed = arrival.typed and arrival.signum in {signal.SIGINT, signal.SIGQUIT}
        return typed and not self._child.own_session

    def _suspend(self) -> None:
        """Ctrl-Z for a command in another session: STOP, as TSTP does nothing without a shell."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
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
        lost = f"lost {self._rules.what}: the server closed the session"
        if not self._rules.stop_when_lost:
            self._say(f"{lost}; the command runs on without it (--on-lost continue)")
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
            self._stop(Exit.TIMED_OUT, f"--max-runtime of {limit} is over; stopping the command")
        elif not self._killed:
            self._killed = True
            self._deadline = None
            self._say(f"not ended {brief(self._rules.kill_after)} after TERM; sending KILL")
            self._send(signal.SIGKILL)

    def _stop(self, verdict: Exit, message: str) -> None:
        self._verdict = verdict
        self._deadline = time.monotonic() + self._rules.kill_after
        self._say(message)
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # a stopped process would not hear of it

    def _send(self, signum: int) -> None:
        try:
            self._child.send(signum)
        except PermissionError:  # sudo, or another program that runs as somebody else
            name = signal.Signals(signum).name
            self._say(f"may not send {name} to the command (pid {self._child.pid})")
