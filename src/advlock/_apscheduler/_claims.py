"""A thread with an event loop and a client: all claims of an executor live there.

Not in the scheduler's threads: a run that another scheduler is at is waited for, and that must not
take one of the workers. And not in the loop of an `AsyncIOScheduler`: a job that blocks it must not
lose the claims of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from advlock._alocks import AsyncLocks
from advlock._apscheduler import _sql
from advlock._once import _plan
from advlock._plan import Refused, SessionLost, Step
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from advlock._once._aentry import AsyncOnce

PREFIX: Final = "apscheduler:"
# For how long it is known that a tick was run, in seconds: nobody asks for it so late.
WINDOW: Final = 86_400.0
_PRUNE_EVERY: Final = 600.0  # seconds


class Claims:
    """The thread, its loop and its client.

    Attributes:
        leaving: Whether no tick is begun any more.

        waiting: The tasks that wait, and may be ended.
    """

    def __init__(self, dsn: str | None, settings: dict[str, Any]) -> None:
        self._locks = AsyncLocks(dsn, **settings)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._prune_at = 0.0
        self._closing = False
        self.leaving = False
        self.waiting: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="advlock-apscheduler", daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where the claims live."""
        return self._loop

    def once(self, name: str, wait: float | None) -> AsyncOnce:
        """Claim a tick."""
        return self._locks.once(PREFIX + name, per=WINDOW, wait=wait)

    def begin(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a task begun in the loop; from any thread. Not any more when it is closed.

        APScheduler's own thread may still be at a round when `shutdown` has gone through.
        """
        self.call(self._begin, make)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call it in the loop's thread; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits for it
            self._loop.call_soon_threadsafe(function, *args)

    def leave(self) -> None:
        """Begin no tick any more, and leave those that are waited for to others."""
        self.leaving = True
        self.call(self._give_up)

    async def prune(self) -> None:
        """Forget old ticks, now and then; whatever goes wrong, somebody else will."""
        if self._loop.time() < self._prune_at:
            return
        self._prune_at = self._loop.time() + _PRUNE_EVERY
        session = self._locks._bind().shared
        if session is not None:
            prefix = f"{self._locks.namespace}:{PREFIX}" if self._locks.namespace else PREFIX
            # Not by itself: whoever locks the table would stop the heartbeats of all claims.
            plan = _plan._write(Step(_sql.PRUNE, (prefix, repr(WINDOW))))
            with contextlib.suppress(LockError, Refused, SessionLost):
                await self._locks._beside(session, plan)

    def close(self, timeout: float | None) -> None:
        """Let what is begun come to its end, and close; wait for that so many seconds."""
        self.call(self._finish_soon)
        if timeout is not None:
            self._thread.join(timeout)

    def _give_up(self) -> None:
        for task in self.waiting:
            task.cancel()

    def _begin(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finish_soon(self) -> None:
        if not self._closing:
            self._closing = True
            self._finishing = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
            with contextlib.suppress(LockError):
                await self._locks.close()
        finally:
            self._loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
