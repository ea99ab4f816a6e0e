"""The async client. Its twin is `_locks.py`: the same verbs, the same parameters."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from advlock._acore import AsyncCore, wake
from advlock._aheld import AsyncAttempt, AsyncHold, AsyncHoldAll
from advlock._all import several
from advlock._client import names_of, wait_seconds
from advlock._lock import AsyncLock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._inspect._tree import Snapshot
    from advlock._key import Name
    from advlock._leader._aleader import AsyncLeader
    from advlock._once._aentry import AsyncOnce
    from advlock._rate._alimit import AsyncRateLimit
    from advlock._semaphore._asemaphore import AsyncSemaphore
    from advlock._xact import AsyncConnection as Connection


class AsyncLocks(AsyncCore):
    """A client for tasks of one event loop; parameters and errors are those of `Locks`."""

    __module__ = "advlock"

    @classmethod
    def from_engine(
        cls,
        engine: Engine | AsyncEngine,
        *,
        libpq: Mapping[str, object] | None = None,
        **settings: Any,
    ) -> Self:
        """Make a client for the database of a SQLAlchemy engine; its sessions are its own.

        Parameters and errors are those of `Locks.from_engine`. A `do_connect` listener, or a
        password that is a function, runs on the loop.
        """
        from advlock._sqlalchemy._address import client_of  # noqa: PLC0415 - for those who have one

        return client_of(cls, engine, libpq, settings)

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
        self,
        names: Iterable[Name],
        *,
        wait: Seconds = None,
        shared: Iterable[Name] = (),
        cancel_on_lost: bool = False,
    ) -> AsyncHoldAll:
        """Hold several locks or none; parameters and errors are those of `Locks.hold_all`."""
        return AsyncHoldAll(
            self, several(names, shared), wait=wait_seconds(wait), cancel_on_lost=cancel_on_lost
        )

    def semaphore(self, name: str, slots: int) -> AsyncSemaphore:
        """Return a semaphore: at most `slots` holders at a time, in all processes together.

        Parameters and errors are those of `Locks.semaphore`.
        """
        from advlock._semaphore._asemaphore import AsyncSemaphore  # noqa: PLC0415 - few clients do

        return AsyncSemaphore(self, name, slots)

    def lock(self, name: Name, *, shared: bool = False) -> AsyncLock:
        """Return a drop-in for `asyncio.Lock` whose other holders may be on other machines."""
        return AsyncLock(self, name, shared=shared)

    def leader(self, name: Name, *, pause: Seconds = 1.0) -> AsyncLeader:
        """Stand for the lead of `name`: of all candidates one leads at a time; see `Locks`."""
        from advlock._leader._aleader import AsyncLeader  # noqa: PLC0415 - as there

        return AsyncLeader(self, name, pause=pause)

    def once(
        self,
        name: str,
        *,
        per: Seconds = None,
        wait: Seconds = None,
        connection: Connection | None = None,
    ) -> AsyncOnce:
        """Do something once, ever: exactly one does it, the others wait until it is done.

        Parameters and errors are those of `Locks.once`.
        """
        from advlock._once import _aentry, _plan  # noqa: PLC0415 - most clients only lock

        wanted = _plan.want(name, per)
        return _aentry.AsyncOnce(self, wanted, wait=wait_seconds(wait), connection=connection)

    def rate_limit(
        self, name: str, limit: int | str, per: Seconds = None, *, smooth: bool = False
    ) -> AsyncRateLimit:
        """Limit a rate: never more than `limit` permits in any stretch of `per`; see `Locks`."""
        from advlock._rate._alimit import AsyncRateLimit  # noqa: PLC0415 - most clients only lock
        from advlock._rate._rate import rate  # noqa: PLC0415 - as well

        return AsyncRateLimit(self, name, rate(limit, per, smooth=smooth))

    async def holders(self, name: Name) -> list[Holder]:
        """Ask the server who holds a lock, and who waits for it in the order of the queue."""
        self._check_open()
        return await self._ask_holders(await self._key(name, None), None)

    async def inspect(self, names: Iterable[Name] = (), *, all_databases: bool = False) -> Snapshot:
        """Look at all locks of the database: what each is called, who holds it, and who waits.

        Parameters and errors are those of `Locks.inspect`.
        """
        self._check_open()
        return await self._inspect(names_of(names), all_databases=all_databases)

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
