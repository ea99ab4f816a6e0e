"""Asking the database, beside the screen: in a thread, because a server may never answer."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from advlock._inspect._tree import Snapshot
    from advlock._plan import SessionPlan


class Source(Protocol):
    """What is asked: a `Window`."""

    def look(self) -> Snapshot:
        """Tell what is there now."""

    def ask(self, plan: SessionPlan[Any]) -> Any:
        """Drive a plan there."""


class Seen(NamedTuple):
    """A picture."""

    snapshot: Snapshot


class Lost(NamedTuple):
    """The database could not be asked; it will be again."""

    error: LockError


class Failed(NamedTuple):
    """Asking again would not help."""

    error: Exception


class Answered(NamedTuple):
    """What came of a plan: its verdict, or the error that it ended with."""

    plan: object
    verdict: Any


News = Seen | Lost | Failed | Answered


class Feed:
    """Asks again and again, and tells what it heard; all calls return at once.

    Args:
        opened: Connects; told whether to look at all databases.

        tell: Called in the feed's own thread with what is new.

        every: How long to wait between one answer and the next question, in seconds.

        all_databases: Whether to look at those of other databases, too.
    """

    def __init__(
        self,
        opened: Callable[[bool], AbstractContextManager[Source]],
        tell: Callable[[News], None],
        *,
        every: float = 1.0,
        all_databases: bool = False,
    ) -> None:
        self.every = every
        self.all_databases = all_databases
        self.paused = False
        self.asking_since: float | None = None
        self._opened, self._tell = opened, tell
        self._jobs: queue.SimpleQueue[SessionPlan[Any] | None] = queue.SimpleQueue()
        self._stopped = False
        # A daemon: `q` must not wait for a server that does not answer.
        self._thread = threading.Thread(target=self._run, name="advlock-top", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, within: float) -> None:
        """Have no more questions asked; wait at most `within` seconds for the one under way."""
        self._stopped = True
        self.look_now()
        self._thread.join(within)

    def look_now(self) -> None:
        """Ask at once, also while paused."""
        self._jobs.put(None)

    def do(self, plan: SessionPlan[Any]) -> None:
        """Drive a plan on the same session, then look what came of it."""
        self._jobs.put(plan)

    def silent_for(self) -> float:
        """How long the server owes an answer, in seconds; 0 where nothing was asked."""
        since = self.asking_since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        try:
            while not self._stopped:
                try:
                    self._serve(self.all_databases)
                except LockError as error:
                    self._tell(Lost(error))
                    if plan := self._wait():
                        self._tell(Answered(plan, error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the screen must hear of it
            self._tell(Failed(error))

    def _serve(self, all_databases: bool) -> None:  # noqa: FBT001 - handed on
        with contextlib.ExitStack() as stack:
            with self._asking():
                source = stack.enter_context(self._opened(all_databases))
            while not self._stopped and self.all_databases == all_databases:
                with self._asking():
                    snapshot = source.look()
                self._tell(Seen(snapshot))
                if plan := self._wait():
                    self._answer(source, plan)

    def _wait(self) -> SessionPlan[Any] | None:
        """Until it is time to ask again, or there is something else to do."""
        try:
            return self._jobs.get(timeout=None if self.paused else self.every)
        except queue.Empty:
            return None

    def _answer(self, source: Source, plan: SessionPlan[Any]) -> None:
        try:
            with self._asking():
                verdict = source.ask(plan)
        except Exception as error:  # noqa: BLE001 - the one who asked must hear of it
            verdict = error
        self._tell(Answered(plan, verdict))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        self.asking_since = time.monotonic()
        try:
            yield
        finally:
            self.asking_since = None
