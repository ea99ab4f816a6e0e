"""The server goes away, comes back, or is replaced: nothing is believed across that."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from clusters import hot_standby, steady_cluster
from routes import not_pinned
from waiting import aeventually, eventually

from advlock import DatabaseUnavailable, LockLost
from advlock.embedded._account import Account
from advlock.embedded._postmaster import Postmaster

from .databases import connect
from .helpers import backends, holding, is_waiting, no_locks, one, soon, terminate, waiting

if TYPE_CHECKING:
    from servers import Server

    from advlock.embedded._cluster import Cluster

    from .helpers import Admin
    from .worlds import World

AT_ONCE = 1.6  # seconds; less than a heartbeat


def address(*clusters: Cluster) -> str:
    """A DSN of several hosts, of which one can be written to."""
    hosts = ",".join(str(cluster.socket_dir) for cluster in clusters)
    ports = ",".join(str(cluster.port) for cluster in clusters)
    return (
        f"host={hosts} port={ports} user=postgres dbname=postgres target_session_attrs=read-write"
    )


def promote(standby: Cluster) -> None:
    """Make a standby the primary."""
    with connect(standby.dsn()) as admin:
        assert one(admin, "SELECT pg_promote()") is True


async def told_at_once(told: list[Any], held: Any) -> None:
    """Expect the holder to hear of its loss, once."""
    await aeventually(lambda: told, within=AT_ONCE)
    assert told == [held]
    assert held.lost


# -- a session ends --------------------------------------------------------------------------------


@not_pinned("a client has only one session there")
async def test_sessions_that_are_terminated(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Each takes down its own locks only; who waits goes on waiting, and is granted in time."""
    client = world.client(dsn)
    first, second, third = world.actors(3)
    for key in (name, f"{name}-2"):
        one(rival, "SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
    shared, dedicated = client.hold(f"{name}-shared"), client.hold(name, wait=20)
    own = await first.enter(shared)
    pending = [second.entering(dedicated)]
    waiter = await is_waiting(admin, name)
    terminate(admin, *waiter)
    await aeventually(lambda: (pids := waiting(admin, name)) and pids != waiter)
    assert not own.lost
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    waited = await soon(pending[0])
    more = client.hold(f"{name}-2", wait=20)
    pending.append(third.entering(more))
    await is_waiting(admin, f"{name}-2")
    told: list[Any] = []
    own.on_lost(told.append)
    terminate(admin, *holding(admin, f"{name}-shared"))
    await told_at_once(told, own)
    assert not waited.lost
    assert not pending[1].done()
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", f"{name}-2")
    await soon(pending[1])
    with pytest.raises(LockLost):
        await first.exit(shared)
    await second.exit(dedicated)
    await third.exit(more)


# -- a server ends ---------------------------------------------------------------------------------


def kill(cluster: Cluster) -> None:
    """`kill -9` of the postmaster, as the kernel does when memory runs out."""
    found = Postmaster.read(cluster.data)
    assert found
    Account.current().run(["sh", "-c", f"kill -KILL {found.pid}"])
    eventually(lambda: not found.is_alive(cluster.data))


def stop_at_once(cluster: Cluster) -> None:
    """An immediate stop: nobody is told why."""
    cluster.stop("immediate")


async def test_crashes(world: World, server: Server, name: str) -> None:
    """Every holder is told, every waiter is granted in time, and no lock is left over."""
    with steady_cluster(server) as cluster:
        client, waiters = world.client(cluster.dsn()), world.client(cluster.dsn())
        for crash in (stop_at_once, kill):
            names = [f"{name}-{crash.__name__}-{n}" for n in range(3)]
            actors = world.actors(6)
            contexts = [client.hold(each) for each in names]
            helds = [await a.enter(c) for a, c in zip(actors[:3], contexts, strict=True)]
            told: list[Any] = []
            for held in helds:
                held.on_lost(told.append)
            queue = [waiters.hold(each, wait=15) for each in names]
            pending = [a.entering(c) for a, c in zip(actors[3:], queue, strict=True)]
            with connect(cluster.dsn()) as witness:
                await aeventually(lambda w=witness, n=names: is_waiting(w, *n, count=3))
            await asyncio.to_thread(crash, cluster)
            await aeventually(lambda t=told: len(t) == 3, within=AT_ONCE)
            assert set(told) == set(helds)
            assert all(held.lost for held in helds)
            assert not any(task.done() for task in pending)
            await asyncio.to_thread(cluster.start)
            for task in pending:
                await soon(task, within=10)
            for actor, context in zip(actors[:3], contexts, strict=True):
                with pytest.raises(LockLost):
                    await actor.exit(context)
            for actor, context in zip(actors[3:], queue, strict=True):
                await actor.exit(context)
            with connect(cluster.dsn()) as witness:
                await no_locks(witness)
        for each in (client, waiters):
            await world.actor().call(each.close)


# -- another server --------------------------------------------------------------------------------


async def check_refused(world: World, client: Any, name: str) -> None:
    """Ask a client that knows better than to lock on a former primary."""
    actor = world.actor()
    with pytest.raises(DatabaseUnavailable, match=r"on timeline 1, .* on 2: .* new client"):
        await actor.enter(client.hold(f"{name}-x", wait=5))
    with pytest.raises(DatabaseUnavailable, match="former primary"):
        await actor.enter(client.attempt(f"{name}-x"))


async def check_nobody_else_knows(world: World, dsn: str, name: str, later: int) -> None:
    """A new client takes the former primary for the primary; fencing is what helps."""
    fresh, actor = world.client(dsn), world.actor()
    context = fresh.attempt(name)
    held = await actor.enter(context)
    assert held is not None, "the lock has two holders now"
    assert await actor.call(held.token) < later
    await actor.exit(context)
    await actor.call(fresh.close)


async def test_a_fail_over(world: World, server: Server, name: str) -> None:
    """The primary stops and its standby is promoted: holders are told, waiters carry on there.

    The token rises.
    """
    with steady_cluster(server) as old, hot_standby(old) as new:
        owner, client = (world.client(address(old, new)) for _ in range(2))
        first, second = world.actors(2)
        context, told = owner.hold(name), []
        held = await first.enter(context)
        held.on_lost(told.append)
        token = await first.call(held.token)
        next_one = client.hold(name, wait=20)
        pending = second.entering(next_one)
        with connect(old.dsn()) as admin:
            await is_waiting(admin, name)
        await asyncio.to_thread(old.stop)
        await told_at_once(told, held)
        assert not pending.done()
        await asyncio.to_thread(promote, new)
        moved = await soon(pending, within=10)
        with pytest.raises(LockLost):
            await first.exit(context)
        assert await second.call(moved.token) > token
        assert await first.enter(owner.attempt(name)) is None
        await second.exit(next_one)
        for each in (owner, client):
            await first.call(each.close)


async def test_a_former_primary_comes_back(world: World, server: Server, name: str) -> None:
    """First in the list of hosts, and yet whoever met its successor stays away, and waits for that.

    A client that never saw the new one cannot know. Then there are two holders, and the token of
    the one on the old server is the smaller one.
    """
    with steady_cluster(server) as old, hot_standby(old) as new:
        dsn = address(old, new)
        client = world.client(dsn, application_name=name)
        first, second = world.actors(2)
        await asyncio.to_thread(old.stop)
        await asyncio.to_thread(promote, new)
        context = client.hold(name)
        later = await first.call((await first.enter(context)).token)
        with connect(new.dsn()) as admin:
            one(admin, "SELECT pg_advisory_lock(hashtextextended('other', 0))")
            waiting = client.hold("other", wait=20)
            pending = second.entering(waiting)
            await is_waiting(admin, "other")
            await asyncio.to_thread(old.start)
            await check_nobody_else_knows(world, dsn, name, later)
            terminate(admin, *backends(admin, name))
            with pytest.raises(LockLost):
                await first.exit(context)
            await check_refused(world, client, name)
            one(admin, "SELECT pg_advisory_unlock(hashtextextended('other', 0))")
            await check_refused(world, client, name)
            assert not pending.done()
            await asyncio.to_thread(old.stop)
            await soon(pending, within=10)
            assert holding(admin, "other")
            await second.exit(waiting)
        await first.call(client.close)


async def test_a_split_brain(world: World, server: Server, name: str) -> None:
    """Both live: what a client has on the old one is given up as soon as it meets the new one."""
    with steady_cluster(server) as old, hot_standby(old) as new:
        client = world.client(address(new, old))
        holder, *waiters = world.actors(3)
        context, told = client.hold(name), []
        held = await holder.enter(context)
        held.on_lost(told.append)
        with connect(old.dsn()) as rival, connect(old.dsn()) as admin:
            for key in ("early", "late"):
                one(rival, "SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
            contexts = [client.hold("early", wait=15), client.hold("late", wait=15)]
            pending = [waiters[0].entering(contexts[0])]
            await is_waiting(admin, "early")
            await asyncio.to_thread(promote, new)
            assert not held.lost, "nobody has told it yet"
            began = time.monotonic()
            pending.append(waiters[1].entering(contexts[1]))
            await told_at_once(told, held)
            with pytest.raises(LockLost, match="the database moved to another server"):
                held.check()
            for task in pending:
                assert not (await soon(task, within=5)).lost
            assert time.monotonic() - began < 8
            await no_locks(admin, rival.info.backend_pid)
        with pytest.raises(LockLost, match="moved"):
            await holder.exit(context)
        with connect(new.dsn()) as admin:
            assert len(holding(admin, "early", "late")) == 2
        for waiter, each in zip(waiters, contexts, strict=True):
            await waiter.exit(each)
        await holder.call(client.close)
