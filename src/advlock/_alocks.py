"""The async client. Its twin is `_locks.py`: the same verbs, the same parameters."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from advlock._acore import AsyncCore, wake
from advlock._aheld import AsyncAttempt, AsyncHold, AsyncHoldAll
from advlock._client import names_of, wait_seconds
from advlock._lock import AsyncLock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._key import Name


class AsyncLocks(AsyncCore):
    """A client for tasks of one event loop; parameters and errors are those of `Locks`."""

    __module__ = "advlock"

    # -- the verbs -------------------------------------------------------------------------------

    def hold(
        self,
        name: Name,
        *,
        wait: Seconds = None,
        shared: bool = False,
        reentrant: bool = False,
        cancel_on_lost: bool = False,
    ) -> AsyncHold:
        """Hold a lock: an async context manager that enters when granted, and a decorator.

        Parameters and errors are those of `Locks.hold`; `reentrant` goes by task.
        `cancel_on_lost` cancels the body when the lock is lost; the block then raises `LockLost`,
        as that of `asyncio.timeout` raises `TimeoutError`. A body that does not await is not
        reached, nor is a thread that it waits for.
        """
        return AsyncHold(
            self,
            name,
            wait=wait_seconds(wait),
            shared=shared,
            reentrant=reentrant,
            cancel_on_lost=cancel_on_lost,
        )

    def attempt(
        self,
        name: Name,
        *,
        shared: bool = False,
        reentrant: bool = False,
        cancel_on_lost: bool = False,
    ) -> AsyncAttempt:
        """Take a lock only if it is free now: enters at once, with an `AsyncHeld` or None."""
        return AsyncAttempt(
            self, name, shared=shared, reentrant=reentrant, cancel_on_lost=cancel_on_lost
        )

    def hold_all(
        self, names: Iterable[Name], *, wait: Seconds = None, cancel_on_lost: bool = False
    ) -> AsyncHoldAll:
        """Hold several locks or none; enters with a list, in the order of `names`."""
        return AsyncHoldAll(
            self, names_of(names), wait=wait_seconds(wait), cancel_on_lost=cancel_on_lost
        )

    def lock(self, name: Name, *, shared: bool = False) -> AsyncLock:
        """Return a drop-in for `asyncio.Lock` whose other holders may be on other machines."""
        return AsyncLock(self, name, shared=shared)

    async def holders(self, name: Name) -> list[Holder]:
        """Ask the server who holds a lock, and who waits for it in the order of the queue."""
        self._check_open()
        return await self._ask_holders(await self._key(name, None), None)

    async def close(self) -> None:
        """Release every lock and close every session. Idempotent."""
        self._closed = True
        waiting = [t.waker for t in self._ledger.tickets() if t.waker is not None]
        try:
            if self._sessions is not None:
                await self._sessions.close(self._ledger.carried)
        finally:
            for waker in waiting:
                wake(waker)

    async def __aenter__(self) -> Self:
        """Return the client; it connects on first use."""
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    def __del__(self) -> None:
        sessions = getattr(self, "_sessions", None)
        if sessions is not None and not self._closed and sessions.open:
            if sessions.loop.is_closed():
                sessions.end("the client was dropped")
            else:
                sessions.loop.call_soon_threadsafe(sessions.end, "the client was dropped")
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)
