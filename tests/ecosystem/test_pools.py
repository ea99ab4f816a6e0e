"""A lock that was forgotten goes back into a pool with its connection: what keeps it from staying.

Each line of docs/pools.md, and the same pool without it as a control.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from conformance.helpers import holding
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import event, text
from waiting import eventually

from .sqlalchemy_drivers import ASYNC, SYNC, async_engine, in_a_loop, sync_engine
from .test_asyncpg import address

if TYPE_CHECKING:
    from collections.abc import Callable

    Admin = psycopg.Connection[Any]

PAGE = Path(__file__).parents[2] / "docs" / "pools.md"
FORGOTTEN = "SELECT pg_advisory_lock(7)"


def the_line(name: str) -> Callable[..., Any]:
    """What the page says to write, as a function of that name."""
    (block,) = re.findall(
        rf"```py\n((?:@.*\n)?(?:async )?def {name}\(.*?)```", PAGE.read_text(), re.DOTALL
    )
    code = re.sub(r"^@.*\n", "", block)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own page
    found: Callable[..., Any] = names[name]
    return found


def leaked(admin: Admin) -> bool:
    """Whether the lock is still there; it is gone afterwards."""
    pids = holding(admin, 7)
    for pid in pids:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    return bool(pids)


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("failed", [False, True])
def test_psycopg_s_pool(dsn: str, admin: Admin, *, autocommit: bool, failed: bool) -> None:
    """`reset=`, in autocommit and without, also when the connection comes back after an error."""
    for reset in (None, the_line("unlock_all")):
        options: dict[str, Any] = {"kwargs": {"autocommit": autocommit}, "reset": reset}
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True, **options) as pool:
            with pool.connection() as conn:
                conn.execute(FORGOTTEN)
                if failed:
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        conn.execute("SELECT 1 / 0")
                    conn.rollback()
            with pool.connection() as conn:  # the same one, so that it is back
                assert bool(holding(admin, 7)) == (reset is None)
                assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                conn.execute("SELECT pg_advisory_unlock_all()")


@in_a_loop
async def test_psycopg_s_async_pool(dsn: str, admin: Admin) -> None:
    """The same, awaited."""
    for reset in (None, the_line("unlock_all_async")):
        pool = AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False, reset=reset)
        async with pool:
            async with pool.connection() as conn:
                await conn.execute(FORGOTTEN)
            async with pool.connection() as conn:
                assert bool(holding(admin, 7)) == (reset is None)
                await conn.execute("SELECT pg_advisory_unlock_all()")


def test_psycopg_s_pool_can_refuse_what_still_locks(dsn: str, admin: Admin) -> None:
    """`check=` finds a lock that the one before has left, and the pool takes another connection."""
    for check in (None, the_line("holds_no_lock")):
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True, check=check) as pool:
            with pool.connection() as conn:
                conn.execute(FORGOTTEN)
                leaky = conn.info.backend_pid
            with pool.connection() as conn:
                assert (conn.info.backend_pid == leaky) == (check is None)
                assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            if check is None:
                assert leaked(admin)
            eventually(lambda: not holding(admin, 7))  # closed is not yet gone


@in_a_loop
async def test_asyncpg_s_pool_does_it_by_itself(dsn: str, admin: Admin) -> None:
    """The control: without its reset the lock stays."""

    class Careless(asyncpg.Connection):  # type: ignore[type-arg]
        def get_reset_query(self) -> str:
            return ""

        _get_reset_query = get_reset_query  # as it is called in 0.29

    for kind in (asyncpg.Connection, Careless):
        options = {**address(dsn), "min_size": 1, "max_size": 1, "connection_class": kind}
        async with asyncpg.create_pool(**options) as pool:
            async with pool.acquire() as conn:
                await conn.execute(FORGOTTEN)
            assert leaked(admin) == (kind is Careless)


@pytest.mark.parametrize("driver", SYNC)
@pytest.mark.parametrize("failed", [False, True])
def test_sqlalchemy_s_pool(dsn: str, admin: Admin, driver: str, *, failed: bool) -> None:
    """The event `reset`, also when the connection comes back in a failed transaction."""
    for listener in (None, the_line("unlock_before_reset")):
        engine = sync_engine(dsn, driver, pool_size=1)
        if listener is not None:
            event.listen(engine, "reset", listener)
        with engine.connect() as conn:
            conn.execute(text(FORGOTTEN))
            if failed:
                with pytest.raises(Exception, match="division by zero"):
                    conn.execute(text("SELECT 1 / 0"))
        assert leaked(admin) == (listener is None)
        engine.dispose()


@pytest.mark.parametrize("driver", ASYNC)
@in_a_loop
async def test_sqlalchemy_s_async_pool(dsn: str, admin: Admin, driver: str) -> None:
    """The same listener, on the sync engine beneath."""
    for listener in (None, the_line("unlock_before_reset")):
        engine = async_engine(dsn, driver, pool_size=1)
        if listener is not None:
            event.listen(engine.sync_engine, "reset", listener)
        async with engine.connect() as conn:
            await conn.execute(text(FORGOTTEN))
        assert leaked(admin) == (listener is None)
        await engine.dispose()


def test_sqlalchemy_s_session_gives_its_connection_back_with_the_commit(
    dsn: str, admin: Admin
) -> None:
    """So that an unlock behind it may run on another connection, and the lock stays."""
    engine = sync_engine(dsn, pool_size=2)
    with engine.connect() as first, engine.connect() as second:  # two are in the pool
        first.execute(text("SELECT 1"))
        second.execute(text("SELECT 1"))
    with engine.connect() as session:
        session.execute(text(FORGOTTEN))
        session.commit()
    with engine.connect() as other, engine.connect() as another:
        answers = [c.scalar(text("SELECT pg_advisory_unlock(7)")) for c in (another, other)]
    assert sorted(answers) == [False, True], "only one of the two has it"
    engine.dispose()
    assert not holding(admin, 7)


DJANGO = """
import sys
from django.conf import settings
{database}
settings.configure(DATABASES={{"default": DATABASE}}, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)
import django
django.setup()
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.urls import path

def forget(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7)")
    return HttpResponse()

def look(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"
                       " AND database = (SELECT oid FROM pg_database"
                       " WHERE datname = current_database())")
        return HttpResponse(str(cursor.fetchone()[0]))

urlpatterns = [path("forget", forget), path("look", look)]
{line}
client = Client()
from django.core.signals import request_finished
from django.test import client as test_client
from django.db import close_old_connections
request_finished.connect(close_old_connections)
client.get("/forget")
print(client.get("/look").content.decode())
"""


def test_django_s_persistent_connections(dsn: str, admin: Admin) -> None:
    """With CONN_MAX_AGE the next request has the lock; with the line it has not."""
    given = conninfo_to_dict(dsn)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 60,
        "NAME": given["dbname"],
        "USER": given["user"],
        "HOST": given["host"],
        "PORT": given.get("port", ""),
    }
    (line,) = re.findall(r"```py\n(from django.core.signals.*?)```", PAGE.read_text(), re.DOTALL)
    for with_it, expected in (("", "1"), (line, "0")):
        code = DJANGO.format(database=f"DATABASE = {database!r}", line=with_it)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected
    assert not holding(admin, 7)
