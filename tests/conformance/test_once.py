"""`once`: exactly one does it, the others wait until it is done, and a failure leaves it undone."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from routes import direct_only, not_session
from servers import locks_in_db
from waiting import aeventually

from advlock import (
    AsyncLocks,
    ConfigError,
    DatabaseUnavailable,
    Done,
    Key,
    LockError,
    LockLost,
    Locks,
    LockTimeout,
)
from advlock._once import _sql
from advlock._once._done import Run
from advlock._once._plan import claimed

from .databases import connect, fresh_database, plain_role
from .helpers import holding, one, terminate, waiting

if TYPE_CHECKING:
    from servers import Server

    from .helpers import Admin
    from .worlds import Actor, World

CHANCES = 10
ROW = "SELECT done_at IS NOT NULL, token, done_token, host, pid FROM advlock.once WHERE name = %s"


async def does(actor: Actor, client: Any, name: str, **kwargs: Any) -> bool:
    """Go through it; whether it was ours to do."""
    return bool(await actor.within(client.once(name, **kwargs), bool))


async def test_the_first_does_it_and_the_next_are_told(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Whoever comes later, from wherever, gets who did it and when; and holds no lock."""
    client, other, actor = world.client(dsn), world.client(dsn), world.actor()
    context = client.once(name)
    todo = await actor.enter(context)
    assert todo
    assert not todo.lost
    assert holding(admin, f"once:{name}")
    token = await actor.call(todo.token)
    await actor.exit(context)
    assert not holding(admin, f"once:{name}")
    for late in (client, other):
        context = late.once(name)
        done = await actor.enter(context)
        assert isinstance(done, Done)
        assert not done
        assert done.token == token
        assert abs(datetime.now(UTC) - done.done_at) < timedelta(minutes=5)
        assert done.started_at <= done.done_at
        assert not holding(admin, f"once:{name}")
        await actor.exit(context)
        assert str(done).startswith(f"{name!r} was done at ")


async def test_a_context_may_be_used_again(world: World, dsn: str, name: str) -> None:
    """One after the other, also after it was found done."""
    client, actor = world.client(dsn), world.actor()
    context = client.once(name)
    assert [bool(await actor.within(context, bool)) for _ in range(3)] == [True, False, False]


async def test_an_exception_leaves_it_undone(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The next one does it; and what began and came to no end is on record."""
    client, actor = world.client(dsn), world.actor()

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await actor.within(client.once(name), fail)
    assert not one(admin, ROW, name)
    assert await does(actor, client, name)
    assert one(admin, ROW, name)


async def test_others_wait_until_it_is_done(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """They neither do it nor go on before; then they go on."""
    first, second = world.actors(2)
    context = world.client(dsn).once(name)
    await first.enter(context)
    late = second.entering(world.client(dsn).once(name))
    done, _ = await asyncio.wait([late], timeout=0.2)
    assert not done
    await first.exit(context)
    assert isinstance(await late, Done)
    assert not holding(admin, f"once:{name}")


async def test_who_waits_takes_over_from_who_failed(world: World, dsn: str, name: str) -> None:
    """A failure hands it on to somebody who waits, at once."""
    first, second = world.actors(2)
    contexts = [world.client(dsn).once(name) for _ in range(2)]
    await first.enter(contexts[0])
    late = second.entering(contexts[1])
    await first.exit(contexts[0], ValueError())
    assert await late
    await second.exit(contexts[1])
    assert not await does(first, world.client(dsn), name)


async def test_a_race_of_many_runs_it_once(world: World, dsn: str, name: str) -> None:
    """Eight at a time, of one client and of several."""
    clients = [world.client(dsn) for _ in range(3)]
    ran: list[int] = []
    runs = []
    for number in range(8):
        context = clients[number % 3].once(name)
        runs.append(
            world.actor().within(context, lambda todo, n=number: ran.append(n) if todo else None)
        )
    await asyncio.gather(*runs)
    assert len(ran) == 1


async def test_as_a_decorator_it_runs_or_skips(world: World, dsn: str, name: str) -> None:
    """A call that finds it done returns None; one that runs it returns what the function does."""
    client, actors = world.client(dsn), world.actors(4)

    @client.once(name)  # type: ignore[untyped-decorator]
    @world.defines
    def seed(what: str) -> str:
        return what

    told = await asyncio.gather(*(actor.call(seed, "seeded") for actor in actors))
    assert sorted(told, key=str) == [None, None, None, "seeded"]


async def test_a_function_of_the_other_world_is_refused(world: World, dsn: str, name: str) -> None:
    """It would be done before it has begun."""

    async def coroutine() -> None: ...

    def function() -> None: ...

    def generator() -> Any:
        yield

    client = world.client(dsn)
    for wrong in (coroutine if world.is_sync else function, generator):
        with pytest.raises(ConfigError):
            client.once(name)(wrong)


async def test_wait_limits_how_long(world: World, dsn: str, name: str, admin: Admin) -> None:
    """LockTimeout says who is at it; and whoever gave up holds nothing."""
    first, second = world.actors(2)
    context, late = world.client(dsn).once(name), world.client(dsn)
    await first.enter(context)
    for _ in range(CHANCES):  # it asks who for 40 ms, which a busy machine may take
        with pytest.raises(LockTimeout, match=f"once:{name}") as caught:
            await does(second, late, name, wait=0.1)
        if caught.value.holders:
            break
    assert "held by" in str(caught.value)
    assert not waiting(admin, f"once:{name}")
    await first.exit(context)
    assert not await does(second, late, name, wait=0)


async def test_who_would_wait_for_itself_is_told(world: World, dsn: str, name: str) -> None:
    """Doing it inside of doing it is an error, not a standstill."""
    client, actor = world.client(dsn), world.actor()
    context = client.once(name)
    await actor.enter(context)
    with pytest.raises(LockError, match="already holds"):
        await actor.enter(client.once(name))
    await actor.exit(context)


# -- windows ---------------------------------------------------------------------------------------


async def test_a_window_ends_by_the_server_s_clock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Within it, it is done; once it is over, it is to be done again. It begins with the work."""
    client, actor = world.client(dsn), world.actor()
    assert await does(actor, client, name, per="24h")
    assert not await does(actor, client, name, per="24h")
    admin.execute(
        "UPDATE advlock.once SET started_at = started_at - interval '23 h 59 m',"
        " done_at = done_at - interval '10 d' WHERE name = %s",
        [name],
    )
    assert not await does(actor, client, name, per="24h")
    assert await does(actor, client, name, per="23h")
    assert not await does(actor, client, name)


async def test_no_two_begin_within_a_window(world: World, dsn: str, name: str) -> None:
    """Four who try all the time: between two beginnings lies a window at least."""
    began: list[datetime] = []
    client, other = world.client(dsn), world.client(dsn)

    async def try_all_the_time(client: Any) -> None:
        actor = world.actor()
        while len(began) < 4:
            await does(actor, client, name, per=0.15)
            context = client.once(name, per=1000)
            done = await actor.enter(context)
            assert isinstance(done, Done)
            if done.started_at not in began:
                began.append(done.started_at)

    await asyncio.gather(*(try_all_the_time(one) for one in (client, client, other, other)))
    began.sort()
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert min(gaps) >= timedelta(seconds=0.15), began


async def test_old_windows_go(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A month after a window was over its row goes; what was done for ever stays."""
    client, actor = world.client(dsn), world.actor()
    for suffix, per in (("-old", 1), ("-ever", None), ("-young", 1)):
        assert await does(actor, client, name + suffix, per=per)
    admin.execute(
        "UPDATE advlock.once SET claimed_at = claimed_at - interval '31 d',"
        " started_at = started_at - interval '31 d' WHERE name IN (%s, %s)",
        [f"{name}-old", f"{name}-ever"],
    )
    assert await does(actor, client, name, per=1)
    left = admin.execute("SELECT name FROM advlock.once WHERE name LIKE %s", [f"{name}%"])
    assert {row[0] for row in left} == {name, f"{name}-ever", f"{name}-young"}


async def test_a_namespace_keeps_names_apart(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The lock and the row have it in front."""
    actor = world.actor()
    billing = world.client(dsn, namespace="billing")
    context = billing.once(name)
    await actor.enter(context)
    assert holding(admin, f"billing:once:{name}")
    await actor.exit(context)
    assert one(admin, ROW, f"billing:{name}")
    assert await does(actor, world.client(dsn), name)


# -- the lock is lost ------------------------------------------------------------------------------


async def test_a_lost_lock_leaves_it_undone(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """LockLost, no record, and the next one does it."""
    client, actor = world.client(dsn), world.actor()
    context = client.once(name)
    todo = await actor.enter(context)
    terminate(admin, *holding(admin, f"once:{name}"))
    await aeventually(lambda: todo.lost)
    with pytest.raises(LockLost):
        todo.check()
    with pytest.raises(LockLost, match="was lost"):
        await actor.exit(context)
    assert not one(admin, ROW, name)
    assert await does(actor, client, name)


async def test_who_was_overtaken_records_nothing(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Also if it believes in its lock: the row says that somebody else has begun since."""
    client, actor = world.client(dsn), world.actor()
    context = client.once(name)
    todo = await actor.enter(context)
    # As if the server had granted it to somebody else, and we had not noticed.
    admin.execute("UPDATE advlock.once SET run_id = gen_random_uuid() WHERE name = %s", [name])
    todo.check()
    with pytest.raises(LockLost, match="somebody else has begun"):
        await actor.exit(context)
    assert not one(admin, ROW, name)
    assert await does(actor, client, name)


@direct_only("the record is written beside the session that is pinned, and outlasts it")
async def test_a_session_that_ends_while_it_records_leaves_it_in_doubt(
    world: World, dsn: str, name: str, admin: Admin, rival: Admin
) -> None:
    """LockLost says that it may or may not be on record, which is all that anybody knows."""
    client, actor = world.client(dsn), world.actor()
    context = client.once(name)
    await actor.enter(context)
    pids = holding(admin, f"once:{name}")
    with rival.transaction():
        rival.execute("LOCK TABLE advlock.once IN SHARE MODE")
        ending = actor.start(context.__exit__ if world.is_sync else context.__aexit__, *[None] * 3)
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ANY(%s)"
        await aeventually(lambda: one(admin, blocked, pids))
        terminate(admin, *pids)
        with pytest.raises(LockLost, match="may or may not be recorded"):
            await ending
    assert await does(actor, client, name)


async def test_a_locked_table_stalls_nobody(
    world: World,
    dsn: str,
    name: str,
    admin: Admin,
    rival: Admin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody rewrites the table: `once` gives up soon, and other locks of the client stay."""
    monkeypatch.setattr(_sql, "HASTE", _sql.HASTE.replace("1s", "50ms"))
    client, actor, other = world.client(dsn), world.actor(), world.actor()
    assert await does(actor, client, name)
    lock = client.hold(f"{name}-other")
    held = await other.enter(lock)
    with rival.transaction():
        rival.execute("LOCK TABLE advlock.once IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable, match="locked by somebody else"):
            await does(actor, client, name)
    assert not held.lost
    await other.exit(lock)
    assert not await does(actor, client, name)
    assert not holding(admin, f"once:{name}")


@direct_only("it is about the row alone")
async def test_the_row_decides_who_may_begin_and_end(dsn: str, name: str, admin: Admin) -> None:
    """Whoever has looked before somebody else began may not begin; nor may he end it."""
    with Locks(dsn) as locks, locks.once(f"{name}-0"):
        pass  # makes the table
    first, second, third = (Run(name, token, str(uuid.uuid4())) for token in (1, 2, 3))
    cursor = psycopg.RawCursor(admin)

    def claim(run: Run, seen: Run | None, per: float | None = None) -> bool:
        row = [None] * 6 + [seen and seen.run_id]
        parameters = claimed(run, per, Key.of(name), row)
        return bool(cursor.execute(_sql.CLAIM, parameters).fetchall())

    def mark(run: Run) -> bool:
        return bool(cursor.execute(_sql.MARK, (name, run.run_id)).fetchall())

    assert claim(first, None)
    assert not claim(second, None)
    assert claim(second, first)
    assert not claim(third, first)
    assert not mark(first)
    assert mark(second)
    assert not claim(third, second)
    assert not claim(third, second, 1000)
    assert claim(third, second, 1e-6)
    assert not mark(second)
    assert mark(third)


# -- rights, tables, servers -----------------------------------------------------------------------


async def test_the_table_is_made_on_first_use(world: World, server: Server) -> None:
    """By whoever comes first, and eight may come at once."""
    with fresh_database(server) as dsn:
        clients = [world.client(dsn) for _ in range(8)]
        did = await asyncio.gather(*(does(world.actor(), each, "x") for each in clients))
        assert sum(did) == 1
        await world.close()


async def test_who_may_only_read_learns_that_it_is_done(
    world: World, server: Server, name: str
) -> None:
    """Without a right to the table, and before the body runs, it is refused, with what to type."""
    with fresh_database(server) as dsn, plain_role(dsn) as (role, theirs):
        actor, client = world.actor(), world.client(theirs)
        with pytest.raises(ConfigError, match="advlock init --sql --role"):
            await does(actor, client, name)
        assert await does(actor, world.client(dsn), name)
        with connect(dsn) as admin:
            with pytest.raises(ConfigError, match="advlock init --sql --role"):
                await does(actor, client, name)
            admin.execute(f"GRANT USAGE ON SCHEMA advlock TO {role}".encode())
            admin.execute(f"GRANT SELECT ON advlock.once TO {role}".encode())
            assert not await does(actor, client, name)
            with pytest.raises(ConfigError, match="advlock init --sql --role"):
                await does(actor, client, "something else")
            admin.execute(f"GRANT INSERT, UPDATE ON advlock.once TO {role}".encode())
            assert await does(actor, client, "something else")
        await world.close()


@not_session("one pooler is enough")
async def test_a_cancelled_task_neither_holds_nor_claims(dsn: str, name: str, admin: Admin) -> None:
    """Cancelled at any instant: the lock is free, and only what came to its end is on record."""
    ended: set[str] = set()
    dice = random.Random(name)  # noqa: S311

    async def work(client: AsyncLocks, what: str) -> None:
        async with client.once(what) as todo:
            if todo:
                await asyncio.sleep(0.001)
                ended.add(what)

    async with AsyncLocks(dsn) as client:
        await work(client, f"{name}-0")  # the first makes connections, and tables
        loop = asyncio.get_running_loop()
        began = loop.time()
        await work(client, f"{name}-1")
        took = loop.time() - began
        for number in range(2, 60):
            task = asyncio.create_task(work(client, f"{name}-{number}"))
            await asyncio.wait([task], timeout=dice.uniform(0.0, 2 * took))
            took *= 1.25 if task.cancel() else 0.8  # so that some come to their end
            await asyncio.wait([task])
        await aeventually(lambda: not locks_in_db(admin))
    done = {n for (n,) in admin.execute("SELECT name FROM advlock.once WHERE done_at IS NOT NULL")}
    mine = {what for what in done if what.startswith(f"{name}-")}
    assert mine <= ended
    assert 2 < len(mine) < 60, mine
