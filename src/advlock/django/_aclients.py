"""The async clients: one for each event loop and alias, closed when the loop ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from advlock._alocks import AsyncLocks
from advlock.django import _settings
from advlock.django._address import address
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_Clients = dict[tuple[object, ...], AsyncLocks]
_loops: dict[asyncio.AbstractEventLoop, tuple[_Clients, AsyncGenerator[None]]] = {}


def async_locks(using: str = "default") -> AsyncLocks:
    """Return the client for an alias in this event loop, for async views, consumers and tasks.

    It connects on first use, and is closed when the loop is shut down. Under ASGI a process has one
    loop, and so one client; where Django runs an async view under WSGI, each request has a loop of
    its own, and connects anew: there, use `locks` in a sync view.

    Args:
        using: An alias of `DATABASES` whose engine is PostgreSQL.

    Raises:
        ConfigError: it is none, no event loop runs here, or `ADVLOCK` cannot be right.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError("no event loop runs here; use locks() in sync code") from None
    for other in list(_loops):  # a copy: under WSGI, other threads have loops of their own
        if other.is_closed():
            _loops.pop(other, None)  # without its shutdown: dropping the clients closes them
    if loop not in _loops:
        _loops[loop] = _begin(loop)
    clients, _ = _loops[loop]
    where = address(using)
    if where.identity not in clients:
        clients[where.identity] = AsyncLocks(where.dsn.conninfo, **_settings.read().options)
    client = clients[where.identity]
    client._dsn = where.dsn
    return client


def _begin(loop: asyncio.AbstractEventLoop) -> tuple[_Clients, AsyncGenerator[None]]:
    # An event loop has no hook for its end but this: `asyncio.run`, uvicorn's and asgiref's loops
    # close all async generators that were begun in them.
    clients: _Clients = {}
    end = _until_the_loop_ends(loop, clients)
    with contextlib.suppress(StopIteration):
        end.__anext__().__await__().__next__()  # as far as its `yield`, without waiting
    return clients, end


async def _until_the_loop_ends(
    loop: asyncio.AbstractEventLoop, clients: _Clients
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        _loops.pop(loop, None)
        for client in clients.values():
            await client.close()
