"""Semaphores for tasks. The twin is `_semaphore.py`: the same verbs, the same parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from advlock._acore import wake
from advlock._aheld import _AsyncEntry
from advlock._client import wait_seconds
from advlock._held import join_errors
from advlock._semaphore._seek import aacquire, atimed_out
from advlock._semaphore._semaphore import BaseSemaphore, _patience
from advlock._semaphore._slot import AsyncSlot
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from advlock._client import Seconds

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H")


class AsyncSemaphore(BaseSemaphore):
    """At most `slots` holders at a time, in all processes together; made by `AsyncLocks.semaphore`.

    Also a drop-in for `asyncio.BoundedSemaphore`. Parameters and errors are those of `Semaphore`.
    """

    __slots__ = ()
    __module__ = "advlock"

    def hold(self, *, wait: Seconds = None, cancel_on_lost: bool = False) -> AsyncSlotHold:
        """Hold a slot: an async context manager that enters with an `AsyncSlot`, and a decorator.

        See `Semaphore.hold`; for `cancel_on_lost`, see `AsyncLocks.hold`.
        """
        return AsyncSlotHold(
            self._client, self, wait=wait_seconds(wait), cancel_on_lost=cancel_on_lost
        )

    def attempt(self, *, cancel_on_lost: bool = False) -> AsyncSlotAttempt:
        """Take a slot only if one is free now: enters at once, with an `AsyncSlot` or None."""
        return AsyncSlotAttempt(self._client, self, cancel_on_lost=cancel_on_lost)

    async def acquire(
        self,
        blocking: bool = True,  # noqa: FBT001, FBT002
        timeout: float | None = None,  # noqa: ASYNC109 - as threading.Semaphore has it
    ) -> bool:
        """Take a slot. Parameters and errors are those of `Semaphore.acquire`."""
        wait, patient = _patience(blocking, timeout)
        slot = await aacquire(self, wait, patient=patient)
        if slot is not None:
            self._held.append(slot)
            return True
        self._tell_none(wait if patient else None)
        return False

    def release(self, n: int = 1) -> None:
        """Give back what was acquired last; a plain call, as asyncio's.

        It is sent at once and confirmed by the client; `async with` waits for that.

        Raises:
            ValueError: more than was acquired (a `LockNotHeld`, too), or less than one.
            LockLost: its session ended meanwhile.
        """
        errors: list[LockError] = []
        for slot in self._take(n):
            for part in slot._parts():
                try:
                    self._client._let_go_soon(part)
                except LockError as error:
                    errors += [error] if part.tells else []
            self._left(slot)
        if errors:
            raise errors[0]

    async def __aenter__(self) -> None:
        """Take a slot, however long that takes."""
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give it back for certain; the body's own exception stays on top."""
        slots = self._take(1)
        try:
            errors = await self._client._let_go_all(slots[0]._parts())
        finally:
            self._left(slots[0])
        if errors:
            if body is None:
                raise errors[0]
            join_errors(body, errors[0])

    async def _hold(self, wait: float | None) -> AsyncSlot:
        slot = await aacquire(self, wait, patient=True)
        if slot is None:
            raise await atimed_out(self, wait or 0.0)
        return slot

    def _wake(self, waker: Any) -> None:
        wake(waker)


class _AsyncSlotEntry(_AsyncEntry[H]):
    __slots__ = ()

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give it back; the body's own exception stays on top."""
        slot = self._held
        try:
            await super().__aexit__(kind, body, tb)
        finally:
            self._name._left(slot)


class AsyncSlotHold(_AsyncSlotEntry[AsyncSlot]):
    """`AsyncSemaphore.hold`: enters when there is a slot."""

    __slots__ = ()

    def _enter(self) -> Awaitable[AsyncSlot]:
        slot: Awaitable[AsyncSlot] = self._name._hold(self._wait)
        return slot

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Hold a slot around each call of the async `function`."""
        return self._around(function)


class AsyncSlotAttempt(_AsyncSlotEntry["AsyncSlot | None"]):
    """`AsyncSemaphore.attempt`: enters at once, with an `AsyncSlot` or None."""

    __slots__ = ()

    def _enter(self) -> Awaitable[AsyncSlot | None]:
        return aacquire(self._name, None, patient=False)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R | None]]:
        """Hold a slot around each call of `function`; skip it, with None, where none is free."""
        return self._around(function)
