"""Signals, twice: an exception while we wait for the lock, a message while the command runs.

Handlers are installed either way: PID 1 in a container has no default actions, and a wrapper that
only listens once it holds the lock cannot be stopped before (hashicorp/consul#4439).

Everything here assumes that the process has one thread: a second one that does not block the
signals would receive them in the main thread's place.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from advlock._masked import signals_blocked
from advlock.cli.exits import signalled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_SHORTEST = 1e-6  # seconds; a timer of 0 is none
_SOON = 1e-3  # seconds; a callback that ignores what is raised in it has ended by then
_OUR_OWN = (signal.SIGIO, signal.SIGALRM)  # the lock's socket, and the clock


class Interrupted(BaseException):
    """A signal asked us to end while no command was running yet."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Arrival(NamedTuple):
    """One signal that came in.

    Attributes:
        signum: Which one.

        typed: True when the kernel sent it, as it does for Ctrl-C: to the whole foreground
            group, and so to the command already. False when a process sent it with kill(2).
    """

    signum: int
    typed: bool = False


class Stop(NamedTuple):
    """Somebody wants the command to end, and says why."""

    reason: str


def heard() -> list[signal.Signals]:
    """The signals that we react to: all but those that were ignored when we were started.

    `nohup advlock run …` and `advlock run … &` in a script mean it when they ignore HUP or INT.
    """
    return [signum for signum in FORWARDED if signal.getsignal(signum) is not signal.SIG_IGN]


class _Raise:
    """A handler that ends the main thread's work by an exception; the second time, at once.

    Python ignores what is raised in a finalizer and in a weak reference's callback, as the import
    system has one for each module; the signal is then sent again.
    """

    def __init__(self) -> None:
        self.came_before = False
        self._main = _thread.get_ident()
        self._ignored = sys.unraisablehook

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        if self.came_before:  # the way out hangs, or something swallowed the exception
            os._exit(signalled(signum))
        self.came_before = True
        raise Interrupted(signum)

    def ignored(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Take the place of `sys.unraisablehook`."""
        if not isinstance(unraisable.exc_value, Interrupted):
            self._ignored(unraisable)
            return
        signum = unraisable.exc_value.signum
        try:
            with signals_blocked():
                _thread.start_new_thread(self._again, (signum,))
        except RuntimeError:  # no thread to be had
            os._exit(signalled(signum))

    def _again(self, signum: int) -> None:
        time.sleep(_SOON)
        self.came_before = False
        # Not raised from here: by now it may be a message, or a scheduler's to obey.
        signal.pthread_kill(self._main, signum)


def raise_on_signals() -> None:
    """From now on a signal raises `Interrupted` in the main thread."""
    handler = _Raise()
    for signum in heard():
        signal.signal(signum, handler)
    sys.unraisablehook = handler.ignored


class Inbox:
    """The signals as messages: blocked, so that none is lost and none interrupts anything."""

    def __init__(self, *, suspendable: bool) -> None:
        """Listen to what is to be forwarded, to the command's end, to the lock's socket.

        Args:
            suspendable: Listen to TSTP (Ctrl-Z) too, for a command outside of our own group.
        """
        stop = [signal.SIGTSTP] if suspendable else []
        self._set = {*heard(), signal.SIGCHLD, *_OUR_OWN, *stop}

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Block the signals; afterwards those still pending meet the handlers from before."""
        # An ignored SIGCHLD, which a parent may have left us, would take every exit status away.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._set)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            while signal.sigtimedwait(_OUR_OWN, 0):
                pass  # their default action is death
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self, deadline: float | None) -> Arrival | None:
        """The next signal, or None when `deadline` (of `time.monotonic`) has passed.

        None may come early.
        """
        # A timer of our own, because sigtimedwait() makes up an answer when we were stopped and
        # continued meanwhile and the time is over (tests/cli/test_stopped.py).
        left = 0.0 if deadline is None else max(_SHORTEST, deadline - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, left)
        info = signal.sigwaitinfo(self._set)
        if info.si_signo == signal.SIGALRM:
            return None
        # SI_USER is 0, SI_QUEUE and SI_TKILL are negative: all three are processes.
        return Arrival(info.si_signo, typed=info.si_code > 0)

    @contextlib.contextmanager
    def listening(self, fd: int) -> Iterator[None]:
        """Have the kernel send us SIGIO whenever something happens on the socket `fd`.

        So one call waits for the signals, the command and the socket alike, without a thread.
        """
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a socket found dead may be closed by now
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)
