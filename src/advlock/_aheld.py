"""What the async client hands out: the hold on a lock, and the ways to enter one."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from advlock._held import BaseHeld, Entry, each, join_errors, refuse_generator
from advlock.errors import ConfigError, LockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

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


class _AsyncEntry(Entry[H]):
    __slots__ = ()

    _client: AsyncLocks

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
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        self._free.append(True)
        if isinstance(held, AsyncHeld):
            try:
                await self._client._let_go(held)
            except LockError as failure:
                body = join_errors(body, failure)
        else:
            for error in await self._client._let_go_all(each(held)):
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
        return self._client._hold_all(self._name, wait=self._wait)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Hold the locks around each call of the async `function`."""
        return self._around(function)
