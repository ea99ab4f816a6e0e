"""The memory server: a thread with an event loop of its own, which listens on a Unix socket."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import secrets
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from advlock.testing._backend import Backend
from advlock.testing._table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PORT: Final = 5432
_LONGEST: Final = 107  # bytes of a socket's path, on Linux; others have a few less
# Below the largest that a process may have (`_set_up.looks_direct`), and likely to be nobody's: a
# test that sends a signal to a server process of PostgreSQL's must not hit somebody else's.
_FIRST_PID: Final = 4_000_001


class Server:
    """All sessions and their locks. What is asked of it is done in its own thread, at once.

    Attributes:
        folder: Where its socket is; nobody else may enter it.

        refuses: Why no new connection is accepted; empty where they are.

        system: What tells it from every other server.
    """

    def __init__(self) -> None:
        self.backends: set[Backend] = set()
        self.table = Table(lambda session: session.granted())  # type: ignore[attr-defined]
        self.tokens = itertools.count(1)
        self.refuses = ""
        self.system = secrets.randbits(62)
        self.folder = _folder()
        self._pids = itertools.count(_FIRST_PID)
        self._errands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._frozen = False
        self._stopping = False
        self.loop = asyncio.new_event_loop()
        started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._serve, args=(started,), name="advlock memory server", daemon=True
        )
        self._thread.start()
        if (error := started.get()) is not None:
            _remove(self.folder, os.getpid())
            raise error
        # For who makes one and forgets it.
        self._tidy = weakref.finalize(self, _remove, self.folder, os.getpid())

    def next_pid(self) -> int:
        """Return the number of one more session."""
        return next(self._pids)

    def cancel(self, pid: int, secret: int) -> None:
        """Cancel what a session waits for, for one who knows its secret."""
        for backend in list(self.backends):
            if backend.pid == pid and backend.secret == secret:
                backend.cancel()

    @property
    def alive(self) -> bool:
        """Whether it was not stopped yet."""
        return self._thread.is_alive()

    # -- from other threads ----------------------------------------------------------------------

    def do(self, errand: Callable[[], T]) -> T:
        """Have something done by the server's thread, also while it is frozen; wait for it.

        Raises:
            RuntimeError: the server was stopped.
        """
        if not self.alive:
            msg = "this memory server is closed; make a new one"
            raise RuntimeError(msg)
        done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                done.put((errand(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                done.put((None, error))

        self._errands.put(run)
        self.loop.call_soon_threadsafe(self._run_errands)
        result, error = done.get()
        if error is not None:
            raise error
        outcome: T = result
        return outcome

    def freeze(self, frozen: bool) -> None:  # noqa: FBT001
        """Stop answering, or go on."""

        def change() -> None:
            self._frozen = frozen

        self.do(change)

    def stop(self) -> None:
        """End all sessions, and the thread. A second call does nothing."""
        if not self.alive:
            return

        def stop() -> None:
            self._frozen, self._stopping = False, True

        self.do(stop)
        self._thread.join()
        self._tidy()

    # -- the server's thread ---------------------------------------------------------------------

    def _run_errands(self) -> None:
        """Do what is asked; while the server is frozen that, and nothing else."""
        while self._frozen or not self._errands.empty():
            self._errands.get()()
        if self._stopping:
            self.loop.stop()

    def _serve(self, started: queue.SimpleQueue[BaseException | None]) -> None:
        path = self.folder / f".s.PGSQL.{PORT}"
        loop = self.loop
        try:
            listener = loop.run_until_complete(
                loop.create_unix_server(lambda: Backend(self), str(path), backlog=100)  # type: ignore[arg-type,return-value]
            )
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            loop.close()
            started.put(error)
            return
        started.put(None)
        loop.run_forever()
        listener.close()
        for backend in list(self.backends):
            backend.terminate("57P01", "terminating connection due to administrator command")
        loop.run_until_complete(asyncio.sleep(0))  # their transports close in the next turn
        loop.run_until_complete(listener.wait_closed())
        loop.close()


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child ends, too
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    for parent in (None, "/tmp", "/var/tmp"):  # noqa: S108 - the folder in it is ours alone
        folder = Path(tempfile.mkdtemp(prefix="advlock-memory-", dir=parent))
        if len(str(folder / f".s.PGSQL.{PORT}")) < _LONGEST:
            break
        folder.rmdir()
    return folder
