"""A task that runs on the leader, and the campaign around it, for as long as a lifespan lasts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final

from advlock import _observe
from advlock._backoff import Backoff
from advlock._duration import brief
from advlock.errors import DatabaseUnavailable, LockError, LockLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from advlock._alocks import AsyncLocks
    from advlock._key import Name
    from advlock._leader._aleader import AsyncTerm

    Task = Callable[[AsyncTerm], Awaitable[object]]

# Seconds from a crash to the next campaign, doubling; as `advlock lead` leaves them to others.
FIRST: Final = 1.0
LONGEST: Final = 60.0
STEADY: Final = 60.0  # a task that ran so long has nothing to do with earlier crashes


class Candidate:
    """Campaigns, runs the task while it leads, and campaigns again, whatever happens.

    Args:
        client: For the lock; nothing here closes it.
        name: Of the lead.
        task: What to await while we lead.
        pause: Seconds to leave the lead to others after the task has returned.
        stop: Seconds that the task has to end in, once it was cancelled at the end.
    """

    def __init__(
        self, client: AsyncLocks, name: Name, task: Task, *, pause: float, stop: float
    ) -> None:
        self._leader = client.leader(name, pause=0)  # the pauses are ours
        self._name = name
        self._task = task
        self._pause = pause
        self._stop = stop
        self._closing = asyncio.Event()
        self._closed_at = 0.0
        self._backoff = Backoff()  # while there is no database
        self._crashes = 0
        self._told = ""
        # Referred to here, because a loop keeps no task alive by itself.
        self._runner = asyncio.create_task(self._run(), name=f"advlock while_leader {name!r}")

    @property
    def ended(self) -> bool:
        """Whether neither the task nor the campaign runs any more."""
        return self._runner.done()

    def close(self) -> None:
        """Have the task cancelled, and the campaign ended. Never waits."""
        if not self._closing.is_set():
            self._closing.set()
            self._closed_at = time.monotonic()
        self._leader.close()

    async def aclose(self) -> None:
        """Close it, and wait until the task has ended: not longer than `stop` after `close`."""
        self.close()
        left = self._closed_at + self._stop - time.monotonic()
        await asyncio.wait([self._runner], timeout=max(0.0, left))
        if not self.ended:
            what = (
                "the task of the leader of %r has not ended within %s of being cancelled; it keeps "
                "the lead until it ends, or this process does"
            )
            self._tell(logging.ERROR, "leader.task_stuck", what, brief(self._stop))

    # -- inside ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing.is_set():
            pause = await self._lead()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)

    async def _lead(self) -> float:
        """Campaign, and lead once; the seconds to leave the lead to others afterwards."""
        pause = 0.0
        try:
            async with self._leader.term(cancel_on_lost=True) as term:
                self._told = ""
                self._backoff.note(time.monotonic(), failed=False)
                pause = await self._work(term)
        except LockLost:  # which the leader has told
            return max(pause, self._refused())
        except LockError as error:
            if self._closing.is_set():
                return 0.0
            self._trouble(error)
            return self._refused()
        return pause

    async def _work(self, term: AsyncTerm) -> float:
        began = time.monotonic()
        try:
            await self._task(term)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise  # the term is over, or the loop
            return self._crashed(began, None)  # it has awaited something that was cancelled
        except LockLost as error:
            return 0.0 if term.lost else self._crashed(began, error)
        except Exception as error:  # noqa: BLE001 - the workers go on, and so does the lead
            return self._crashed(began, error)
        self._crashes = 0
        if not term.lost:
            what = "the task of the leader of %r has returned; campaigning again in %s"
            self._tell(logging.INFO, "leader.task_returned", what, brief(self._pause))
        return self._pause

    def _crashed(self, began: float, error: BaseException | None) -> float:
        if time.monotonic() - began >= STEADY:
            self._crashes = 0
        pause = min(LONGEST, FIRST * 2.0**self._crashes)
        self._crashes = min(self._crashes + 1, 16)
        pause *= random.uniform(0.75, 1.0)  # noqa: S311 - jitter
        what = "the task of the leader of %r has failed: %s; campaigning again in %s"
        why = "cancelled from inside" if error is None else f"{type(error).__name__}: {error}"
        self._tell(logging.ERROR, "leader.task_failed", what, why, brief(pause), error=error)
        return float(max(self._pause, pause))

    def _refused(self) -> float:
        now = time.monotonic()
        self._backoff.note(now, failed=True)
        return self._backoff.pause(now)

    def _trouble(self, error: LockError) -> None:
        """Tell, once, that one cannot campaign: an outage, an unsafe server, a wrong address."""
        if self._told != str(error):
            self._told = str(error)
            level = logging.WARNING if isinstance(error, DatabaseUnavailable) else logging.ERROR
            self._tell(level, "leader.unavailable", "cannot campaign for %r yet: %s", error)

    def _tell(
        self, level: int, event: str, message: str, *more: Any, error: BaseException | None = None
    ) -> None:
        facts = {"event": event, "lock": self._name}
        _observe.tell(level, facts, message, self._name, *more, exc_info=error)
