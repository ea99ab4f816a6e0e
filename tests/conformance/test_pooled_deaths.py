"""Behind a pooler: who dies leaves nothing there, and the pooler's own death is survived."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import DatabaseUnavailable, LockLost, UnsafeServer

from .helpers import holding, no_locks, soon, terminate
from .pooled import servers_of
from .processes import program

if TYPE_CHECKING:
    from bouncers import Bouncer

    from .pooled import Pools
    from .worlds import World

pytest_plugins = ["conformance.pooled_fixtures"]

AT_ONCE = 1.6  # seconds; less than a heartbeat
ENDS = {
    "kill -9": ("program.py", "holds"),
    "os._exit": ("pooled_program.py", "vanishes"),
    "an exception": ("program.py", "raises"),
    "sys.exit": ("program.py", "exits"),
}
BEHIND: dict[str, tuple[str, dict[str, object]]] = {
    "transaction": ("transaction", {}),
    "session": ("session", {}),
    "session, never reset": ("session", {"server_reset_query": ""}),
}
DEATHS = [*((end, "transaction") for end in ENDS), *(("kill -9", behind) for behind in BEHIND)]


@pytest.mark.parametrize(("end", "behind"), dict.fromkeys(DEATHS))
async def test_a_process_that_dies_leaves_nothing(
    world: World, pools: Pools, name: str, end: str, behind: str
) -> None:
    """Its lock is free at once, no backend of the pool keeps any, and none stays lent."""
    mode, settings = BEHIND[behind]
    pooler = pools.bouncer(mode, **settings)
    script, role = ENDS[end]
    async with program(script, world.name, role, pooler.dsn(pools.dbname), name) as holder:
        assert await holder.says() == "held"
        assert len(holding(pools.admin, name)) == 1
        ended = time.monotonic()
        if role == "holds":
            holder.kill()
        else:
            await holder.tell()
        # Before the process has ended: finalizers may take their time.
        await aeventually(lambda: not holding(pools.admin, name), message="the lock is free")
        if role in {"holds", "vanishes"}:
            assert time.monotonic() - ended < AT_ONCE
        await holder.ends()
    await no_locks(pools.admin, within=AT_ONCE)
    await aeventually(lambda: not pooler.pinned(), within=AT_ONCE)


@pytest.mark.parametrize("releases_first", [True, False])
async def test_a_closed_client_gives_its_session_back(
    world: World, pools: Pools, name: str, releases_first: bool
) -> None:
    """After close() the session is in the pool again, the same one, and without a lock."""
    with pools.own() as pooler:
        client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
        contexts = [client.hold(f"{name}-{number}") for number in range(3)]
        for context in contexts:
            await actor.enter(context)
        (pid,) = {pid for n in range(3) for pid in holding(pools.admin, f"{name}-{n}")}
        assert pooler.pinned() == 1
        if releases_first:
            for context in contexts:
                await actor.exit(context)
        await actor.call(client.close)
        await aeventually(lambda: not pooler.pinned(), within=AT_ONCE)
        await no_locks(pools.admin, within=AT_ONCE)
        assert pid in servers_of(pooler, pools.dbname)


# -- the pooler dies -------------------------------------------------------------------------------


async def check_survived(world: World, pools: Pools, pooler: Bouncer, name: str) -> None:
    """Hold and wait across the pooler's death: the one is told, the other is granted."""
    owner, other = world.client(pooler.dsn(pools.dbname)), world.client(pooler.dsn(pools.dbname))
    first, second = world.actors(2)
    told: list[Any] = []
    context, waited_for = owner.hold(name), other.hold(name)
    held = await first.enter(context)
    held.on_lost(told.append)
    assert await second.enter(other.attempt(name)) is None  # it is connected
    pending = second.entering(waited_for)
    await world.pause(0.3)
    assert not pending.done()
    pooler.kill()
    await aeventually(lambda: told == [held], within=AT_ONCE, message="the holder is told")
    assert held.lost
    await no_locks(pools.admin, within=AT_ONCE)
    assert not pending.done()
    pooler.start()
    again = await soon(pending)
    assert not again.lost
    with pytest.raises(LockLost):
        await first.exit(context)
    assert await first.enter(owner.attempt(name)) is None
    fresh = owner.hold(f"{name}-2")
    assert not (await first.enter(fresh)).lost
    await first.exit(fresh)
    await second.exit(waited_for)
    await no_locks(pools.admin, within=AT_ONCE)


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_the_poolers_death_is_survived(
    world: World, pools: Pools, name: str, mode: str
) -> None:
    """Holders learn it at once, who waits goes on waiting and is granted by the new one."""
    with pools.own(mode) as pooler:
        await check_survived(world, pools, pooler, name)
        await world.close()
        await aeventually(lambda: not pooler.pinned(), within=AT_ONCE)


async def test_nobody_gets_in_while_the_pooler_is_away(
    world: World, pools: Pools, name: str
) -> None:
    """Who asks meanwhile is told that there is no database; afterwards it works."""
    with pools.own() as pooler:
        client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
        first = client.hold(name)
        await actor.enter(first)
        await actor.exit(first)
        pooler.kill()
        with pytest.raises(DatabaseUnavailable, match="refused"):
            await soon(actor.entering(client.attempt(name)))
        pooler.start()
        again = client.hold(name, wait=3)
        await actor.enter(again)
        await actor.exit(again)


@pytest.mark.parametrize(
    ("before", "after"), [("session", "transaction"), ("transaction", "session")]
)
async def test_a_pooler_that_comes_back_in_another_mode(
    world: World, pools: Pools, name: str, before: str, after: str
) -> None:
    """Clients that knew it before exclude each other, and leave nothing."""
    with pools.own(before) as pooler:
        clients = [world.client(pooler.dsn(pools.dbname)) for _ in range(2)]
        actors = world.actors(2)
        for client, actor in zip(clients, actors, strict=True):
            context = client.hold(name)
            await actor.enter(context)
            await actor.exit(context)
        pooler.settings["pool_mode"] = after
        pooler.restart()
        for _ in range(5):
            context = clients[0].hold(name, wait=3)
            await actors[0].enter(context)
            assert len(holding(pools.admin, name)) == 1
            assert await actors[1].enter(clients[1].attempt(name)) is None
            await actors[0].exit(context)
            context = clients[1].hold(name)
            await actors[1].enter(context)
            assert await actors[0].enter(clients[0].attempt(name)) is None
            await actors[1].exit(context)
        await no_locks(pools.admin, within=AT_ONCE)


async def test_a_pooler_that_comes_back_in_statement_mode(
    world: World, pools: Pools, name: str
) -> None:
    """Nobody can be excluded there any more: UnsafeServer, also for who waits already."""
    with pools.own() as pooler:
        owner = world.client(pooler.dsn(pools.dbname))
        other = world.client(pooler.dsn(pools.dbname))
        first, second = world.actors(2)
        context = owner.hold(name)
        await first.enter(context)
        assert await second.enter(other.attempt(name)) is None
        pending = second.entering(other.hold(name))
        await world.pause(0.2)
        pooler.settings["pool_mode"] = "statement"
        pooler.restart()
        with pytest.raises(UnsafeServer, match="statement mode"):
            await soon(pending)
        with pytest.raises(LockLost):
            await first.exit(context)
        with pytest.raises(UnsafeServer, match="statement mode"):
            await soon(first.entering(owner.attempt(name)))
        await no_locks(pools.admin)


# -- a backend dies --------------------------------------------------------------------------------


async def test_a_pinned_backend_that_is_terminated(world: World, pools: Pools, name: str) -> None:
    """All holds of the client on it are lost at once, and the next ones are on another."""
    pooler = pools.bouncer()
    client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
    told: list[Any] = []
    contexts = [client.hold(name), client.hold(f"{name}-2")]
    for context in contexts:
        (await actor.enter(context)).on_lost(told.append)
    (pid,) = holding(pools.admin, name)
    assert terminate(pools.admin, pid) == 1
    await aeventually(lambda: len(told) == 2, within=AT_ONCE)
    assert all(held.lost for held in told)
    for context in contexts:
        with pytest.raises(LockLost, match="terminating connection due to administrator command"):
            await actor.exit(context)
    fresh = client.hold(name)
    await actor.enter(fresh)
    assert holding(pools.admin, name) != [pid]
    await actor.exit(fresh)


# -- the pooler is configured anew while it runs ---------------------------------------------------


async def check_reloaded_mode(world: World, pools: Pools, name: str) -> None:
    """Go from session to transaction mode by RELOAD, with clients connected in the old one."""
    with pools.own("session", default_pool_size=4) as pooler:
        clients = [world.client(pooler.dsn(pools.dbname)) for _ in range(2)]
        actors = world.actors(2)
        await _use(clients, actors, name)
        pooler.reload(pool_mode="transaction")
        with contextlib.suppress(DatabaseUnavailable, LockLost):
            await _use(clients, actors, name)  # what they were lent goes back with the answer
        for number in range(20):
            await _believe_alone(clients, actors, f"{name}-{number}")


async def _use(clients: list[Any], actors: list[Any], name: str) -> None:
    for client, actor in zip(clients, actors, strict=True):
        context = client.hold(f"{name}-use")
        await actor.enter(context)
        await actor.exit(context)


async def _believe_alone(clients: list[Any], actors: list[Any], name: str) -> None:
    contexts = [client.attempt(name) for client in clients]
    entered = []
    for context, actor in zip(contexts, actors, strict=True):
        with contextlib.suppress(DatabaseUnavailable):
            held = await actor.enter(context)
            if held is not None:
                entered.append((context, actor, held))
    await asyncio.sleep(0.01)
    believing = [held for *_, held in entered if not held.lost]
    assert len(believing) <= 1, f"{len(believing)} believe that they hold {name}"
    for context, actor, _ in entered:
        with contextlib.suppress(LockLost):
            await actor.exit(context)


async def test_a_reload_into_transaction_mode(world: World, pools: Pools, name: str) -> None:
    """Never do two believe at once."""
    await check_reloaded_mode(world, pools, name)
