"""`xact_lock` and `try_xact_lock`: locks in the caller's own transaction."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
from bouncers import bouncer_before
from clusters import hot_standby, private_cluster
from psycopg.rows import dict_row
from routes import direct_only
from waiting import aeventually

from advlock import (
    ConfigError,
    LockTimeout,
    UnsafeServer,
    _sql,
    claim,
    try_xact_lock,
    xact_lock,
)

from .helpers import holding, is_waiting, no_locks, one, turns_red, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

    from .helpers import Admin
    from .worlds import World


STATEMENT = direct_only("the statements, and what the server says to them, are the same there")


class Caller:
    """A connection of the caller's, in either world."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn

    async def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something, in a thread or on the loop."""
        if isinstance(self.conn, psycopg.AsyncConnection):
            outcome = function(*args, **kwargs)
            return await outcome if inspect.isawaitable(outcome) else outcome
        return await asyncio.to_thread(function, *args, **kwargs)

    async def lock(self, name: Any, **kwargs: Any) -> None:
        """Call `xact_lock`."""
        await self.do(xact_lock, self.conn, name, **kwargs)

    async def attempt(self, name: Any, **kwargs: Any) -> bool:
        """Call `try_xact_lock`."""
        return bool(await self.do(try_xact_lock, self.conn, name, **kwargs))

    async def sql(self, text: str) -> Any:
        """Run a statement; the first value of the first row, if there is one."""
        cursor = await self.do(self.conn.cursor, row_factory=psycopg.rows.tuple_row)
        await self.do(cursor.execute, text)
        row = await self.do(cursor.fetchone) if cursor.description else None
        await self.do(cursor.close)
        return row and row[0]

    async def end(self, how: str = "commit") -> None:
        """Commit, or roll back."""
        await self.do(getattr(self.conn, how))


async def open_caller(world: World, dsn: str, **kwargs: Any) -> Caller:
    """Connect as a user of psycopg does."""
    if world.is_sync:
        return Caller(psycopg.connect(dsn, **kwargs))
    return Caller(await psycopg.AsyncConnection.connect(dsn, **kwargs))


class Crowd:
    """Callers that are closed together."""

    def __init__(self, world: World, dsn: str) -> None:
        self.world, self.dsn, self.opened = world, dsn, list[Caller]()

    async def one(self, **kwargs: Any) -> Caller:
        """Open one more."""
        self.opened.append(await open_caller(self.world, self.dsn, **kwargs))
        return self.opened[-1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self.opened:
            await caller.do(caller.conn.close)


@pytest.fixture
def table(admin: Admin, name: str) -> Iterator[str]:
    """A table of the caller's."""
    quoted = f'"{name}"'
    admin.execute(f"CREATE TABLE {quoted} (n int)")
    yield quoted
    admin.execute(f"DROP TABLE {quoted}")


@pytest.mark.parametrize("how", ["commit", "rollback"])
async def test_it_ends_with_the_transaction(
    world: World, dsn: str, name: str, admin: Admin, how: str
) -> None:
    """COMMIT and ROLLBACK release it, and until then nobody else has it."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(), await crowd.one()
        await mine.lock(name)
        assert holding(admin, name)
        assert not await other.attempt(name)
        await other.end("rollback")
        await mine.end(how)
        assert not holding(admin, name)
        assert await other.attempt(name)


async def test_it_excludes_the_locks_of_a_client(world: World, dsn: str, name: str) -> None:
    """The same name is the same lock, for a transaction and for a client."""
    client, actor = world.client(dsn), world.actor()
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        context = client.hold(name)
        await actor.enter(context)
        assert not await mine.attempt(name)
        await actor.exit(context)
        assert await mine.attempt(name)


async def test_shares_exclude_only_the_exclusive(world: World, dsn: str, name: str) -> None:
    """Two may share; nobody may have it alone meanwhile."""
    async with Crowd(world, dsn) as crowd:
        first, second, third = [await crowd.one() for _ in range(3)]
        assert await first.attempt(name, shared=True)
        await second.lock(name, shared=True, wait=0)
        assert not await third.attempt(name)


@pytest.mark.parametrize("key", [42, -1, -(2**63), (1, -2)])
async def test_numbers_and_pairs_are_the_servers_own(
    world: World, dsn: str, admin: Admin, key: Any
) -> None:
    """Integers and pairs lock what the same SQL locks."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(), await crowd.one()
        await mine.lock(key)
        assert len(holding(admin, key)) == 1
        with pytest.raises(LockTimeout):
            await other.lock(key, wait=0.05)


async def check_a_timeout_costs_only_the_wait(
    world: World, dsn: str, name: str, table: str, rival: Admin
) -> None:
    """Time out between two inserts, and commit both."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.sql(f"INSERT INTO {table} VALUES (1)")
        begin = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            await mine.lock(name, wait="200ms")
        assert 0.19 < time.monotonic() - begin < 1.0
        assert [holder.pid for holder in caught.value.holders] == [rival.info.backend_pid]
        assert not waiting(rival, name)
        await mine.sql(f"INSERT INTO {table} VALUES (2)")
        await mine.end()
    rival.execute("SELECT pg_advisory_unlock_all()")
    assert one(rival, f"SELECT count(*) FROM {table}") == 2


async def test_a_timeout_leaves_the_transaction_usable(
    world: World, dsn: str, name: str, table: str, rival: Admin
) -> None:
    """What was done before stays, what comes after works; the error says who holds it."""
    await check_a_timeout_costs_only_the_wait(world, dsn, name, table, rival)


async def test_without_the_savepoint_that_turns_red(
    world: World, dsn: str, name: str, table: str, rival: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a timeout without a savepoint takes the whole transaction with it."""
    for statement in ("SAVEPOINT", "ROLLBACK_TO_SAVEPOINT", "RELEASE_SAVEPOINT"):
        monkeypatch.setattr(_sql, statement, "SELECT 1")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await check_a_timeout_costs_only_the_wait(world, dsn, name, table, rival)


async def check_lock_timeout_is_put_back(world: World, dsn: str, name: str, rival: Admin) -> None:
    """Time out and succeed, and look at the setting after each."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.sql("SET lock_timeout = '7s'")
        await mine.end()
        await mine.sql("SET LOCAL lock_timeout = '3s'")
        rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
        with pytest.raises(LockTimeout):
            await mine.lock(name, wait=0.05)
        assert await mine.sql("SHOW lock_timeout") == "3s"
        pending = asyncio.create_task(mine.lock(name, wait=10))
        await is_waiting(rival, name)
        rival.execute("SELECT pg_advisory_unlock_all()")
        await pending
        assert await mine.sql("SHOW lock_timeout") == "3s"
        await mine.end()
        assert await mine.sql("SHOW lock_timeout") == "7s"


async def test_the_callers_lock_timeout_is_put_back(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """After a timeout and a success it is what it was, for transaction and session."""
    await check_lock_timeout_is_put_back(world, dsn, name, rival)


async def test_without_putting_it_back_that_turns_red(
    world: World, dsn: str, name: str, rival: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: forget what it was before."""
    monkeypatch.setattr(_sql, "LOCK_TIMEOUT", "SELECT '1min'")
    await turns_red(check_lock_timeout_is_put_back(world, dsn, name, rival))


async def test_waiting_for_ever_ignores_the_callers_lock_timeout(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """wait=None waits, whatever lock_timeout says, and puts that back."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.sql("SET LOCAL lock_timeout = '50ms'")
        pending = asyncio.create_task(mine.lock(name))
        await is_waiting(rival, name)
        await asyncio.sleep(0.1)
        assert not pending.done()
        rival.execute("SELECT pg_advisory_unlock_all()")
        await pending
        assert await mine.sql("SHOW lock_timeout") == "50ms"


async def test_the_callers_statement_timeout_stays_the_callers(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """Another limit of the caller's ends the wait as itself, and costs only the wait."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.sql("SET LOCAL statement_timeout = '100ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            await mine.lock(name, wait=10)
        assert await mine.sql("SHOW lock_timeout") == "0"
        assert await mine.sql("SELECT 1") == 1


@STATEMENT
async def test_a_wait_may_be_of_any_length(world: World, dsn: str, name: str, rival: Admin) -> None:
    """One that no `lock_timeout` can say, too: it waits until another limit ends it."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        for length in (math.inf, "30d"):
            # Long enough that no other statement ends by it.
            await mine.sql("SET LOCAL statement_timeout = '300ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                await mine.lock(name, wait=length)


@STATEMENT
async def test_an_ended_session_is_the_server_s_own_word(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """And not what came of putting the rest in order on a closed connection."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        pending = asyncio.create_task(mine.lock(name))
        await is_waiting(rival, name)
        rival.execute("SELECT pg_terminate_backend(%s)", waiting(rival, name))
        with pytest.raises(psycopg.errors.AdminShutdown):
            await pending


async def test_in_autocommit_it_says_that_a_transaction_is_needed(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Instead of a lock that is gone at once; inside `transaction()` it works."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one(autocommit=True)
        for verb in (mine.lock, mine.attempt):
            with pytest.raises(ConfigError, match=r"with conn\.transaction\(\)"):
                await verb(name)
        await mine.sql("BEGIN")
        await mine.lock(name)
        assert holding(admin, name)
        await mine.sql("COMMIT")
        assert not holding(admin, name)


@STATEMENT
async def test_a_pipeline_is_refused(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Its answers come later; before it, in the same transaction, the lock is taken."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        pipeline, prefix = mine.conn.pipeline(), "" if world.is_sync else "a"
        await mine.do(getattr(pipeline, f"__{prefix}enter__"))
        for verb in (mine.lock, mine.attempt):
            with pytest.raises(ConfigError, match="before `with"):
                await verb(name)
        await mine.do(getattr(pipeline, f"__{prefix}exit__"), None, None, None)
        assert not holding(admin, name)
        await mine.lock(name)


async def test_the_connections_own_factories_do_not_matter(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """Rows as dicts, and another style of parameters: it brings cursors of its own."""
    async with Crowd(world, dsn) as crowd:
        raw = psycopg.RawCursor if world.is_sync else psycopg.AsyncRawCursor
        mine = await crowd.one(row_factory=dict_row, cursor_factory=raw)
        assert await mine.attempt(name)
        rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"{name}-2"])
        with pytest.raises(LockTimeout):
            await mine.lock(f"{name}-2", wait=0.05)


async def test_an_idle_transaction_that_only_locked_holds_nothing_back(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """No snapshot stays behind, neither after a grant nor after a timeout: VACUUM goes on."""
    xmin = "SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = %s"
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"{name}-2"])
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.lock(name)
        (pid,) = holding(rival, name)
        assert one(rival, xmin, pid)
        with pytest.raises(LockTimeout):
            await mine.lock(f"{name}-2", wait=0.05)
        assert one(rival, xmin, pid)


async def test_a_cancelled_wait_holds_nothing(dsn: str, name: str, rival: Admin) -> None:
    """Async only: the cancellation comes through, the transaction goes on, lock_timeout is back."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        pending = asyncio.ensure_future(xact_lock(conn, name, wait=10))
        await is_waiting(rival, name)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        await aeventually(lambda: not waiting(rival, name), within=2)
        cursor = await conn.execute("SHOW lock_timeout")
        assert await cursor.fetchone() == ("0",)
    rival.execute("SELECT pg_advisory_unlock_all()")
    await no_locks(rival)


async def test_only_psycopg_connections_are_taken(world: World) -> None:
    """Anything else is refused by its name."""
    assert world
    for verb in (xact_lock, try_xact_lock):
        with pytest.raises(ConfigError, match=r"psycopg connection.*not object"):
            verb(object(), "x")  # type: ignore[call-overload]


async def test_a_replica_is_refused(world: World, server: Server, name: str) -> None:
    """A hot standby grants locks of its own, and locks no rows.

    Once it is the primary it is taken, although a pooler tells its clients what it was before.
    """
    with (
        private_cluster(server) as primary,
        hot_standby(primary) as standby,
        bouncer_before(standby.dsn(), "transaction") as pooler,
    ):
        for where in (standby.dsn(), pooler.dsn()):
            async with Crowd(world, where) as crowd:
                mine = await crowd.one()
                for verb in (mine.lock, mine.attempt):
                    with pytest.raises(UnsafeServer, match="primary"):
                        await verb(name)
                with pytest.raises(UnsafeServer, match=r"locks no rows.*primary"):
                    await mine.do(claim, mine.conn, "pg_class")
        with psycopg.connect(standby.dsn(), autocommit=True) as admin:
            assert one(admin, "SELECT pg_promote()")
        async with Crowd(world, pooler.dsn()) as crowd:
            mine = await crowd.one()
            assert mine.conn.info.parameter_status("in_hot_standby") == "on"
            await mine.lock(name)
            assert await mine.attempt(f"{name}-2")
