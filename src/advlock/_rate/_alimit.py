"""A rate limit, for tasks. Its twin is `_limit.py`; what is asked is in `_plan.py`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from advlock import _schema
from advlock._aloop import by
from advlock._client import wait_seconds
from advlock._connect import ended_at_once
from advlock._plan import Expired, Refused, SessionLost, pauses
from advlock._rate import _desk, _plan
from advlock._rate._base import BaseLimit
from advlock._rate._desk import Request
from advlock._rate._rate import permits
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from advlock._client import Seconds
    from advlock._plan import SessionPlan
    from advlock._rate._desk import Desk
    from advlock._rate._rate import Permit, RateStats

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_UP = 0.25  # seconds after which to look whether the client was closed
_A_WHILE = 0.5  # so long cleaning up may take


class AsyncRateLimit(BaseLimit):
    """So many permits in any stretch of time of one length; parameters are those of `RateLimit`."""

    __module__ = "advlock"

    # -- the verbs -------------------------------------------------------------------------------

    async def acquire(self, n: int = 1, *, wait: Seconds = None) -> Permit:
        """Take `n` permits, as soon as they are to be had; all of them at once.

        Parameters and errors are those of `RateLimit.acquire`. A cancellation may cost permits.
        """
        seconds = wait_seconds(wait)
        permit = await self._take(n, seconds, patient=True)
        if not permit:
            raise _desk.refused(self._name, self._rate, permit, seconds or 0.0)
        return permit

    async def try_acquire(self, n: int = 1) -> Permit:
        """Take `n` permits if they are to be had now; false otherwise, with `retry_after`."""
        return await self._take(n, None, patient=False)

    async def test(self, n: int = 1) -> bool:
        """Tell whether `n` permits are to be had now, and take none."""
        n = permits(n, self._rate)
        after = await self._ask(lambda _, key: _plan.look(self._rate, key, n), None)
        return after <= 0

    async def stats(self) -> RateStats:
        """Ask how many permits are left, and when all will be free again."""
        return await self._ask(lambda _, key: _plan.stats(self._rate, key), None)

    async def reset(self) -> None:
        """Forget what was granted, for everybody: all permits are free at once."""
        await self._ask(lambda _, key: _plan.forget(key), None)

    async def __aenter__(self) -> Self:
        """Take one permit."""
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Do nothing: a permit is used up."""

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Take one permit before each call."""

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            await self.acquire()
            return await function(*args, **kwargs)

        return call

    # -- taking ----------------------------------------------------------------------------------

    async def _take(self, n: int, wait: float | None, *, patient: bool) -> Permit:
        self._client._check_open()
        loop = self._client._bind().loop
        desk = self._desk_for(loop, asyncio.Lock)
        deadline = None if wait is None else time.monotonic() + wait
        request = Request(permits(n, self._rate), deadline, patient=patient)
        naps = pauses()
        trouble = None
        try:
            desk.enter(request)
            while request.granted is None:
                try:
                    await self._in_turn(desk, request)
                    pause = request.wake_at() - time.monotonic()
                except DatabaseUnavailable as error:
                    if not (patient and (request.answered or error.sqlstate == _plan.BUSY)):
                        raise
                    trouble = error
                    pause = next(naps)
                request.give_up(time.monotonic())
                if request.granted is None:
                    await self._nap(pause, deadline)
        finally:
            desk.leave(request)
        if request.granted:
            await self._nap(request.due - time.monotonic(), None)
        elif not request.answered:
            raise trouble or _plan.unanswered(self._name, wait or 0.0)
        return request.permit(time.monotonic())

    async def _nap(self, seconds: float, deadline: float | None) -> None:
        until = time.monotonic() + seconds
        until = until if deadline is None else min(until, deadline)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK_UP))
            self._client._check_open()

    async def _in_turn(self, desk: Desk, request: Request) -> None:
        soon = self._client._at_least(request.deadline, time.monotonic())
        with contextlib.suppress(Expired):
            await by(soon, self._serve_in_turn(desk, request, soon))

    async def _serve_in_turn(self, desk: Desk, request: Request, deadline: float | None) -> None:
        async with desk.turn:
            if request.is_due(time.monotonic()):
                await self._serve(desk, deadline)

    async def _serve(self, desk: Desk, deadline: float | None) -> None:
        """With the turn: ask for everybody in the queue."""
        batch = desk.batch()
        answers, total = await self._ask(_desk.asking(desk, batch, time.monotonic()), deadline)
        desk.settle(batch, answers, time.monotonic())
        if desk.sweeps(answers, time.monotonic()):
            swept = min(desk.swept, total)
            with contextlib.suppress(Refused, SessionLost, Expired, DatabaseUnavailable):
                limit = time.monotonic() + _A_WHILE
                clean = self._ask(lambda _, key: _plan.sweep(key, swept), None, kindly=True)
                desk.note_swept(*await by(limit, clean))

    # -- asking ----------------------------------------------------------------------------------

    async def _ask(
        self,
        plan: Callable[[Any, int], SessionPlan[R]],
        deadline: float | None,
        *,
        kindly: bool = False,
    ) -> R:
        """Drive a plan on the client's session; once more where it is worth another try.

        Args:
            plan: Makes the plan for a session and the key of the lock.
            deadline: When to give up, in `time.monotonic` seconds.
            kindly: Leave a refusal to the caller.
        """
        client, tries = self._client, _desk.Tries()
        client._check_open()
        while True:
            key = (await client._key(_desk.lock_of(self._name), deadline)).value
            sessions = client._bind()
            session = sessions.shared or await sessions.connect(deadline)
            try:
                if not _desk.is_ready(client):
                    await client._beside(session, _schema.prepare(_schema.RATE))
                    _desk.note_ready(client, there=True)
                answer: R = await client._beside(session, plan(session, key))
            except SessionLost as error:
                client._pooler_may_differ = True
                if not tries.again():
                    raise ended_at_once(error) from None
            except Refused as refusal:
                if kindly:
                    raise
                if not tries.mended(client, session, refusal):
                    raise _plan.judge(refusal, self._name, _desk.role_of(session)) from None
            else:
                return answer
