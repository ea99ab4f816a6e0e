"""The drivers of SQLAlchemy that are here, and engines on them."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# psycopg and asyncpg are always tested; the others where they are installed.
SYNC = [n for n in ("psycopg", "psycopg2", "pg8000") if importlib.util.find_spec(n)]
ASYNC = ["psycopg", "asyncpg"]


def url_of(dsn: str, driver: str, **query: Any) -> URL:
    """What a user of that driver writes for a database that libpq reaches with `dsn`."""
    given = conninfo_to_dict(dsn)
    host, port = str(given["host"]), int(given.get("port") or 5432)
    socket = host.startswith("/")
    if socket and driver == "pg8000":
        query["unix_sock"] = f"{host}/.s.PGSQL.{port}"
    elif socket:
        query["host"] = host
        if driver != "asyncpg":
            query["port"] = str(port)
    user, name, password = (given.get(k) for k in ("user", "dbname", "password"))
    url = URL.create(f"postgresql+{driver}", user, password, None, None, name, query)
    in_query = socket and driver != "asyncpg"
    return url.set(host=None if socket else host, port=None if in_query else port)


def sync_engine(dsn: str, driver: str = "psycopg", **settings: Any) -> Engine:
    """Make an engine as an application does."""
    return create_engine(url_of(dsn, driver), **_pool(settings))


def async_engine(dsn: str, driver: str = "asyncpg", **settings: Any) -> AsyncEngine:
    """Make an engine as an application does."""
    return create_async_engine(url_of(dsn, driver), **_pool(settings))


def _pool(settings: dict[str, Any]) -> dict[str, Any]:
    """Keep no connection after a test that has not asked for a pool."""
    pooled = any(name.startswith("pool") for name in settings)
    return settings if pooled else {"poolclass": NullPool, **settings}


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run
