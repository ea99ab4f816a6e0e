"""Behind a pooler that has nothing to lend: an answer in time, clear words, and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import aeventually

from advlock import DatabaseUnavailable, LockTimeout
from advlock._liveness import Bounds

from .helpers import entries, holding, no_locks, soon
from .pooled import FREE, TAKE, in_the_queue, plain_clients

if TYPE_CHECKING:
    from bouncers import Bouncer

    from .pooled import Pools
    from .worlds import Actor, World

pytest_plugins = ["conformance.pooled_fixtures"]

LIVENESS = 3  # seconds
TRUST = Bounds(LIVENESS).behind_a_pooler().trust
BUSY = 0.7  # seconds that a busy machine may take more
THE_POOL = r"default_pool_size"
CLIENTS = ["new", "connected"]


async def make_client(world: World, actor: Actor, dsn: str, name: str, kind: str) -> Any:
    """Make a client that has never connected, or one that has, and holds nothing."""
    client = world.client(dsn, liveness=LIVENESS)
    if kind == "connected":
        context = client.hold(f"{name}-before")
        await actor.enter(context)
        await actor.exit(context)
    return client


async def works(actor: Actor, client: Any, name: str) -> None:
    """Take a lock and let it go; a pooler may take a moment to have something again."""
    context = client.hold(name, wait=5)
    await soon(actor.entering(context), within=6)
    await actor.exit(context)


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_limited_wait_ends_in_time(
    world: World, pools: Pools, name: str, kind: str
) -> None:
    """hold(wait=1) is LockTimeout after a second, and never holds the lock when it is over."""
    pooler = pools.bouncer(default_pool_size=2)
    actor = world.actor()
    client = await make_client(world, actor, pooler.dsn(pools.dbname), name, kind)
    with plain_clients(pooler, pools.dbname, 2):
        start = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            await actor.enter(client.hold(name, wait=1))
        assert 0.9 < time.monotonic() - start < 1 + BUSY
        assert "pooler" in str(caught.value) or kind == "new"
    await never_held(pools, pooler, name)
    await works(actor, client, name)


@pytest.mark.parametrize(("verb", "kind"), [("hold", "connected"), ("attempt", "new")])
async def test_an_unlimited_wait_says_what_is_wrong(
    world: World, pools: Pools, name: str, kind: str, verb: str
) -> None:
    """hold() and attempt() do not hang: DatabaseUnavailable, which names the pool."""
    pooler = pools.bouncer(default_pool_size=2)
    actor = world.actor()
    client = await make_client(world, actor, pooler.dsn(pools.dbname), name, kind)
    with plain_clients(pooler, pools.dbname, 2):
        start = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=THE_POOL):
            await soon(actor.entering(getattr(client, verb)(name)), within=3 * TRUST + BUSY)
        assert time.monotonic() - start < 2 * TRUST + BUSY
    await never_held(pools, pooler, name)
    await works(actor, client, name)


async def never_held(pools: Pools, pooler: Bouncer, name: str) -> None:
    """Expect that what was given up is gone: from the queue, from the pool, from the server."""
    await aeventually(lambda: not in_the_queue(pooler, pools.dbname), message="nobody waits")
    await aeventually(lambda: not pooler.pinned(), message="nothing is lent")
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert not entries(pools.admin, name)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", CLIENTS)
async def test_the_poolers_own_patience(world: World, pools: Pools, name: str, kind: str) -> None:
    """query_wait_timeout ends it sooner, and its error names the pool, too."""
    pooler = pools.bouncer(default_pool_size=2, query_wait_timeout=0.5)
    actor = world.actor()
    client = await make_client(world, actor, pooler.dsn(pools.dbname), name, kind)
    with plain_clients(pooler, pools.dbname, 2):
        with pytest.raises(DatabaseUnavailable, match=THE_POOL):
            await soon(actor.entering(client.hold(name)))
        with pytest.raises(LockTimeout):
            await soon(actor.entering(client.hold(name, wait=0.3)))
    await never_held(pools, pooler, name)
    await works(actor, client, name)


async def test_too_many_clients(world: World, pools: Pools, name: str) -> None:
    """max_client_conn is named; when others have left it works."""
    with pools.own(max_client_conn=2) as pooler:
        dsn = pooler.dsn(pools.dbname)
        others = [psycopg.connect(dsn, autocommit=True) for _ in range(2)]
        client, actor = world.client(dsn), world.actor()
        with pytest.raises(DatabaseUnavailable, match="max_client_conn"):
            await soon(actor.entering(client.hold(name)))
        with pytest.raises(DatabaseUnavailable, match="max_client_conn"):
            await soon(actor.entering(client.attempt(name)))
        for other in others:
            other.close()
    await no_locks(pools.admin)


async def test_room_for_one_client_alone(world: World, pools: Pools, name: str) -> None:
    """Where none is left to find out the mode by, the error says so, and nothing hangs."""
    with pools.own(max_client_conn=1) as pooler:
        client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
        with pytest.raises(DatabaseUnavailable, match="max_client_conn"):
            await soon(actor.entering(client.hold(name)))
        await aeventually(lambda: not pooler.pinned())
    await no_locks(pools.admin)


async def test_a_holder_is_not_hurt_by_a_full_pool(world: World, pools: Pools, name: str) -> None:
    """Whoever has a session keeps it: more locks, heartbeats and releases need no other one."""
    pooler = pools.bouncer(default_pool_size=2)
    client, actor = world.client(pooler.dsn(pools.dbname), liveness=LIVENESS), world.actor()
    first, second = client.hold(name), client.hold(f"{name}-2")
    held = await actor.enter(first)
    with plain_clients(pooler, pools.dbname, 1):
        await actor.enter(second)
        assert [one.pid for one in await actor.call(client.holders, name)] == holding(
            pools.admin, name
        )
        await world.pause(TRUST + 0.3)
        assert not held.lost
        await actor.exit(second)
        await actor.exit(first)
        await no_locks(pools.admin)
        await aeventually(lambda: pooler.pinned() == 1)


# -- what it costs ---------------------------------------------------------------------------------


async def test_many_locks_cost_one_session_and_none_costs_none(
    world: World, pools: Pools, name: str
) -> None:
    """Held, they are on one pooled session; after release, and after a failed attempt, on none."""
    pooler = pools.bouncer()
    dsn = pooler.dsn(pools.dbname)
    client, other, actor = world.client(dsn), world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(20)]
    contexts = [client.hold(one) for one in names]
    for context in contexts:
        await actor.enter(context)
    assert pooler.pinned() == 1
    assert len(set(holding(pools.admin, *names))) == 1
    for one in names[:3]:
        assert await actor.enter(other.attempt(one)) is None
    with pytest.raises(LockTimeout):
        await actor.enter(other.hold(name + "-0", wait=0.2))
    await aeventually(lambda: pooler.pinned() == 1, within=1, message="a failed try costs nothing")
    for context in contexts:
        await actor.exit(context)
    assert not holding(pools.admin, *names)
    await aeventually(lambda: not pooler.pinned(), within=1, message="nothing held costs nothing")


async def lend_and_return(dsn: str, until: asyncio.Event) -> list[float]:
    """Do what an application does, again and again; how long each query took."""
    took = []
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None
    ) as session:
        while not until.is_set():
            start = time.monotonic()
            await session.execute("SELECT 1")
            took.append(time.monotonic() - start)
            await asyncio.sleep(0.005)
    return took


async def test_those_who_wait_starve_nobody(world: World, pools: Pools, name: str) -> None:
    """20 clients wait, with three sessions in the pool: queries and the release go through."""
    pooler = pools.bouncer(default_pool_size=3)
    dsn = pooler.dsn(pools.dbname)
    pools.admin.execute(TAKE, [name])
    actors = world.actors(20)
    contexts = [world.client(dsn).hold(name) for _ in actors]
    own, owner = world.client(dsn).hold(f"{name}-other"), world.actor()
    await owner.enter(own)
    pending = [actor.entering(one) for actor, one in zip(actors, contexts, strict=True)]
    done = asyncio.Event()
    user = asyncio.create_task(lend_and_return(dsn, done))
    await world.pause(1)
    start = time.monotonic()
    await owner.exit(own)
    assert time.monotonic() - start < BUSY, "the holder's release"
    done.set()
    took = await user
    assert not any(task.done() for task in pending)
    assert sorted(took)[len(took) // 2] < BUSY / 5, "an ordinary client's query"
    assert max(took) < 2 * BUSY
    pools.admin.execute(FREE, [name])
    await _each_in_turn(actors, contexts, pending)
    await no_locks(pools.admin)


async def _each_in_turn(actors: list[Actor], contexts: list[Any], pending: list[Any]) -> None:
    """Have each of them enter and leave, whoever comes next."""
    left = dict(zip(pending, zip(actors, contexts, strict=True), strict=True))
    while left:
        done, _ = await asyncio.wait(left, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1, "one at a time"
        (task,) = done
        assert not task.result().lost
        actor, context = left.pop(task)
        await actor.exit(context)


async def test_a_wait_that_is_given_up_leaves_nothing(
    world: World, pools: Pools, name: str
) -> None:
    """Closed while it waits, behind a full pool or a busy lock: no session stays lent."""
    pooler = pools.bouncer(default_pool_size=2)
    client, actor = world.client(pooler.dsn(pools.dbname), liveness=LIVENESS), world.actor()
    pools.admin.execute(TAKE, [name])
    pending = actor.entering(client.hold(name))
    await world.pause(0.3)
    closer = world.actor()
    with plain_clients(pooler, pools.dbname, 2):
        await world.pause(0.3)
        world.forget(client)
        await soon(closer.start(client.close), within=2 * TRUST + BUSY)
        with contextlib.suppress(Exception):
            await soon(pending)
    pools.admin.execute(FREE, [name])
    await never_held(pools, pooler, name)
