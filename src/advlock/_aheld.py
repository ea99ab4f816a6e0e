"""What the async client hands out: the hold on a lock, and the ways to enter one."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from advlock._held import BaseHeld, Entry, each, join_errors, refuse_generator
from advlock.errors import ConfigError, LockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from advlock._alocks import AsyncLocks

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H")


class AsyncHeld(BaseHeld):
    """A lock that this process holds, as far as it knows."""

    __slots__ = ()
    __module__ = "advlock"

    async def token(self) -> int:
        """Return this hold's fencing token: greater than that of every earlier holder.

        See `Held.token`.
        """
        token: int = await self._client._token(self._ticket)
        return token


class _Guard:
    """Cancels the task that is inside, once, when a lock of it is lost; as `asyncio.timeout`."""

    __slots__ = ("_cancelling", "_fired", "_loop", "_over", "_task")

    def __init__(self, held: list[AsyncHeld]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = task.get_loop()
        self._cancelling = task.cancelling()
        self._fired = self._over = False
        for one in held:
            one.on_lost(self._lost)

    def _lost(self, held: AsyncHeld) -> None:
        # Not at once: it may be the task itself that looked, and it would be cancelled at its next
        # `await`, wherever that is.
        self._loop.call_soon(self._cancel, f"the lock {held.name!r} was lost")

    def _cancel(self, why: str) -> None:
        if not (self._fired or self._over):
            self._fired = True
            self._task.cancel(why)

    def leave(self, body: BaseException | None) -> bool:
        """Take the cancellation back; tell whether `body` is ours, and nobody else's."""
        self._over = True
        if not self._fired:
            return False
        ours = self._task.uncancel() <= self._cancelling
        return ours and isinstance(body, asyncio.CancelledError)


class _AsyncEntry(Entry[H]):
    __slots__ = ("_cancel_on_lost", "_guard")

    _client: AsyncLocks

    def __init__(  # noqa: PLR0913 - as `Entry`
        self,
        client: Any,
        name: Any,
        *,
        wait: float | None = None,
        shared: bool = False,
        reentrant: bool = False,
        cancel_on_lost: bool = False,
    ) -> None:
        super().__init__(client, name, wait=wait, shared=shared, reentrant=reentrant)
        self._cancel_on_lost = cancel_on_lost
        self._guard: _Guard | None = None

    def _again(self) -> Self:
        again = super()._again()
        again._cancel_on_lost = self._cancel_on_lost
        return again

    # Not a coroutine of its own: every level of them costs.
    def _enter(self) -> Awaitable[H]:
        raise NotImplementedError

    async def __aenter__(self) -> H:
        self._claim()
        try:
            held = self._held = await self._enter()
        except BaseException:
            self._free.append(True)
            raise
        if self._cancel_on_lost:
            self._guard = _Guard(each(held))
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        self._free.append(True)
        ours = self._guard is not None and self._guard.leave(body)
        self._guard = None
        errors: Sequence[LockError] = ()
        try:
            parts = each(held)
            if len(parts) == 1:
                await self._client._let_go(parts[0])
            else:
                errors = await self._client._let_go_all(parts)
        except LockError as failure:
            errors = (failure,)
        for error in errors:
            if ours:  # the task was cancelled because of this
                raise error from body
            body = join_errors(body, error)
        if kind is None and body is not None:
            raise body

    def _around(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[Any]]:
        refuse_generator(function)
        if not inspect.iscoroutinefunction(function):
            msg = f"{function!r} is not async: decorate it with Locks' hold or attempt"
            raise ConfigError(msg)

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with self._again() as held:
                return None if held is None else await function(*args, **kwargs)

        return wrapper


class AsyncHold(_AsyncEntry[AsyncHeld]):
    """`AsyncLocks.hold`: enters when granted."""

    __slots__ = ()

    def _enter(self) -> Awaitable[AsyncHeld]:
        return self._client._hold(
            self._name, wait=self._wait, shared=self._shared, reentrant=self._reentrant
        )

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Hold the lock around each call of the async `function`."""
        return self._around(function)


class AsyncAttempt(_AsyncEntry["AsyncHeld | None"]):
    """`AsyncLocks.attempt`: enters at once, with an `AsyncHeld` or None."""

    __slots__ = ()

    def _enter(self) -> Awaitable[AsyncHeld | None]:
        return self._client._attempt(self._name, shared=self._shared, reentrant=self._reentrant)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R | None]]:
        """Hold the lock around each call of `function`; skip it, with None, where it is busy."""
        return self._around(function)


class AsyncHoldAll(_AsyncEntry["list[AsyncHeld]"]):
    """`AsyncLocks.hold_all`: enters when every lock is granted."""

    __slots__ = ()

    def _enter(self) -> Awaitable[list[AsyncHeld]]:
        from advlock._all import ahold_all  # noqa: PLC0415 - it is made of what is here

        return ahold_all(self._client, self._name, wait=self._wait)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Hold the locks around each call of the async `function`."""
        return self._around(function)
