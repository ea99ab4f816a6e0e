"""`hold_all`: several locks or none, in an order that is everybody's."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest

from advlock import LockLost, LockTimeout

from .helpers import contends, holding, no_locks, one, soon, terminate

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


async def test_all_are_held_and_then_none(world: World, dsn: str, name: str, admin: Admin) -> None:
    """It enters with one hold for each name, in the order of the names."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{letter}" for letter in "cab"] + [7, (1, 2)]
    context = client.hold_all(names)
    helds = await actor.enter(context)
    assert [held.name for held in helds] == names
    assert len(holding(admin, *names)) == len(names)
    assert not any(held.lost for held in helds)
    await actor.exit(context)
    assert not holding(admin, *names)


async def test_nothing_and_the_same_twice(world: World, dsn: str, name: str) -> None:
    """No names: no locks. A name twice: one lock."""
    client, actor = world.client(dsn), world.actor()
    for names, count in (([], 0), ([name, name], 1), ([name, f"{name}-2", name], 2)):
        context = client.hold_all(names, wait=1)
        assert len(await actor.enter(context)) == count
        await actor.exit(context)


async def test_opposite_orders_do_not_deadlock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Clients, threads and tasks that ask for the same locks in random orders all get them."""
    clients = [world.client(dsn) for _ in range(2)]
    names = [f"{name}-{number}" for number in range(4)]

    async def work(client: object) -> None:
        actor = world.actor()
        for _ in range(8):
            context = client.hold_all(random.sample(names, 3))  # type: ignore[attr-defined]
            await actor.enter(context)
            await actor.exit(context)

    workers = [work(client) for client in clients for _ in range(3)]
    await asyncio.wait_for(asyncio.gather(*workers), 20)
    await no_locks(admin)


@pytest.mark.parametrize("busy", range(3))
async def test_a_timeout_releases_everything(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin, busy: int
) -> None:
    """Whichever of the locks is busy: after the timeout, which is for all of them, none is held."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(3)]
    rival.execute(TAKE, [names[busy]])
    warm = client.attempt(name)
    await actor.enter(warm)
    await actor.exit(warm)
    start = time.monotonic()
    with pytest.raises(LockTimeout) as caught:
        await actor.enter(client.hold_all(names, wait=0.1))
    assert 0.099 < time.monotonic() - start < 0.25
    assert caught.value.name == names[busy]
    await no_locks(admin, rival.info.backend_pid)


async def test_its_patience_is_shared(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """What waiting for one lock takes is not there for the next."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(2)]
    for busy in names:
        rival.execute(TAKE, [busy])
    start = time.monotonic()
    pending = actor.entering(client.hold_all(names, wait=0.3))
    await contends(client, admin, *names)
    first = min(names, key=client._ascii_key)
    await world.pause(0.15)
    assert one(rival, FREE, first)
    with pytest.raises(LockTimeout):
        await soon(pending)
    assert time.monotonic() - start < 0.45
    await no_locks(admin, rival.info.backend_pid)


async def test_one_that_is_lost_is_reported(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """When one of them is lost, the others are released, and the exit raises."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(3)]
    rival.execute(TAKE, [names[1]])
    context = client.hold_all(names)
    pending = actor.entering(context)
    await contends(client, admin, names[1])
    assert one(rival, FREE, names[1])
    await soon(pending)
    terminate(admin, *holding(admin, names[1]))
    await world.pause(0.05)
    with pytest.raises(LockLost):
        await actor.exit(context)
    assert not holding(admin, *names)


async def test_a_loss_while_still_acquiring_frees_the_rest(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """When a lock is lost while another is waited for, the timeout is still a timeout."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(4)]
    busy = max(names, key=client._ascii_key)  # the last in the canonical order
    rival.execute(TAKE, [busy])
    pending = actor.entering(client.hold_all(names, wait=0.5))
    await contends(client, admin, busy)
    others = [each for each in names if each != busy]
    terminate(admin, *set(holding(admin, *others)))
    with pytest.raises(LockTimeout):
        await soon(pending)
    await no_locks(admin, rival.info.backend_pid)
