"""Drop-ins for `threading.Lock` and `asyncio.Lock`, whose other holders may be elsewhere."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from advlock._held import join_errors
from advlock.errors import LockError, LockNotHeld, LockTimeout

if TYPE_CHECKING:
    from types import TracebackType

    from advlock._alocks import AsyncLocks
    from advlock._held import Held
    from advlock._key import Name
    from advlock._locks import Locks


class _BaseLock:
    """What the two drop-ins share."""

    __slots__ = ("__weakref__", "_client", "_held", "_name", "_shared")

    def __init__(self, client: Any, name: Name, *, shared: bool) -> None:
        self._client = client
        self._name = name
        self._shared = shared
        # At most one; `list.pop` lets only one of several releases have it.
        self._held: list[Any] = []

    def __repr__(self) -> str:
        """Show it as the stdlib shows its own."""
        state = "locked" if self._held else "unlocked"
        return f"<{state} advlock.{type(self).__name__} {self._name!r} at {id(self):#x}>"

    def locked(self) -> bool:
        """Whether this lock object is held; no question to the server. See also `holders`."""
        return bool(self._held)

    def _take(self) -> Any:
        try:
            return self._held.pop()
        except IndexError:
            msg = f"release unlocked lock: {self._name!r} is not held by this lock object"
            raise LockNotHeld(msg) from None


def _seconds(blocking: bool, timeout: float) -> float | None:  # noqa: FBT001
    """Read `acquire`'s arguments as `threading.Lock` does, with its errors."""
    if not blocking and timeout != -1:
        msg = "can't specify a timeout for a non-blocking call"
        raise ValueError(msg)
    if math.isnan(timeout):
        msg = "Invalid value NaN (not a number)"
        raise ValueError(msg)
    if math.isinf(timeout):
        msg = "timestamp too large to convert to C _PyTime_t"
        raise OverflowError(msg)
    if timeout < 0 and timeout != -1:
        msg = "timeout value must be a non-negative number"
        raise ValueError(msg)
    if timeout > threading.TIMEOUT_MAX:
        msg = "timeout value is too large"
        raise OverflowError(msg)
    return None if timeout == -1 else timeout


class Lock(_BaseLock):
    """`threading.Lock` across machines: not re-entrant, releasable from any thread."""

    __slots__ = ()
    __module__ = "advlock"

    _client: Locks
    _held: list[Held]

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002
        """Take the lock.

        Args:
            blocking: False does not wait.
            timeout: How long to wait at most, in seconds; -1 for ever.

        Returns:
            Whether the lock is held now.

        Raises:
            ValueError: a timeout without blocking, or a negative one.
            OverflowError: a timeout beyond `threading.TIMEOUT_MAX`.
            DatabaseUnavailable: there is no session.
        """
        wait = _seconds(blocking, timeout)
        client, name, shared = self._client, self._name, self._shared
        if not blocking:
            held = client._attempt(name, shared=shared, owned=False)
            if held is None:
                return False
        else:
            try:
                held = client._hold(name, wait=wait, shared=shared, owned=False)
            except LockTimeout:
                return False
        self._held += [held]  # not a call: nothing may interrupt between this and the body
        return True

    def release(self) -> None:
        """Release the lock, from any thread; when it returns, the lock is free for everybody.

        Raises:
            LockNotHeld: this lock object does not hold it (a `RuntimeError`, as the stdlib's).
            LockLost: its session ended meanwhile.
        """
        self._client._let_go(self._take())

    def __enter__(self) -> bool:
        """Take the lock, however long that takes."""
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Release it; the body's own exception stays on top."""
        try:
            self.release()
        except LockError as error:
            if body is None:
                raise
            join_errors(body, error)


class AsyncLock(_BaseLock):
    """`asyncio.Lock` across machines: not re-entrant, releasable from any task."""

    __slots__ = ()
    __module__ = "advlock"

    _client: AsyncLocks

    async def acquire(
        self,
        blocking: bool = True,  # noqa: FBT001, FBT002
        timeout: float = -1,  # noqa: ASYNC109 - the contract's, as threading.Lock has it
    ) -> bool:
        """Take the lock. Parameters and errors are those of `Lock.acquire`."""
        wait = _seconds(blocking, timeout)
        client, name, shared = self._client, self._name, self._shared
        if not blocking:
            held = await client._attempt(name, shared=shared, owned=False)
            if held is None:
                return False
        else:
            try:
                held = await client._hold(name, wait=wait, shared=shared, owned=False)
            except LockTimeout:
                return False
        self._held.append(held)
        return True

    def release(self) -> None:
        """Release the lock; a plain call, as asyncio's.

        The unlock is sent at once and confirmed by the client; `async with` waits for that.

        Raises:
            LockNotHeld: this lock object does not hold it (a `RuntimeError`, as the stdlib's).
            LockLost: its session ended meanwhile.
        """
        self._client._let_go_soon(self._take())

    async def __aenter__(self) -> None:
        """Take the lock, however long that takes."""
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Release it for certain; the body's own exception stays on top."""
        try:
            await self._client._let_go(self._take())
        except LockError as error:
            if body is None:
                raise
            join_errors(body, error)
