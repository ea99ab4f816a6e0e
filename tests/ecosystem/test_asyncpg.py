"""`advlock.asyncpg`: locks and rows in asyncpg's own transactions."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from bouncers import bouncer
from conformance.helpers import entries, holding, one, turns_red, waiting
from psycopg.conninfo import conninfo_to_dict
from waiting import aeventually

from advlock import ConfigError, LockTimeout, _claim_sql, _sql
from advlock.asyncpg import claim, try_xact_lock, xact_lock

from .sqlalchemy_drivers import in_a_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from servers import Server

    Admin = psycopg.Connection[Any]

NAME = "Straße 7"  # what its bytes are depends on the server


@pytest.fixture
def rival(database: str) -> Iterator[Admin]:
    """Somebody else, who holds the lock until the test lets go of it."""
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [NAME])
        yield session


@pytest.fixture
def jobs(admin: Admin) -> Iterator[str]:
    """A table of four jobs; its name."""
    admin.execute('DROP TABLE IF EXISTS "odd %s job" CASCADE')
    admin.execute('CREATE TABLE "odd %s job" (id int, state text)')
    admin.execute("""INSERT INTO "odd %s job" SELECT n, 'new' FROM generate_series(1, 4) AS n""")
    yield "odd %s job"
    admin.execute('DROP TABLE "odd %s job" CASCADE')


def address(dsn: str) -> dict[str, Any]:
    """The same database in asyncpg's words."""
    given = conninfo_to_dict(dsn)
    names = {"host": "host", "port": "port", "user": "user", "dbname": "database"}
    return {ours: given[theirs] for theirs, ours in names.items() if theirs in given}


@asynccontextmanager
async def connected(dsn: str, count: int = 2, **settings: Any) -> AsyncIterator[Any]:
    """Connections that are closed together."""
    made = [await asyncpg.connect(**address(dsn), **settings) for _ in range(count)]
    try:
        yield made
    finally:
        for conn in made:
            await conn.close()


@in_a_loop
async def test_it_ends_with_the_transaction(dsn: str, admin: Admin) -> None:
    """COMMIT releases it, and until then nobody else has it."""
    async with connected(dsn) as (mine, other):
        async with mine.transaction(), other.transaction():
            await xact_lock(mine, NAME)
            assert len(holding(admin, NAME)) == 1
            assert not await try_xact_lock(other, NAME)
            assert await try_xact_lock(mine, "shared", shared=True)
            assert await try_xact_lock(other, "shared", shared=True)
        assert not holding(admin, NAME)


@pytest.mark.parametrize("key", [42, -(2**63), (1, -(2**31)), 2**63 - 1])
@in_a_loop
async def test_numbers_and_pairs_are_the_servers_own(dsn: str, admin: Admin, key: Any) -> None:
    """Integers and pairs lock what the same SQL locks; the timeout says who holds it."""
    async with connected(dsn) as (mine, other), mine.transaction(), other.transaction():
        await xact_lock(mine, key)
        assert holding(admin, key) == [mine.get_server_pid()]
        with pytest.raises(LockTimeout) as caught:
            await xact_lock(other, key, wait=0.02)
        assert [holder.pid for holder in caught.value.holders] == [mine.get_server_pid()]


async def check_a_timeout_costs_only_the_wait(dsn: str, rival: Admin) -> None:
    """Time out between two statements, and look whether both count."""
    async with connected(dsn, 1) as (mine,), mine.transaction():
        await mine.execute("CREATE TEMPORARY TABLE t (n int)")
        await mine.execute("SET LOCAL lock_timeout = '3s'")
        begin = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            await xact_lock(mine, NAME, wait="50ms")
        assert 0.045 < time.monotonic() - begin < 2.5
        assert [holder.pid for holder in caught.value.holders] == [rival.info.backend_pid]
        assert not waiting(rival, NAME)
        assert await mine.fetchval("SHOW lock_timeout") == "3s"
        pending = asyncio.create_task(xact_lock(mine, NAME))
        await aeventually(lambda: waiting(rival, NAME))
        rival.execute("SELECT pg_advisory_unlock_all()")
        await pending
        assert await mine.fetchval("SHOW lock_timeout") == "3s"
        assert await mine.fetchval("SELECT count(*) FROM t") == 0


@in_a_loop
async def test_a_timeout_leaves_the_transaction_usable(dsn: str, rival: Admin) -> None:
    """What was done before stays, what comes after works, and `lock_timeout` is as it was."""
    await check_a_timeout_costs_only_the_wait(dsn, rival)


@in_a_loop
async def test_without_the_savepoint_that_turns_red(
    dsn: str, rival: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a timeout without a savepoint takes the whole transaction with it."""
    for statement in ("SAVEPOINT", "ROLLBACK_TO_SAVEPOINT", "RELEASE_SAVEPOINT"):
        monkeypatch.setattr(_sql, statement, "SELECT 1")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await check_a_timeout_costs_only_the_wait(dsn, rival)


@in_a_loop
async def test_a_cancelled_wait_leaves_nothing(dsn: str, rival: Admin) -> None:
    """The cancellation arrives as itself, and the transaction is usable."""
    async with connected(dsn, 1) as (mine,), mine.transaction():
        pending = asyncio.create_task(xact_lock(mine, NAME))
        await aeventually(lambda: waiting(rival, NAME))
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        assert not waiting(rival, NAME)
        rival.execute("SELECT pg_advisory_unlock_all()")
        assert not entries(rival, NAME)
        assert await try_xact_lock(mine, NAME)


@in_a_loop
async def test_an_ended_session_is_asyncpg_s_error(dsn: str, rival: Admin) -> None:
    """And not what came of putting the rest in order there."""
    async with connected(dsn, 1) as (mine,):
        await mine.execute("BEGIN")
        pending = asyncio.create_task(xact_lock(mine, NAME))
        (pid,) = await aeventually(lambda: waiting(rival, NAME))
        rival.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await pending


@in_a_loop
async def test_a_connection_without_a_transaction_is_refused(dsn: str, admin: Admin) -> None:
    """The lock would be gone at once, as the control shows; so would that of a row."""
    async with connected(dsn, 1) as (mine,):
        assert await mine.fetchval("SELECT pg_try_advisory_xact_lock(7)")
        assert not holding(admin, 7)
        for verb in (xact_lock, try_xact_lock, claim):
            with pytest.raises(ConfigError, match=r"async with conn\.transaction\(\)"):
                await verb(mine, NAME)
            with pytest.raises(ConfigError, match=r"not psycopg\.Connection"):
                await verb(admin, NAME)


@in_a_loop
async def test_a_connection_of_a_pool_will_do(dsn: str, admin: Admin) -> None:
    """It is a proxy; it goes back without the lock, with the transaction's end."""
    async with asyncpg.create_pool(**address(dsn), min_size=1, max_size=2) as pool:
        async with pool.acquire() as mine, mine.transaction():
            await xact_lock(mine, NAME)
            async with pool.acquire() as other, other.transaction():
                assert not await try_xact_lock(other, NAME)
        assert not entries(admin, NAME)


@in_a_loop
async def test_behind_a_pooler_in_transaction_mode(server: Server, dsn: str, jobs: str) -> None:
    """Two clients exclude each other; no statement's name meets another client's."""
    dbname = str(conninfo_to_dict(dsn)["dbname"])
    with bouncer(server, "transaction", default_pool_size=2) as pooler:
        settings = {"statement_cache_size": 0}
        async with connected(pooler.dsn(dbname), **settings) as (mine, other):
            for _ in range(4):
                async with mine.transaction(), other.transaction():
                    await xact_lock(mine, NAME)
                    with pytest.raises(LockTimeout):
                        await xact_lock(other, NAME, wait=0.02)
                    assert [row["id"] for row in await claim(mine, jobs, order_by="id")] == [1]
                    assert [row["id"] for row in await claim(other, jobs, order_by="id")] == [2]


# -- claim -----------------------------------------------------------------------------------------


async def check_nobody_gets_the_same(dsn: str, jobs: str) -> None:
    """Let two claim what there is."""
    async with connected(dsn) as (mine, other), mine.transaction(), other.transaction():
        new = {"where": "state = $1 AND id < $2", "params": ["new", 4], "order_by": "id DESC"}
        (row,) = await claim(mine, jobs, **new)
        assert dict(row) == {"id": 3, "state": "new"}
        assert [row["id"] for row in await claim(other, (jobs,), **new, limit=9)] == [2, 1]
        assert await claim(mine, jobs, where="id < 3", limit=9) == []


@in_a_loop
async def test_nobody_gets_a_row_that_another_has(dsn: str, jobs: str) -> None:
    """Each claim skips what others have, and returns fewer than it may rather than wait."""
    await check_nobody_gets_the_same(dsn, jobs)


@in_a_loop
async def test_without_the_row_lock_that_turns_red(
    dsn: str, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same statement without FOR UPDATE."""
    monkeypatch.setattr(_claim_sql, "CLAIM", _claim_sql.CLAIM.replace("FOR UPDATE SKIP LOCKED", ""))
    await turns_red(check_nobody_gets_the_same(dsn, jobs))


@in_a_loop
async def test_a_new_column_is_there_at_once(dsn: str, jobs: str, admin: Admin) -> None:
    """The statement is not kept; the control, one that is kept, fails in a transaction."""
    async with connected(dsn, 1) as (mine,):
        kept = f'SELECT * FROM "{jobs}"'
        async with mine.transaction():
            await mine.fetch(kept)
            await claim(mine, jobs)
        admin.execute(f'ALTER TABLE "{jobs}" ADD COLUMN rank int')
        async with mine.transaction():
            (row,) = await claim(mine, jobs)
            assert "rank" in dict(row)
        with pytest.raises(asyncpg.exceptions.InvalidCachedStatementError):
            async with mine.transaction():
                await mine.fetch(kept)


@in_a_loop
async def test_what_has_no_rows_to_lock_is_refused(dsn: str, jobs: str, admin: Admin) -> None:
    """Through a view with UNION the server returns rows without locking one."""
    admin.execute(f'CREATE VIEW seen AS SELECT * FROM "{jobs}" UNION SELECT * FROM "{jobs}"')
    admin.execute(f'CREATE MATERIALIZED VIEW kept AS SELECT * FROM "{jobs}"')
    async with connected(dsn, 1) as (mine,):
        for table, why in (("seen", "this is a view"), ("kept", "cannot lock rows")):
            with pytest.raises(ConfigError, match=why):
                async with mine.transaction():
                    await claim(mine, table)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
            async with mine.transaction(readonly=True):
                await claim(mine, jobs)
        assert "may write" in caught.value.__notes__[0]
        async with mine.transaction():
            assert len(await mine.fetch("SELECT * FROM seen FOR UPDATE SKIP LOCKED")) == 4
            assert not one(admin, f"SELECT xmax::text <> '0' FROM \"{jobs}\" LIMIT 1")


@in_a_loop
async def test_arguments_that_cannot_be_right_are_refused(dsn: str, jobs: str) -> None:
    """Before anything is sent."""
    async with connected(dsn, 1) as (mine,), mine.transaction():
        wrong: list[dict[str, Any]] = [{"params": "x"}, {"params": {"a": 1}}, {"limit": 0}]
        for arguments in (*wrong, {"order_by": 7}, {"where": 7}):
            with pytest.raises(ConfigError):
                await claim(mine, jobs, **arguments)
