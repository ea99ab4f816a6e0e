"""Clients for a test, closed when it has ended."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advlock._alocks import AsyncLocks
    from advlock._locks import Locks


class Clients:
    """Makes clients of one database, and closes them."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._made: list[Locks | AsyncLocks] = []

    @property
    def dsn(self) -> str:
        """The address, for `ADVLOCK_DSN` and every other place that wants one."""
        return self._dsn

    def locks(self, **settings: Any) -> Locks:
        """Make a client for threads; it is closed when the test has ended.

        Args:
            **settings: Those of `Locks`, but for the address.
        """
        from advlock._locks import Locks  # noqa: PLC0415 - a client of the other kind may be wanted

        self._made.append(made := Locks(self.dsn, **settings))
        return made

    def async_locks(self, **settings: Any) -> AsyncLocks:
        """Make a client for asyncio; it is closed when the test has ended.

        Args:
            **settings: Those of `AsyncLocks`, but for the address.
        """
        from advlock._alocks import AsyncLocks  # noqa: PLC0415 - as above

        self._made.append(made := AsyncLocks(self.dsn, **settings))
        return made

    def close_clients(self) -> None:
        """Close every client that was made and is not closed yet."""
        while self._made:
            client = self._made.pop()
            close: Any = client.close if hasattr(client, "__enter__") else None
            if close is None:
                _drop(client)
            else:
                close()


def _drop(client: Any) -> None:
    """Close an async client without its event loop, which may be closed, or not run any more."""
    sessions = client._sessions
    if client._closed or sessions is None:
        return
    client._closed = True
    if sessions.recorder._timer is not None:
        sessions.recorder._timer.cancel()
    if sessions.loop.is_running():
        sessions.loop.call_soon_threadsafe(sessions.end, "the test is over")
        return
    with contextlib.suppress(RuntimeError):  # somebody still waited, in a loop that is closed
        sessions.end("the test is over")
