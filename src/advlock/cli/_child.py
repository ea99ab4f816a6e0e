"""The command's process: started with the lock, signalled and reaped as a group."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

from advlock.cli.exits import Exit, signalled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# How often to look whether a group that was told to end is empty: no signal tells us of
# processes that are not our own children.
LOOK_EVERY = 0.05
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


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
                time.sleep(LOOK_EVERY)
                self.reap()
            self.send(signal.SIGKILL)


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    inherit: Iterable[int],
    own_session: bool,
    streams: tuple[int, ...] | None = None,
) -> Child:
    """Execute the command directly, without a shell; stdin, stdout and stderr are inherited.

    Not from two threads at a time: for a moment `inherit` is open to every new process.
    It starts with no signal blocked and with default actions, but for those signals that were
    ignored when we were started.

    Args:
        command: The program, looked up on the PATH of `env`, and its arguments.
        env: Its environment.
        inherit: File descriptors that it is to have besides those which we inherited ourselves.
        own_session: Give it a session, and so a process group, of its own.
        streams: Its stdout, stderr and stdin instead of ours; without a third it is /dev/null.

    Raises:
        NotStarted: It could not be executed.
    """
    with _inheritable(inherit):
        try:
            pid = os.posix_spawnp(
                # By itself it would look on our own PATH.
                shutil.which(command[0], path=env.get("PATH")) or command[0],
                list(command),
                dict(env),
                setsid=own_session,
                setsigmask=(),
                # Python ignores these two; everything with a handler is reset by exec itself.
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
                file_actions=_streams(streams),
            )
        except OSError as error:
            raise not_started(command[0], error, env.get("PATH")) from None
    return Child(pid, own_session=own_session)


def _streams(streams: tuple[int, ...] | None) -> list[tuple[Any, ...]]:
    if streams is None:
        return []
    actions = [(os.POSIX_SPAWN_DUP2, fd, n) for fd, n in zip(streams, (1, 2, 0), strict=False)]
    if len(streams) > 2:  # noqa: PLR2004
        return actions
    return [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *actions]


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


def not_started(program: str, error: OSError, path: str | None) -> NotStarted:
    """Say why a program could not be executed."""
    if error.errno != errno.ENOENT:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.ENOEXEC:
            reason += "; a script needs a first line such as #!/bin/sh"
        return NotStarted(Exit.CANNOT_EXECUTE, f"cannot execute {program!r}: {reason}")
    if shutil.which(program, path=path):
        message = f"cannot execute {program!r}: the interpreter in its first line does not exist"
    elif any(char in program for char in " |;&<>"):
        message = f"command not found: {program!r}; for a shell's line write: -- sh -c {program!r}"
    else:
        message = f"command not found: {program!r}; is it on PATH?"
    return NotStarted(Exit.NOT_FOUND, message)
