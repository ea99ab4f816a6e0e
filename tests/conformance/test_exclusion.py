"""Promise 1: at most one holder of an exclusive key, also among one client's threads or tasks."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from advlock import Key, LockTimeout

from .helpers import contends, entries, holding, is_waiting, one, soon

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import Actor, World

TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


class Occupancy:
    """Counts who is inside, and remembers the most there ever were."""

    def __init__(self) -> None:
        self.inside = self.most = self.entered = 0
        self.counter = 0

    async def visit(self) -> None:
        """Stay a moment: long enough to be seen, and to lose an update to somebody else's."""
        self.inside += 1
        self.entered += 1
        self.most = max(self.most, self.inside)
        seen = self.counter
        await asyncio.sleep(random.uniform(0, 0.002))  # noqa: S311 - jitter
        self.counter = seen + 1
        self.inside -= 1


async def check_one_at_a_time(world: World, clients: list[Any], name: str, rounds: int) -> None:
    """Have several actors of several clients pass through one lock."""
    room = Occupancy()

    async def pass_through(actor: Actor, client: Any) -> None:
        for _ in range(rounds):
            context = client.hold(name, wait=30)
            await actor.enter(context)
            await room.visit()
            await actor.exit(context)

    people = [(world.actor(), client) for client in clients for _ in range(4)]
    await asyncio.gather(*(pass_through(actor, client) for actor, client in people))
    assert room.most == 1
    assert room.counter == room.entered == rounds * len(people)


@pytest.mark.parametrize("clients", [1, 3])
async def test_one_at_a_time(world: World, dsn: str, name: str, clients: int) -> None:
    """Nobody meets anybody inside, whether they share a client or not, and no update is lost."""
    await check_one_at_a_time(world, [world.client(dsn) for _ in range(clients)], name, 10)


async def test_attempts_race_for_one_place(world: World, dsn: str, name: str) -> None:
    """Of many simultaneous attempts at one lock, one gets it; the others get None."""
    clients = [world.client(dsn) for _ in range(2)]
    for turn in range(5):
        people = [(world.actor(), client.attempt(f"{name}-{turn}")) for client in clients * 4]
        got = await asyncio.gather(*(actor.enter(context) for actor, context in people))
        assert sum(held is not None for held in got) == 1
        for actor, context in people:
            await actor.exit(context)


async def test_a_hold_is_what_the_server_says(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A hold is one granted ExclusiveLock in pg_locks, and gone when the block has ended."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    ((_, granted, mode),) = entries(admin, name)
    assert granted
    assert mode == "ExclusiveLock"
    assert held.name == name
    assert held.key == Key.of(name)
    assert not held.lost
    held.check()
    await actor.exit(context)
    assert not entries(admin, name)


async def test_sql_and_we_exclude_each_other(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """Whoever takes the documented key in SQL keeps us out, and is kept out by us."""
    client, actor = world.client(dsn), world.actor()
    assert one(rival, TAKE, name)
    assert await actor.enter(client.attempt(name)) is None
    assert one(rival, FREE, name)
    context = client.hold(name, wait=5)
    await actor.enter(context)
    assert not one(rival, TAKE, name)
    await actor.exit(context)
    assert one(rival, TAKE, name)
    assert one(rival, FREE, name)


async def test_sharers_share_and_keep_an_exclusive_holder_out(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Any number hold it shared, of one client or of two; none beside an exclusive holder."""
    first, second = world.client(dsn), world.client(dsn)
    people = [(world.actor(), client.hold(name, shared=True)) for client in (first, first, second)]
    for actor, context in people:
        await actor.enter(context)
    assert {mode for _, _, mode in entries(admin, name)} == {"ShareLock"}
    outsider = world.actor()
    for client in (first, second):
        assert await outsider.enter(client.attempt(name)) is None
        with pytest.raises(LockTimeout):
            await outsider.enter(client.hold(name, wait=0.02))
    for count, (actor, context) in enumerate(people, start=1):
        assert holding(admin, name)
        await actor.exit(context)
        attempt = first.attempt(name)
        assert (await outsider.enter(attempt) is not None) == (count == len(people))
        await outsider.exit(attempt)
    assert not entries(admin, name)


async def test_an_exclusive_holder_keeps_sharers_out(world: World, dsn: str, name: str) -> None:
    """Nobody shares what somebody holds alone; when it is free, they do."""
    first, second = world.client(dsn), world.client(dsn)
    owner, guest = world.actors(2)
    context = first.hold(name)
    await owner.enter(context)
    for client in (first, second):
        assert await guest.enter(client.attempt(name, shared=True)) is None
    shared = second.hold(name, shared=True, wait=5)
    task = guest.entering(shared)
    await owner.exit(context)
    await soon(task)
    await guest.exit(shared)


async def test_a_lock_object_excludes_a_hold(world: World, dsn: str, name: str) -> None:
    """`lock`, `hold` and `attempt` are ways into the same lock."""
    client = world.client(dsn)
    owner, guest = world.actors(2)
    lock = client.lock(name)
    assert await owner.call(lock.acquire)
    assert await guest.enter(client.attempt(name)) is None
    with pytest.raises(LockTimeout):
        await guest.enter(client.hold(name, wait=0.02))
    assert await guest.call(client.lock(name).acquire, blocking=False) is False
    await owner.exit(lock)
    context = client.hold(name, wait=5)
    await guest.enter(context)
    assert await owner.call(lock.acquire, timeout=0.02) is False
    await guest.exit(context)


async def test_one_lock_object_is_held_once(world: World, dsn: str, name: str) -> None:
    """Two actors that share a lock object do not share the lock."""
    lock = world.client(dsn).lock(name)
    first, second = world.actors(2)
    assert await first.call(lock.acquire)
    assert await second.call(lock.acquire, timeout=0.02) is False
    assert await second.call(lock.acquire, blocking=False) is False
    pending = second.start(lock.acquire)
    await first.exit(lock)
    assert await soon(pending) is True
    await second.exit(lock)


async def check_readers_make_way(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """One reader in, a writer elsewhere in the queue, and a second reader of the same client."""
    client, first, second = world.client(dsn), world.actor(), world.actor()
    reading, late = client.hold(name, shared=True), client.hold(name, shared=True)
    await first.enter(reading)
    sql = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
    writer = asyncio.create_task(asyncio.to_thread(rival.execute, sql, [name]))
    await is_waiting(admin, name)
    attempt = client.attempt(name, shared=True)
    overtook = await second.enter(attempt)
    if overtook:
        await second.exit(attempt)
        await first.exit(reading)
        await writer
    assert not overtook
    pending = second.entering(late)
    await contends(client, admin, name, count=1 + (not client._pinned))
    await first.exit(reading)
    await writer
    assert not pending.done()
    rival.execute("SELECT pg_advisory_unlock_all()")
    await soon(pending)
    await second.exit(late)


async def test_readers_of_one_client_make_way_for_a_writer(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A share that is held already does not let further readers past a writer who waits."""
    await check_readers_make_way(world, dsn, name, rival, admin)
