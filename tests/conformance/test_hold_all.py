"""`hold_all`: several locks or none, in an order that is everybody's."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import pytest
from waiting import aeventually

from advlock import ConfigError, LockError, LockLost, LockTimeout

from .helpers import Counting, contends, entries, holding, no_locks, one, soon, terminate

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

CHANCES = 5  # a busy machine delays the witness, too
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
    took = []
    for _ in range(CHANCES):
        start = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            await actor.enter(client.hold_all(names, wait=0.1))
        took.append(time.monotonic() - start)
        assert took[-1] > 0.099
        assert caught.value.name == names[busy]
        await no_locks(admin, rival.info.backend_pid)
        if took[-1] < 0.25:
            break
    assert min(took) < 0.25


async def test_its_patience_is_shared(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """What waiting for one lock takes is not there for the next."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(2)]
    for busy in names:
        rival.execute(TAKE, [busy])
    await actor.call(client.holders, name)  # it is connected
    start = time.monotonic()
    pending = actor.entering(client.hold_all(names, wait=1.2))
    await contends(client, admin, *names)
    first = min(names, key=client._ascii_key)
    await world.pause(0.9)
    assert one(rival, FREE, first)
    with pytest.raises(LockTimeout):
        await soon(pending)
    assert time.monotonic() - start < 2.0  # or it has begun anew
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
    await aeventually(lambda: not holding(admin, *names))


async def test_a_loss_while_still_acquiring_frees_the_rest(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """When a lock is lost while another is waited for, the timeout is still a timeout."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(4)]
    busy = max(names, key=client._ascii_key)  # the last in the canonical order
    rival.execute(TAKE, [busy])
    pending = actor.entering(client.hold_all(names, wait=2))
    await contends(client, admin, busy)
    others = [each for each in names if each != busy]
    terminate(admin, *set(holding(admin, *others)))
    with pytest.raises(LockTimeout):
        await soon(pending)
    await no_locks(admin, rival.info.backend_pid)


async def test_free_ones_cost_one_round_trip(world: World, dsn: str, name: str) -> None:
    """However many there are: one to take them, and one to release them."""
    client, actor = world.client(dsn), world.actor()
    names = [f"{name}-{number}" for number in range(30)]
    await actor.enter(first := client.hold_all(names))
    session = client._sessions.shared
    await actor.exit(first)
    sent: list[str] = []
    session.wire = Counting(session.wire, sent)
    context = client.hold_all(names[::-1], shared=[f"{name}-shared", 7])
    await actor.enter(context)
    assert sent == ["send_ops"]
    await actor.exit(context)
    assert sent == ["send_ops"] * 2


async def test_some_are_shared(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Those in `shared` let others share them; a name in both is held alone."""
    client, other, actor, second = world.client(dsn), world.client(dsn), *world.actors(2)
    alone, shared = f"{name}-alone", f"{name}-shared"
    context = client.hold_all([alone], shared=[shared, alone], wait=5)
    held = await actor.enter(context)
    assert [one.name for one in held] == [alone, shared]
    modes = {mode for each in (alone, shared) for _, _, mode in entries(admin, each)}
    assert modes == {"ExclusiveLock", "ShareLock"}
    again = other.hold_all((), shared=[shared], wait=5)
    await second.enter(again)
    await second.exit(again)
    for names, shares in (([shared], []), ([], [alone])):
        with pytest.raises(LockTimeout):
            await second.enter(other.hold_all(names, shared=shares, wait=0))
    await actor.exit(context)
    with pytest.raises(ConfigError, match=r"hold_all\(\[\], shared=\['ab'\]\)"):
        client.hold_all([], shared="ab")


async def test_who_waits_holds_nothing_out_of_order(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """What was granted behind the lock that is waited for is given back before the wait."""
    client, actor = world.client(dsn), world.actor()
    names = sorted((f"{name}-{number}" for number in range(5)), key=client._ascii_key)
    rival.execute(TAKE, [names[2]])
    context = client.hold_all(names)
    pending = actor.entering(context)
    await contends(client, admin, names[2])
    await aeventually(lambda: not holding(admin, *names[3:]))
    assert len(holding(admin, *names[:2])) == 2
    for each in names[3:]:
        rival.execute(TAKE, [each])
    assert one(rival, FREE, names[2])
    await contends(client, admin, names[3])
    for each in names[3:]:
        assert one(rival, FREE, each)
    assert len(await soon(pending)) == 5
    await actor.exit(context)
    await no_locks(admin, rival.info.backend_pid)


async def test_within_one_client_too(world: World, dsn: str, name: str) -> None:
    """A lock that another thread or task of this client holds is waited for, and then taken."""
    client, first, second = world.client(dsn), *world.actors(2)
    names = sorted((f"{name}-{number}" for number in range(3)), key=client._ascii_key)
    await first.enter(busy := client.hold(names[1]))
    pending = second.entering(context := client.hold_all(names))
    with pytest.raises(LockTimeout) as caught:
        await world.actor().enter(client.hold_all(names[1:], wait=0.05))
    assert caught.value.name == names[1]
    await first.enter(free := client.attempt(names[2]))
    assert free._held is not None
    await first.exit(free)
    await first.exit(busy)
    await soon(pending)
    await second.exit(context)


async def test_it_does_not_wait_for_itself(world: World, dsn: str, name: str) -> None:
    """Who holds one of them already, and would wait for ever, is told."""
    client, actor = world.client(dsn), world.actor()
    await actor.enter(context := client.hold(name))
    with pytest.raises(LockError, match="would wait for itself for ever"):
        await actor.enter(client.hold_all([f"{name}-2", name]))
    await actor.exit(context)
    await actor.enter(context := client.hold_all([f"{name}-2", name]))
    await actor.exit(context)
