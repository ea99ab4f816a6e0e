"""A holder whose session is gone learns it, keeps its own exception, and can start again."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import private_cluster
from routes import not_pinned
from waiting import aeventually

from advlock import LockError, LockLost, LockNotHeld
from advlock._session import Session

from .helpers import entries, holding, is_waiting, no_locks, one, soon, terminate

if TYPE_CHECKING:
    from servers import Server

    from .helpers import Admin
    from .worlds import World


class BodyError(Exception):
    """What a body may raise."""


async def lose(admin: Admin, name: str) -> None:
    """End the session that holds a lock."""
    (pid,) = holding(admin, name)
    assert terminate(admin, pid) == 1
    await aeventually(lambda: not holding(admin, name))


async def test_every_hold_of_the_session_is_lost(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """`lost`, `check` and the exit say so, for each lock that the session carried."""
    client, actor = world.client(dsn), world.actor()
    contexts = [client.hold(f"{name}-{number}") for number in range(3)]
    helds = [await actor.enter(context) for context in contexts]
    assert not any(held.lost for held in helds)
    await lose(admin, f"{name}-0")
    await aeventually(lambda: all(held.lost for held in helds))
    for held, context in zip(helds, contexts, strict=True):
        assert "lost" in repr(held)
        with pytest.raises(LockLost):
            held.check()
        with pytest.raises(LockLost) as caught:
            await actor.exit(context)
        assert caught.value.name == held.name
        assert caught.value.key == held.key


async def test_a_loss_nobody_looked_for_is_raised_at_the_end(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A body that returned normally while its lock was gone does not look like a success."""
    client, actor = world.client(dsn), world.actor()

    def body(_: Any) -> None:
        (pid,) = holding(admin, name)
        terminate(admin, pid)

    for way in (client.hold(name), client.attempt(name), client.lock(name)):
        await no_locks(admin)  # a session that is told to end lets go a moment later
        with pytest.raises(LockLost):
            await actor.within(way, world.defines(body))
    with pytest.raises(LockLost):
        await actor.within(client.hold_all([name, f"{name}-2"]), world.defines(body))


async def test_a_release_that_finds_the_end_tells_it(
    world: World, dsn: str, name: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only by raising: whoever listens, and the log, hear of the loss, once."""
    monkeypatch.setattr(Session, "tend", lambda _: 60.0)  # or the watcher finds it first
    client, actor = world.client(dsn), world.actor()
    context, told = client.hold(name), []
    held = await actor.enter(context)
    held.on_lost(told.append)
    terminate(admin, *holding(admin, name))
    with pytest.raises(LockLost):
        await actor.exit(context)
    await aeventually(lambda: told)
    assert told == [held]


async def test_the_bodys_exception_stays_on_top(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A failing release is a note to the body's exception, which comes out as the same object."""
    client, actor = world.client(dsn), world.actor()
    mine = BodyError("mine")

    def body(_: Any) -> None:
        (pid,) = holding(admin, name)
        terminate(admin, pid)
        raise mine

    ways = [client.hold(name), client.attempt(name), client.lock(name), client.hold_all([name])]
    for count, way in enumerate(ways, start=1):
        await no_locks(admin)
        with pytest.raises(BodyError) as caught:
            await actor.within(way, world.defines(body))
        assert caught.value is mine
        assert len(mine.__notes__) == count
        assert "lost" in mine.__notes__[-1]


async def test_the_next_use_reconnects(world: World, dsn: str, name: str, admin: Admin) -> None:
    """After a loss the client works again at once, also without having noticed it before."""
    client, actor = world.client(dsn), world.actor()
    for turn in range(4):
        context = client.hold(name)
        await actor.enter(context)
        await lose(admin, name)
        if turn % 2:
            other = client.hold(f"{name}-other", wait=5)
            await actor.enter(other)
            await actor.exit(other)
        with pytest.raises(LockLost):
            await actor.exit(context)
    context = client.hold(name, wait=5)
    held = await actor.enter(context)
    assert not held.lost
    assert len(holding(admin, name)) == 1
    await actor.exit(context)


async def test_on_lost_is_called_once(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The callback gets the hold; one that raises stops no other; a late one is called."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    told: list[Any] = []

    def fail(_: Any) -> None:
        told.append("failed")
        raise ZeroDivisionError

    await actor.call(held.on_lost, told.append)
    await actor.call(held.on_lost, fail)
    await actor.call(held.on_lost, told.append)
    await lose(admin, name)
    await aeventually(lambda: held.lost)
    with pytest.raises(LockLost):
        await actor.exit(context)
    await aeventually(lambda: told == [held, "failed", held])
    await actor.call(held.on_lost, told.append)
    assert told == [held, "failed", held, held]


async def test_a_normal_end_is_no_loss(world: World, dsn: str, name: str) -> None:
    """Nobody is told of a loss when a lock is released, nor when its client is closed later."""
    client, actor = world.client(dsn), world.actor()
    told: list[Any] = []
    context = client.hold(name)
    held = await actor.enter(context)
    held.on_lost(told.append)
    await actor.exit(context)
    await actor.call(client.close)
    await world.pause(0.05)
    assert told == []


async def test_a_callback_that_exits_stops_no_other(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """`sys.exit()` in one of them neither ends the loop nor keeps anybody from being told."""
    client, actor = world.client(dsn), world.actor()
    contexts = [client.hold(f"{name}-{number}") for number in range(3)]
    helds = [await actor.enter(context) for context in contexts]
    told: list[Any] = []
    for held in helds:
        held.on_lost(lambda _: sys.exit(1))
        held.on_lost(told.append)
    await lose(admin, f"{name}-0")
    await aeventually(lambda: len(told) == len(helds), within=1)
    assert set(told) == set(helds)
    for context in contexts:
        with pytest.raises(LockLost):
            await actor.exit(context)


@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_a_callback_that_waits_holds_up_no_other_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Each lock's callbacks have a thread of their own."""
    client, actor, over = world.client(dsn), world.actor(), threading.Event()
    contexts = [client.hold(f"{name}-{number}") for number in range(3)]
    helds = [await actor.enter(context) for context in contexts]
    begun: list[Any] = []
    for held in helds:
        held.on_lost(begun.append)
        held.on_lost(lambda _: over.wait(10))
    try:
        await lose(admin, f"{name}-0")
        await aeventually(lambda: len(begun) == len(helds), within=1)
    finally:
        over.set()
    for context in contexts:
        with pytest.raises(LockLost):
            await actor.exit(context)


async def test_somebody_elses_unlock_is_noticed(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """When the server answers an unlock with false, the lock was lost, and the exit says so."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    session = held._ticket.session
    # What only a server without real advisory locks would do: forget the lock behind our back.
    session.wire.pgconn.nonblocking = 0
    session.wire.pgconn.exec_(b"SELECT pg_advisory_unlock_all()")
    session.wire.pgconn.nonblocking = 1
    assert not entries(admin, name)
    with pytest.raises(LockLost):
        await actor.exit(context)
    again = client.hold(name, wait=5)
    await actor.enter(again)
    await actor.exit(again)


async def test_a_lock_object_is_usable_after_a_loss(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Its release raises LockLost once; then it can be acquired again."""
    lock, actor = world.client(dsn).lock(name), world.actor()
    await actor.call(lock.acquire)
    await lose(admin, name)
    with pytest.raises(LockLost):
        await actor.exit(lock)
    assert not lock.locked()
    with pytest.raises(LockNotHeld):
        await actor.call(lock.release)
    assert await actor.call(lock.acquire, timeout=5)
    assert lock.locked()
    await actor.exit(lock)
    await no_locks(admin)


@not_pinned("the shared session carries the lock there, whoever waited for it")
async def test_a_lost_waiting_session_is_lost_like_the_shared_one(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A lock that was granted to a waiter is lost with the waiter's session; no other is."""
    client = world.client(dsn)
    first, second = world.actors(2)
    other = client.hold(f"{name}-other")
    bystander = await first.enter(other)
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    context = client.hold(name)
    pending = second.entering(context)
    await is_waiting(admin, name)
    assert one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    held = await soon(pending)
    await lose(admin, name)
    await aeventually(lambda: held.lost)
    with pytest.raises(LockLost):
        await second.exit(context)
    assert not bystander.lost
    await first.exit(other)


async def test_a_server_restart(world: World, server: Server, name: str) -> None:
    """Holders learn that their locks are gone; waiters go on waiting, and get the lock."""
    with private_cluster(server) as cluster:
        dsn = cluster.dsn()
        cluster._settings["port"] = psycopg.conninfo.conninfo_to_dict(dsn)["port"]
        owner, client = world.client(dsn), world.client(dsn)
        first, second = world.actors(2)
        context, next_one = owner.hold(name), client.hold(name)
        held = await first.enter(context)
        pending = second.entering(next_one)
        with psycopg.connect(dsn, autocommit=True) as witness:
            await is_waiting(witness, name)
        await asyncio.to_thread(cluster.stop)
        await aeventually(lambda: held.lost)
        assert not pending.done()
        await asyncio.to_thread(cluster.start)
        await soon(pending, within=10)
        with pytest.raises(LockLost):
            await first.exit(context)
        assert await first.enter(owner.attempt(name)) is None
        await second.exit(next_one)
        for way in (owner.hold(name, wait=5), client.hold(name, wait=5)):
            await first.enter(way)
            await first.exit(way)
        await first.call(owner.close)
        await first.call(client.close)


async def test_a_hold_of_a_closed_client_is_over(world: World, dsn: str, name: str) -> None:
    """A block that outlives its client's close() ends with an error, not as if all were well."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    await world.actor().call(client.close)
    assert held.lost
    with pytest.raises(LockError):
        await actor.exit(context)
