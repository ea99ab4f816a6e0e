"""The ways from a client to the server: straight, or through a PgBouncer.

Every promise holds on each of them, so tests/conformance runs on each: `dsn`, which a test gives to
its clients, leads along the route; `admin` and `rival` watch from the server itself. Where a route
makes no sense, a test says why, and is not generated there. So it is never skipped.

One version of the server stands behind PgBouncer, the newest: what the versions differ in is found
without one, and what the pooler adds does not depend on the version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servers import Server

DIRECT: Final = "direct"
SESSION: Final = "session"
TRANSACTION: Final = "transaction"
_ALL: Final = (DIRECT, SESSION, TRANSACTION)

# Enough for whatever one worker's tests hold at a time. Idle sessions go soon: all the workers'
# pools share the server's max_connections.
POOL: Final = {"default_pool_size": 60, "max_client_conn": 1000, "server_idle_timeout": 5}


def direct_only(why: str) -> pytest.MarkDecorator:
    """Generate a test without a pooler only.

    Args:
        why: What a pooler takes away from under it.
    """
    assert why
    return pytest.mark.routes((DIRECT,), why=why)


def not_pinned(why: str) -> pytest.MarkDecorator:
    """Do not generate a test where a transaction pins the session.

    Args:
        why: What is different there.
    """
    assert why
    return pytest.mark.routes((DIRECT, SESSION), why=why)


def not_session(why: str) -> pytest.MarkDecorator:
    """Do not generate a test where a pooler lends sessions for as long as a client is connected.

    Args:
        why: What is different there.
    """
    assert why
    return pytest.mark.routes((DIRECT, TRANSACTION), why=why)


def routes_of(test: pytest.Function, servers: Sequence[Server]) -> dict[str, tuple[str, str]]:
    """Say on which servers, and along which routes, a test runs: (server, route) by its id."""
    marker = test.get_closest_marker("routes")
    allowed = _ALL if marker is None else marker.args[0]
    ways = {server.name: (server.name, DIRECT) for server in servers}
    newest = servers[-1].name
    pooled = [route for route in allowed if route != DIRECT]
    return ways | {f"{newest}-pooled-{route}": (newest, route) for route in pooled}
