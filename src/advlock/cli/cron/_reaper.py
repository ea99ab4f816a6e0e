"""Starts commands from many threads, and collects their ends in one."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from advlock.cli._child import Child, spawn
from advlock.cli.exits import signalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Reaped(Child):
    """A command's process whose end the reaper tells us."""

    def __init__(self, pid: int, ended: Callable[[], None]) -> None:
        super().__init__(pid, own_session=True)
        self.ended = ended

    def reap(self) -> None:
        """Do nothing: `code` is there as soon as the reaper has it."""


class Reaper:
    """The one place where processes of ours begin and end.

    It also collects the orphans that we adopt: we are their parent, as PID 1 would be.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._children: dict[int, Reaped] = {}
        self._some = threading.Event()
        threading.Thread(target=self._run, name="advlock-cron-reaper", daemon=True).start()

    def spawn(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        inherit: Iterable[int],
        streams: tuple[int, int],
        ended: Callable[[], None],
    ) -> Reaped:
        """Execute a command in a session of its own.

        Args:
            command: The program and its arguments.
            env: Its environment.
            inherit: File descriptors that it is to have.
            streams: Its stdout and stderr.
            ended: Called, from another thread, when it has ended.

        Raises:
            NotStarted: It could not be executed.
        """
        # One at a time: what is open to one new process must not be inherited by another, or that
        # would hold the first one's lock. And no end may be collected before we know whose it is.
        with self._mutex:
            started = spawn(command, env=env, inherit=inherit, own_session=True, streams=streams)
            child = self._children[started.pid] = Reaped(started.pid, ended)
        self._some.set()
        return child

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            with contextlib.suppress(ChildProcessError):  # none is left
                while True:
                    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
                    self._collect()

    def _collect(self) -> None:
        with self._mutex:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                child = self._children.pop(ended[0], None)
                if child is not None:
                    code = os.waitstatus_to_exitcode(ended[1])
                    child.code = code if code >= 0 else signalled(-code)
                    child.ended()
