"""Sessions and keys for the beliefs; each test ends with its sessions gone from the server."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer_before
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import eventually

from .pooled import Pooler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection
    from servers import Server

_END = "SELECT count(pg_terminate_backend(pid)) FROM unnest(%s::int[]) pid"
_LEFT = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s::int[])"


@pytest.fixture
def key() -> int:
    """Return a 64-bit key nobody else uses; tests that need several add small numbers to it."""
    return 2**40 + secrets.randbelow(2**62)


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[..., Connection[Any]]]:
    """Open autocommit sessions on the test database, and end their backends after the test."""
    opened: list[Connection[Any]] = []

    def _connect(**overrides: str) -> Connection[Any]:
        opened.append(psycopg.connect(make_conninfo(dsn, **overrides), autocommit=True))
        return opened[-1]

    yield _connect
    pids = [session.info.backend_pid for session in opened if not session.closed]
    for session in opened:
        session.close()
    with psycopg.connect(dsn, autocommit=True) as last:
        last.execute(_END, (pids,))
        eventually(
            lambda: last.execute(_LEFT, (pids,)).fetchone() == (0,), message="all sessions ended"
        )


@pytest.fixture
def table(connect: Callable[..., Connection[Any]]) -> Iterator[str]:
    """Create an empty table which only the test itself vacuums; drop it afterwards."""
    name = f"belief_{secrets.randbelow(2**40)}"
    session = connect()
    session.execute(f"CREATE TABLE {name} (id int) WITH (autovacuum_enabled = false)")
    yield name
    session.execute(f"DROP TABLE {name}")


@pytest.fixture
def pooler(server: Server, dsn: str) -> Iterator[Callable[..., Pooler]]:
    """Start PgBouncers before the test database; they and their clients end with the test.

    They reach the server over TCP, as most do: on a Unix socket the server ignores some settings.
    """
    dbname = str(conninfo_to_dict(dsn)["dbname"])
    with ExitStack() as stack:

        def _pooler(mode: str, **settings: object) -> Pooler:
            upstream = server.tcp_dsn("postgres")
            return Pooler(
                stack.enter_context(bouncer_before(upstream, mode, **settings)), dbname, stack
            )

        yield _pooler
