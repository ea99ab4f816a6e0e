"""`advlock.sqlalchemy.xact_lock`: locks in the transaction of a session or connection."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from conformance.helpers import entries, holding, one, turns_red, waiting
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine, exc, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import NullPool
from waiting import aeventually

from advlock import ConfigError, LockTimeout, _sql
from advlock import xact_lock as psycopg_s_xact_lock
from advlock.sqlalchemy import try_xact_lock, xact_lock

from .sqlalchemy_callers import WORLDS, crowd
from .sqlalchemy_drivers import SYNC, in_a_loop, sync_engine

if TYPE_CHECKING:
    from servers import Server

    Admin = psycopg.Connection[Any]

every_world = pytest.mark.parametrize("world", WORLDS)
ONE_OF_EACH = pytest.mark.parametrize("world", ["sync-psycopg", "async-asyncpg"])
NAME = "Straße 7"  # what its bytes are depends on the server


@pytest.fixture
def rival(database: str) -> Any:
    """Somebody else, who holds the lock until the test lets go of it."""
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [NAME])
        yield session


@every_world
@pytest.mark.parametrize("kind", ["session", "connection"])
@in_a_loop
async def test_it_ends_with_the_transaction(dsn: str, world: str, kind: str, admin: Admin) -> None:
    """COMMIT and ROLLBACK release it, and until then nobody else has it."""
    async with crowd(world, dsn) as made:
        mine, other = await getattr(made, kind)(), await getattr(made, kind)()
        for how in ("commit", "rollback"):
            await mine.lock(NAME)
            assert len(holding(admin, NAME)) == 1
            assert not await other.attempt(NAME)
            await mine.end(how)
            assert not holding(admin, NAME)
            assert await other.attempt(NAME)
            await other.end()


@every_world
@pytest.mark.parametrize("key", [42, -(2**63), (1, -(2**31)), 2**63 - 1])
@in_a_loop
async def test_numbers_and_pairs_are_the_servers_own(
    dsn: str, world: str, admin: Admin, key: Any
) -> None:
    """Also where the parameters are merged into the text; the timeout says who holds it."""
    async with crowd(world, dsn) as made:
        mine, other = await made.session(), await made.connection()
        await mine.lock(key)
        (pid,) = holding(admin, key)
        with pytest.raises(LockTimeout) as caught:
            await other.lock(key, wait=0.02)
        assert [holder.pid for holder in caught.value.holders] == [pid]
        assert await other.attempt(7, shared=True)
        assert await mine.attempt(7, shared=True)


async def check_a_timeout_costs_only_the_wait(dsn: str, world: str, rival: Admin) -> None:
    """Time out between two statements, and look whether both count."""
    async with crowd(world, dsn) as made:
        mine = await made.session()
        await mine.sql("CREATE TEMPORARY TABLE t (n int)")
        await mine.sql("SET LOCAL lock_timeout = '3s'")
        await mine.sql("INSERT INTO t VALUES (1)")
        begin = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            await mine.lock(NAME, wait="50ms")
        assert 0.045 < time.monotonic() - begin < 2.5
        assert [holder.pid for holder in caught.value.holders] == [rival.info.backend_pid]
        assert caught.value.__cause__ is None
        assert not waiting(rival, NAME)
        await mine.sql("INSERT INTO t VALUES (2)")
        assert await mine.sql("SHOW lock_timeout") == "3s"
        pending = asyncio.create_task(mine.lock(NAME))
        await aeventually(lambda: waiting(rival, NAME))
        rival.execute("SELECT pg_advisory_unlock_all()")
        await pending
        assert await mine.sql("SHOW lock_timeout") == "3s"
        assert await mine.sql("SELECT count(*) FROM t") == 2
        await mine.end()


@every_world
@in_a_loop
async def test_a_timeout_leaves_the_transaction_usable(dsn: str, world: str, rival: Admin) -> None:
    """What was done before stays, what comes after works, and `lock_timeout` is as it was."""
    await check_a_timeout_costs_only_the_wait(dsn, world, rival)


@ONE_OF_EACH
@in_a_loop
async def test_without_the_savepoint_that_turns_red(
    dsn: str, world: str, rival: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a timeout without a savepoint takes the whole transaction with it."""
    for statement in ("SAVEPOINT", "ROLLBACK_TO_SAVEPOINT", "RELEASE_SAVEPOINT"):
        monkeypatch.setattr(_sql, statement, "SELECT 1")
    with pytest.raises(exc.DBAPIError, match="current transaction is aborted"):
        await check_a_timeout_costs_only_the_wait(dsn, world, rival)


@every_world
@pytest.mark.usefixtures("rival")
@in_a_loop
async def test_another_limit_of_the_callers_ends_the_wait_as_itself(dsn: str, world: str) -> None:
    """`statement_timeout` comes as SQLAlchemy's own error, and costs only the wait."""
    async with crowd(world, dsn) as made:
        mine = await made.session()
        await mine.sql("SET LOCAL statement_timeout = '50ms'")
        with pytest.raises(exc.DBAPIError, match="statement timeout"):
            await mine.lock(NAME)
        assert await mine.sql("SELECT 1") == 1


@pytest.mark.parametrize("world", [w for w in WORLDS if w.startswith("async")])
@in_a_loop
async def test_a_cancelled_wait_leaves_nothing(dsn: str, world: str, rival: Admin) -> None:
    """The cancellation arrives as itself, and nobody waits or holds."""
    async with crowd(world, dsn) as made:
        mine = await made.session()
        pending = asyncio.create_task(mine.lock(NAME))
        await aeventually(lambda: waiting(rival, NAME))
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        rival.execute("SELECT pg_advisory_unlock_all()")
        await aeventually(lambda: not entries(rival, NAME))
        await mine.end("rollback")
        assert await mine.attempt(NAME)


@ONE_OF_EACH
@in_a_loop
async def test_an_ended_session_is_the_driver_s_error(dsn: str, world: str, rival: Admin) -> None:
    """And not what came of putting the rest in order there."""
    async with crowd(world, dsn) as made:
        mine = await made.session()
        pending = asyncio.create_task(mine.lock(NAME))
        (pid,) = await aeventually(lambda: waiting(rival, NAME))
        rival.execute("SELECT pg_terminate_backend(%s)", [pid])
        with pytest.raises(exc.DBAPIError) as caught:
            await pending
        assert caught.value.connection_invalidated
        await mine.end("rollback")
        rival.execute("SELECT pg_advisory_unlock_all()")
        assert await mine.attempt(NAME)


@every_world
@in_a_loop
async def test_autocommit_is_refused(dsn: str, world: str) -> None:
    """The lock would be gone at once."""
    async with crowd(world, dsn, isolation_level="AUTOCOMMIT") as made:
        for caller in (await made.session(), await made.connection()):
            with pytest.raises(ConfigError, match="AUTOCOMMIT"):
                await caller.lock(NAME)


def test_in_autocommit_a_lock_is_gone_at_once(dsn: str, admin: Admin) -> None:
    """The control: what is refused excludes nobody."""
    with sync_engine(dsn, isolation_level="AUTOCOMMIT").connect() as conn:
        assert conn.scalar(text("SELECT pg_try_advisory_xact_lock(7)"))
        assert not holding(admin, 7)


def test_other_databases_and_other_things_are_refused(dsn: str) -> None:
    """By a message that says what to write."""
    with (
        create_engine("sqlite://", poolclass=NullPool).connect() as conn,
        pytest.raises(ConfigError, match="sqlite"),
    ):
        xact_lock(conn, NAME)
    engine: Any = sync_engine(dsn)
    with pytest.raises(ConfigError, match=r"not Engine; open one: with engine.begin\(\)"):
        xact_lock(engine, NAME)
    with engine.connect() as conn:
        other: Any = conn
        with pytest.raises(ConfigError, match="for sqlalchemy there is advlock"):
            psycopg_s_xact_lock(other, NAME)
        with pytest.raises(ConfigError, match="soon"):
            xact_lock(conn, NAME, wait="soon")


# -- the session -----------------------------------------------------------------------------------


class Base(DeclarativeBase):
    """The tables of the tests."""


class Account(Base):
    """What is changed under the lock."""

    __tablename__ = "account_of_a_test"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


@pytest.fixture
def account(dsn: str) -> Any:
    """An engine, and an account in its database."""
    engine = sync_engine(dsn)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Account(id=1, amount=5))
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


def test_the_session_is_as_it_was(account: Any) -> None:
    """Nothing is flushed and nothing expires: what was loaded is as old as it was."""
    with Session(account) as session:
        loaded = session.get_one(Account, 1)
        added = Account(id=2, amount=0)
        session.add(added)
        with account.begin() as other:
            other.execute(text("UPDATE account_of_a_test SET amount = 6"))
        xact_lock(session, NAME)
        assert added in session.new
        assert loaded.amount == 5
        session.refresh(loaded)
        assert loaded.amount == 6


def test_a_session_begins_and_a_scoped_one_will_do(account: Any) -> None:
    """As with any statement; a lock taken in a savepoint ends with a rollback to there."""
    sessions = scoped_session(sessionmaker(account))
    assert not sessions().in_transaction()
    with sessions.begin_nested() as savepoint:
        assert try_xact_lock(sessions, NAME)
        savepoint.rollback()
    with Session(account) as other:
        assert try_xact_lock(other, NAME)
        assert not try_xact_lock(sessions, NAME)
    sessions.remove()


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 1}], ids=str)
@pytest.mark.parametrize("driver", SYNC)
def test_a_connection_whose_rows_come_in_a_stream_will_do(
    dsn: str, driver: str, rival: Admin, option: dict[str, Any]
) -> None:
    """Its cursors on the server take no SAVEPOINT, so ours are not of that kind."""
    with sync_engine(dsn, driver).connect().execution_options(**option) as conn:
        assert try_xact_lock(conn, "free")
        with pytest.raises(LockTimeout):
            xact_lock(conn, NAME, wait=0.02)
        assert len(holding(rival, "free")) == 1


# -- pools and poolers -----------------------------------------------------------------------------


@every_world
@in_a_loop
async def test_the_same_statement_may_come_often(dsn: str, world: str) -> None:
    """Psycopg prepares what it has sent five times, asyncpg at once."""
    async with crowd(world, dsn, pool_size=1) as made:
        for _ in range(8):
            caller = await made.connection()
            await caller.lock(NAME)
            assert await caller.attempt((1, 2))
            await caller.end()
            await caller.do(caller.on.close)


@ONE_OF_EACH
@in_a_loop
async def test_behind_a_pooler_in_transaction_mode(server: Server, dsn: str, world: str) -> None:
    """Two sessions exclude each other, with fewer server connections than sessions need turns."""
    dbname = str(conninfo_to_dict(dsn)["dbname"])
    with bouncer(server, "transaction", default_pool_size=2) as pooler:
        unprepared: dict[str, Any] = {"connect_args": {"prepare_threshold": None}}
        if world.endswith("asyncpg"):
            unprepared = {"connect_args": {"statement_cache_size": 0}}
        address = make_conninfo(pooler.dsn(dbname), client_encoding="utf8")
        async with crowd(world, address, **unprepared) as made:
            for _ in range(3):
                mine, other = await made.session(), await made.session()
                await mine.lock(NAME)
                with pytest.raises(LockTimeout):
                    await other.lock(NAME, wait=0.02)
                await mine.end()
                assert await other.attempt(NAME)
                await other.end("rollback")


async def check_it_excludes_until_the_commit(world: str, dsn: str, admin: Admin) -> None:
    """Four add one to the same number, each reads before it writes."""
    admin.execute("DROP TABLE IF EXISTS counted; CREATE TABLE counted AS SELECT 0 AS n")
    try:
        async with crowd(world, dsn, pool_size=4) as made:
            connected = asyncio.Barrier(4)

            async def add_one() -> None:
                caller = await made.session()
                await caller.sql("SELECT 1")
                await connected.wait()
                await caller.lock("counted")
                n = await caller.sql("SELECT n FROM counted")
                await asyncio.sleep(0.02)
                await caller.sql(f"UPDATE counted SET n = {n} + 1")
                await caller.end()

            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(add_one())
        assert one(admin, "SELECT n FROM counted") == 4
    finally:
        admin.execute("DROP TABLE counted")


@ONE_OF_EACH
@in_a_loop
async def test_it_excludes_until_the_commit(world: str, dsn: str, admin: Admin) -> None:
    """What is read under the lock is what the one before has written."""
    await check_it_excludes_until_the_commit(world, dsn, admin)


@ONE_OF_EACH
@in_a_loop
async def test_without_the_lock_that_turns_red(
    world: str, dsn: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a lock that everybody has."""
    for key, sql in _sql.XACT_TRY.items():
        shared = sql.replace("xact_lock(", "xact_lock_shared(")
        monkeypatch.setitem(_sql.XACT_TRY, key, shared)
    await turns_red(check_it_excludes_until_the_commit(world, dsn, admin))


@in_a_loop
async def test_in_repeatable_read_it_comes_after_the_first_look(dsn: str, rival: Admin) -> None:
    """As the page says: what the holder before has written is not seen there."""
    rival.execute("DROP TABLE IF EXISTS looked; CREATE TABLE looked AS SELECT 1 AS n")
    for level, seen in (("REPEATABLE READ", 1), ("READ COMMITTED", 2)):
        rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [NAME])
        rival.execute("UPDATE looked SET n = 1")
        async with crowd("sync-psycopg", dsn, isolation_level=level) as made:
            mine = await made.session()
            pending = asyncio.create_task(mine.lock(NAME))
            await aeventually(lambda: waiting(rival, NAME))
            rival.execute("UPDATE looked SET n = 2")
            rival.execute("SELECT pg_advisory_unlock_all()")
            await pending
            assert await mine.sql("SELECT n FROM looked") == seen
    rival.execute("DROP TABLE looked")
