"""`semaphore`: at most so many at a time, in every world and along every route."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import ConfigError, Key, LockLost, LockNotHeld, LockTimeout

from .helpers import Counting, contends, holding, no_locks, one, soon, terminate
from .worlds import awaited

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

CHANCES = 20
TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, %s))"


def queue(name: str) -> Key:
    """What the first of those who wait for a slot holds."""
    return Key.agreed(name, 0)


async def first_waits(client: Any, name: str) -> None:
    """Wait until somebody in this client is the first to wait for a slot."""

    def there() -> bool:
        first = client._ledger.find_held(queue(name), None)
        return first is not None and first.waker is not None

    await aeventually(there, message="the first to wait")


async def test_so_many_and_no_more(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Three clients share three slots, each another one; the fourth finds none, then one."""
    clients = [world.client(dsn) for _ in range(4)]
    actors = world.actors(4)
    held = [client.semaphore(name, 3).hold() for client in clients[:3]]
    slots = [await actor.enter(each) for actor, each in zip(actors, held, strict=False)]
    assert sorted(slot.slot for slot in slots) == [0, 1, 2]
    for slot in slots:
        assert slot.name == name
        assert slot.key == Key.slot(name, slot.slot)
        assert len(holding(admin, slot.key)) == 1
        assert not slot.lost
    fourth = clients[3].semaphore(name, 3)
    assert await actors[3].enter(fourth.attempt()) is None
    await actors[1].exit(held[1])
    context = fourth.hold(wait=5)
    last = await actors[3].enter(context)
    assert last.slot == slots[1].slot
    for actor, each in zip((actors[0], *actors[2:]), (held[0], held[2], context), strict=True):
        await actor.exit(each)


async def test_threads_of_one_client_share_it_too(world: World, dsn: str, name: str) -> None:
    """Of one session, which the server would let have each slot again."""
    client = world.client(dsn)
    semaphore = client.semaphore(name, 2)
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        actor = world.actor()
        for _ in range(3):
            context = semaphore.hold()
            await actor.enter(context)
            inside += 1
            most = max(most, inside)
            await world.pause(0.02)
            inside -= 1
            await actor.exit(context)

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(6))), 20)
    assert most == 2


async def test_a_free_slot_costs_one_round_trip(world: World, dsn: str, name: str) -> None:
    """The second time, when it knows which one was free."""
    client, actor = world.client(dsn), world.actor()
    semaphore = client.semaphore(name, 4)
    for _ in range(2):
        context = semaphore.hold()
        slot = await actor.enter(context)
        session = slot._ticket.session
        await actor.exit(context)
    sent: list[str] = []
    session.wire = Counting(session.wire, sent)
    await actor.enter(context := semaphore.hold())
    assert len(sent) == 1
    await actor.exit(context)
    assert len(sent) == 2


async def test_a_wait_that_is_too_long(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """The error says who holds the slots; nothing stays behind, and nobody waits any more."""
    client, actor = world.client(dsn), world.actor()
    for slot in range(2):
        assert one(rival, TAKE, name, slot)
    for _ in range(CHANCES):  # it asks who for 40 ms, which a busy machine may take
        start = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            await actor.enter(client.semaphore(name, 2).hold(wait=0.2))
        assert time.monotonic() - start < 2.0
        assert caught.value.name == name
        await no_locks(admin, rival.info.backend_pid)
        if pids := {holder.pid for holder in caught.value.holders}:
            break
    assert pids == {rival.info.backend_pid}


async def test_nobody_overtakes(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """While somebody waits, an attempt fails although a slot may be free, and a hold queues."""
    client, other = world.client(dsn), world.client(dsn)
    first, second, late = world.actors(3)
    assert one(rival, TAKE, name, 0)
    entering = first.entering(client.semaphore(name, 1).hold())
    await first_waits(client, name)
    assert await late.enter(other.semaphore(name, 1).attempt()) is None
    context = other.semaphore(name, 1).hold()
    behind = second.entering(context)
    await contends(other, admin, queue(name))
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    await soon(entering)
    assert not behind.done()
    await client.close() if not world.is_sync else client.close()
    world.forget(client)
    await soon(behind)
    await second.exit(context)


async def test_disagreement_is_refused(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Whoever says another number of slots is told who says what; nothing of his stays behind."""
    client, other, actor, rival = world.client(dsn), world.client(dsn), *world.actors(2)
    context = client.semaphore(name, 2).hold()
    await actor.enter(context)
    for way in (other.semaphore(name, 3).hold(wait=2), other.semaphore(name, 3).attempt()):
        with pytest.raises(ConfigError, match="3 slots here, and 2 slots for others"):
            await rival.enter(way)
    await actor.exit(context)
    context = other.semaphore(name, 3).hold(wait=2)
    await rival.enter(context)
    await rival.exit(context)
    await no_locks(admin)


async def test_who_waits_is_refused_too(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A holder who says otherwise and came first: the one who waits hears of it."""
    client, other, waits, comes = world.client(dsn), world.client(dsn), *world.actors(2)
    assert one(rival, TAKE, name, 0)
    entering = waits.entering(client.semaphore(name, 1).hold())
    await first_waits(client, name)
    one(rival, "SELECT pg_advisory_lock_shared(%s)", Key.agreed(name, 2).value)
    with pytest.raises(ConfigError, match="1 slot here, and 2 slots for others"):
        await soon(entering)
    with pytest.raises(ConfigError):
        await comes.enter(other.semaphore(name, 1).attempt())
    await no_locks(admin, rival.info.backend_pid)


async def test_a_lost_slot_is_reported(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Once, and the next one gets it."""
    client, actor = world.client(dsn), world.actor()
    semaphore = client.semaphore(name, 1)
    context = semaphore.hold()
    slot = await actor.enter(context)
    terminate(admin, *holding(admin, slot.key))
    await aeventually(lambda: slot.lost)
    with pytest.raises(LockLost) as caught:
        await actor.exit(context)
    assert not getattr(caught.value, "__notes__", [])
    context = semaphore.hold(wait=5)
    assert (await actor.enter(context)).slot == 0
    await actor.exit(context)


async def test_the_first_to_wait_dies(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Its sessions end while it has the queue: the next one takes over; so does it, later."""
    client, other, waits, next_one = world.client(dsn), world.client(dsn), *world.actors(2)
    assert one(rival, TAKE, name, 0)
    context, behind = client.semaphore(name, 1).hold(), other.semaphore(name, 1).hold()
    entering = waits.entering(context)
    await first_waits(client, name)
    follows = next_one.entering(behind)
    await contends(other, admin, queue(name))
    terminate(admin, *holding(admin, queue(name)))
    if not other._pinned:  # or they ask for the queue again and again, in no order
        await first_waits(other, name)
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    await asyncio.wait([entering, follows], return_when=asyncio.FIRST_COMPLETED)
    assert follows.done() or other._pinned
    both = [(next_one, behind, follows), (waits, context, entering)]
    for actor, each, task in sorted(both, key=lambda one: not one[2].done()):
        await soon(task)
        await actor.exit(each)
    await no_locks(admin, rival.info.backend_pid)


async def test_a_plain_lock_is_slot_0(world: World, dsn: str, name: str) -> None:
    """A semaphore of one slot and the lock of that name exclude each other, in one client too."""
    client, actor, other = world.client(dsn), *world.actors(2)
    context = client.hold(name)
    await actor.enter(context)
    assert await other.enter(client.semaphore(name, 1).attempt()) is None
    await actor.exit(context)
    context = client.semaphore(name, 1).hold()
    await actor.enter(context)
    assert await other.enter(client.attempt(name)) is None
    await actor.exit(context)


async def test_as_decorators(world: World, dsn: str, name: str) -> None:
    """Both verbs decorate; a busy attempt skips the call."""
    client, actor = world.client(dsn), world.actor()
    semaphore = client.semaphore(name, 1)
    held = semaphore.hold()(world.defines(lambda: "held"))
    tried = semaphore.attempt()(world.defines(lambda: "tried"))
    assert [await actor.call(held), await actor.call(tried)] == ["held", "tried"]
    context = semaphore.hold()
    await actor.enter(context)
    assert await actor.call(tried) is None
    await actor.exit(context)


async def test_as_the_stdlib_s(world: World, dsn: str, name: str) -> None:
    """`acquire` and `release` as the bounded semaphores of threading and asyncio have them."""
    client, actor = world.client(dsn), world.actor()
    semaphore = client.semaphore(name, 2)
    assert await actor.call(semaphore.acquire) is True
    assert not semaphore.locked()
    assert await actor.call(semaphore.acquire, timeout=5) is True
    assert semaphore.locked()
    assert await actor.call(semaphore.acquire, False) is False
    assert await actor.call(semaphore.acquire, timeout=0.05) is False
    assert await actor.call(semaphore.acquire, timeout=-1) is False
    with pytest.raises(ValueError, match="can't specify timeout for non-blocking acquire"):
        await actor.call(semaphore.acquire, blocking=False, timeout=1)
    with pytest.raises(ValueError, match="n must be one or more"):
        await actor.call(semaphore.release, 0)
    with pytest.raises(ValueError, match="released too many times"):
        await actor.call(semaphore.release, 3)
    await actor.call(semaphore.release, 2)
    with pytest.raises(LockNotHeld):
        await actor.call(semaphore.release)
    await actor.within(semaphore, lambda _: None)
    assert await actor.enter(semaphore) is (True if world.is_sync else None)
    await actor.exit(semaphore)


async def test_what_cannot_be_one(world: World, dsn: str) -> None:
    """A name that is no string, and numbers of slots that are none."""
    client = world.client(dsn)
    for name, slots in ((7, 2), ("", 2), ("x", 0), ("x", True), ("x", "2"), ("x", 1001)):
        with pytest.raises(ConfigError):
            client.semaphore(name, slots)


async def test_a_cancelled_wait_leaves_nothing(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Wherever the wait for a slot is cut off, by closing the client or by a cancellation."""
    assert one(rival, TAKE, name, 0)
    for pause in (0.0, 0.01, 0.05):
        client, actor = world.client(dsn), world.actor()
        entering = actor.entering(client.semaphore(name, 1).hold())
        await world.pause(pause)
        if not world.is_sync:
            actor._task.cancel()  # type: ignore[union-attr]
        await awaited(client.close())
        world.forget(client)
        entering.cancel()
        await asyncio.wait([entering])
        await no_locks(admin, rival.info.backend_pid)
