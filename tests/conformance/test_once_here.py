"""`once(…, connection=…)`: work and record commit together, in the caller's own transaction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from waiting import aeventually

from advlock import ConfigError, Done, LockLost, LockTimeout

from .databases import connect, fresh_database
from .helpers import holding, is_waiting, one
from .test_xact import Crowd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .helpers import Admin
    from .test_xact import Caller
    from .worlds import World

DONE = "SELECT count(*) FROM advlock.once WHERE name = %s AND done_at IS NOT NULL"


@pytest.fixture
def work(admin: Admin, name: str) -> Iterator[str]:
    """A table to work on."""
    quoted = f'"work-{name}"'
    admin.execute(f"CREATE TABLE {quoted} (n int)".encode())
    yield quoted
    admin.execute(f"DROP TABLE {quoted}".encode())


async def enters(world: World, client: Any, caller: Caller, name: str, **kwargs: Any) -> Any:
    """Enter; the context, and what it was entered with."""
    context = client.once(name, connection=caller.conn, **kwargs)
    enter = context.__enter__ if world.is_sync else context.__aenter__
    return context, await caller.do(enter)


async def leaves(world: World, context: Any, caller: Caller, error: Any = None) -> None:
    """Leave, as a body that raised `error` does."""
    leave = context.__exit__ if world.is_sync else context.__aexit__
    await caller.do(leave, error and type(error), error, None)


@pytest.mark.parametrize("how", ["commit", "rollback"])
async def test_work_and_record_end_together(
    world: World, dsn: str, name: str, admin: Admin, work: str, how: str
) -> None:
    """Both are there after COMMIT, and neither after ROLLBACK."""
    client = world.client(dsn)
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one(row_factory=dict_row)
        context, todo = await enters(world, client, caller, name)
        assert todo
        assert not todo.lost
        todo.check()
        await caller.sql(f"INSERT INTO {work} VALUES (1)")
        await leaves(world, context, caller)
        assert not one(admin, DONE, name)
        assert holding(admin, f"once:{name}")
        await caller.end(how)
        assert not holding(admin, f"once:{name}")
        expected = int(how == "commit")
        assert one(admin, DONE, name) == one(admin, f"SELECT count(*) FROM {work}") == expected
        _, again = await enters(world, client, caller, name)
        assert bool(again) is not bool(expected)
        await caller.end("rollback")


async def test_an_exception_records_nothing(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Also where the caller commits what there is."""
    client = world.client(dsn)
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one()
        context, _ = await enters(world, client, caller, name)
        await leaves(world, context, caller, ValueError())
        await caller.end("commit")
        assert not one(admin, DONE, name)
        context, todo = await enters(world, client, caller, name)
        assert todo
        await leaves(world, context, caller)
        await caller.end("commit")
        assert one(admin, DONE, name)


@pytest.mark.parametrize("how", ["commit", "rollback"])
async def test_others_wait_for_the_end_of_the_transaction(
    world: World, dsn: str, name: str, admin: Admin, how: str
) -> None:
    """Whoever waits sees the record then, and lets the lock go at once; or does it."""
    client = world.client(dsn)
    async with Crowd(world, dsn) as crowd:
        first, second = await crowd.one(), await crowd.one()
        context, _ = await enters(world, client, first, name)
        plain = world.actor().entering(plainly := world.client(dsn).once(name))
        late = asyncio.ensure_future(enters(world, client, second, name))
        await is_waiting(admin, f"once:{name}")
        await leaves(world, context, first)
        done, _ = await asyncio.wait([plain, late], timeout=0.1)
        assert not done
        await first.end(how)
        if how == "commit":
            (_, found), other = await late, await plain
            assert isinstance(found, Done)
            assert isinstance(other, Done)
            assert not holding(admin, f"once:{name}")
            assert second.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        else:
            # One of the two does it, and then the other is told.
            done, _ = await asyncio.wait([plain, late], return_when=asyncio.FIRST_COMPLETED)
            if plain in done:
                assert await plain
                actor = world.actor()
                await actor.exit(plainly)
                assert not (await late)[1]
            else:
                context, found = await late
                assert found
                await leaves(world, context, second)
                await second.end("commit")
                assert not await plain
        await second.end("commit")


async def test_the_token_is_that_of_the_record(world: World, dsn: str, name: str) -> None:
    """It rises from one who began to the next, wherever they began."""
    client, actor = world.client(dsn), world.actor()
    tokens = []
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one()
        for _ in range(2):
            context, todo = await enters(world, client, caller, name)
            tokens.append(await caller.do(todo.token))
            await leaves(world, context, caller, ValueError())
            await caller.end("rollback")
            context = client.once(name)
            todo = await actor.enter(context)
            tokens.append(await actor.call(todo.token))
            await actor.exit(context, ValueError())
    assert tokens == sorted(set(tokens))


async def test_a_timeout_leaves_the_transaction_usable(
    world: World, dsn: str, name: str, work: str
) -> None:
    """Nothing but the wait is taken back."""
    client, actor = world.client(dsn), world.actor()
    context = client.once(name)
    await actor.enter(context)
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one()
        await caller.sql(f"INSERT INTO {work} VALUES (1)")
        with pytest.raises(LockTimeout, match="held by"):
            await enters(world, client, caller, name, wait=0.05)
        assert await caller.sql(f"SELECT count(*) FROM {work}") == 1
        await actor.exit(context)
        _, found = await enters(world, client, caller, name)
        assert isinstance(found, Done)
        assert await caller.sql(f"SELECT count(*) FROM {work}") == 1


async def test_what_is_no_transaction_to_commit_with_is_refused(
    world: World, dsn: str, name: str
) -> None:
    """Autocommit, a snapshot that is older than the lock, a connection of another kind."""
    client = world.client(dsn)
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one(autocommit=True)
        with pytest.raises(ConfigError, match=r"with conn\.transaction\(\)"):
            await enters(world, client, caller, name)
        await caller.sql("BEGIN")
        assert (await enters(world, client, caller, name))[1]
        await caller.sql("ROLLBACK")
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            await caller.sql(f"BEGIN ISOLATION LEVEL {level}")
            with pytest.raises(ConfigError, match="READ COMMITTED"):
                await enters(world, client, caller, name)
            await caller.sql("SELECT 1")
            await caller.sql("ROLLBACK")
        kinds: dict[bool, Any] = {True: psycopg.Connection, False: psycopg.AsyncConnection}
        for wrong in (object(), kinds[not world.is_sync].__new__(kinds[not world.is_sync])):
            with pytest.raises(ConfigError, match="must be a psycopg"):
                await world.actor().enter(client.once(name, connection=wrong))


async def test_a_commit_that_does_not_wait_for_the_disk_does_here(
    world: World, dsn: str, name: str
) -> None:
    """Others go on as soon as they read that it is done, so a crash must not undo it."""
    client = world.client(dsn)
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one()
        for setting, expected in (("off", "local"), ("remote_apply", "remote_apply")):
            await caller.sql(f"SET LOCAL synchronous_commit = {setting}")
            context, _ = await enters(world, client, caller, name)
            await leaves(world, context, caller)
            assert await caller.sql("SHOW synchronous_commit") == expected
            await caller.end("rollback")


async def test_a_connection_that_ends_takes_everything_back(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The work, the record and the lock; and it says so."""
    client = world.client(dsn)
    async with Crowd(world, dsn) as crowd:
        caller = await crowd.one()
        context, todo = await enters(world, client, caller, name)
        await caller.do(caller.conn.close)
        assert todo.lost
        with pytest.raises(LockLost):
            todo.check()
        with pytest.raises(psycopg.OperationalError):
            await leaves(world, context, caller)
    await aeventually(lambda: not holding(admin, f"once:{name}"))
    assert await world.actor().within(client.once(name), bool)


async def test_the_table_is_made_outside_of_the_transaction(world: World, server: Server) -> None:
    """The caller's rollback does not take it back; and it is not made in another database."""
    with fresh_database(server) as dsn, fresh_database(server) as elsewhere:
        async with Crowd(world, dsn) as crowd, Crowd(world, elsewhere) as others:
            caller, other = await crowd.one(), await others.one()
            client = world.client(dsn)
            with pytest.raises(ConfigError, match="not in the database of that connection"):
                await enters(world, client, other, "x")
            assert await other.sql("SELECT 1") == 1
            _, todo = await enters(world, client, caller, "x")
            assert todo
            await caller.end("rollback")
        with connect(dsn) as admin:
            assert one(admin, "SELECT count(*) FROM advlock.once") == 0
        await world.close()
