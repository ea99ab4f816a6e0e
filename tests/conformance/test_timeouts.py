"""`wait=` is kept to the millisecond, covers everything, and a timed-out acquire holds nothing."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from routes import DIRECT, not_pinned

from advlock import LockError, LockTimeout

from .helpers import entries, is_waiting, no_locks, one
from .races import Innocent, Tally, lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .helpers import Admin
    from .worlds import Actor, World

# On an idle machine. A busy one delays the witness, too, so a late answer gets a few more chances.
ACCURACY = 0.05
CHANCES = 5
TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"

# × two servers × two worlds: 8 000; ADVLOCK_TEST_RACES=2.5 makes them 20 000. A pooler changes
# nothing about who wins, so a fifth of them goes through each.
_MANY = float(os.environ.get("ADVLOCK_TEST_RACES", "1"))
RACES = {"server": 1000, "polling": 500, "queue": 500}


def races(kind: str, route: str) -> int:
    """How many timeouts to aim: so many that the aim can settle."""
    return max(500, int(RACES[kind] * _MANY / (1 if route == DIRECT else 5)))


async def overrun(actor: Actor, context: Any, wait: float) -> float:
    """How late a timeout is, in seconds; it must never be early."""
    late = []
    for _ in range(CHANCES):
        start = time.monotonic()
        with pytest.raises(LockTimeout):
            await actor.enter(context)
        late.append(time.monotonic() - start - wait)
        if late[-1] <= ACCURACY:
            break
    assert min(late) > -0.001, "a timeout came early"
    return min(late)


@pytest.mark.parametrize("wait", [0, 0.0005, 0.05, 0.25, "50ms"])
async def test_a_timeout_is_accurate(
    world: World, dsn: str, name: str, rival: Admin, wait: Any
) -> None:
    """A wait on the server ends within 50 ms of what was asked for, and not before."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    seconds = 0.05 if wait == "50ms" else wait
    assert await actor.enter(client.attempt(name)) is None  # connected
    late = await overrun(actor, client.hold(name, wait=wait), seconds)
    assert late <= ACCURACY, f"{late * 1000:.0f} ms late"
    assert len(entries(rival, name)) == 1


@pytest.mark.parametrize("wait", [0.0005, 0.05, 0.25])
async def test_the_local_queue_counts(world: World, dsn: str, name: str, wait: float) -> None:
    """Waiting for another thread or task of the same client ends as accurately."""
    client = world.client(dsn)
    owner, guest = world.actors(2)
    context = client.hold(name)
    await owner.enter(context)
    late = await overrun(guest, client.hold(name, wait=wait), wait)
    assert late <= ACCURACY, f"{late * 1000:.0f} ms late"
    assert not await guest.call(client.lock(name).acquire, timeout=wait)
    await owner.exit(context)


@pytest.mark.parametrize("wait", [0, 0.05, 0.25])
async def test_polling_counts(world: World, dsn: str, name: str, rival: Admin, wait: float) -> None:
    """A client that may not open a second session ends its wait as accurately."""
    client, actor = world.client(dsn, max_connections=1), world.actor()
    rival.execute(TAKE, [name])
    assert await actor.enter(client.attempt(name)) is None
    late = await overrun(actor, client.hold(name, wait=wait), wait)
    assert late <= ACCURACY, f"{late * 1000:.0f} ms late"


@pytest.fixture
def blackhole() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        port = listener.getsockname()[1]
        yield f"host=127.0.0.1 port={port} user=nobody dbname=nothing sslmode=disable"


@pytest.mark.parametrize("wait", [0, 0.05, 0.25])
async def test_connecting_counts(world: World, blackhole: str, name: str, wait: float) -> None:
    """A server that never answers does not outwait the caller; the next call has its own time."""
    client, actor = world.client(blackhole), world.actor()
    for way in (client.hold(name, wait=wait), client.hold_all([name], wait=wait)):
        late = await overrun(actor, way, wait)
        assert late <= ACCURACY, f"{late * 1000:.0f} ms late"
    assert await actor.call(client.lock(name).acquire, timeout=wait) is False


async def test_connecting_counts_for_several_names(world: World, blackhole: str, name: str) -> None:
    """Names that need the server's encoding wait for the connection no longer than asked."""
    client, actor = world.client(blackhole), world.actor()
    with pytest.raises(LockTimeout):
        await actor.enter(client.hold_all([f"{name}-é", f"{name}-è"], wait=0.1))


async def test_closing_does_not_wait_for_a_blackhole(
    world: World, blackhole: str, name: str
) -> None:
    """close() while a connection attempt hangs returns at once, and frees whoever waits for it."""
    client, actor = world.client(blackhole), world.actor()
    with pytest.raises(LockTimeout):
        await actor.enter(client.hold(name, wait=0.02))
    pending = actor.entering(client.hold(name))
    await world.pause(0.02)
    start = time.monotonic()
    await world.actor().call(client.close)
    assert time.monotonic() - start < 1
    with pytest.raises(LockError, match="closed"):
        await asyncio.wait_for(pending, 2)


async def test_a_timeout_says_who_holds_the_lock(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """The error has the name, the key, the wait and the holders, is a TimeoutError, and pickles."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    assert await actor.enter(client.attempt(name)) is None
    for _ in range(5):  # a busy machine may not say in time who it is
        with pytest.raises(LockTimeout) as caught:
            await actor.enter(client.hold(name, wait=0.02))
        error = caught.value
        if error.holders:
            break
    assert isinstance(error, TimeoutError)
    assert isinstance(error, LockError)
    assert (error.name, error.wait) == (name, 0.02)
    (holder,) = [one for one in error.holders if not one.waiting]
    assert holder.pid == rival.info.backend_pid
    assert holder.application == "rival"
    message = str(error)
    assert name in message
    assert "0.02 s" in message
    assert "rival" in message
    assert "{" not in message
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.name, copy.key, copy.holders) == (error.name, error.key, error.holders)


async def test_a_timeout_names_our_own_kind(world: World, dsn: str, name: str) -> None:
    """A holder that uses advlock is named with its host and its process there."""
    owner, client = world.client(dsn), world.client(dsn)
    first, second = world.actors(2)
    context = owner.hold(name)
    await first.enter(context)
    assert await second.enter(client.attempt(name)) is None
    for _ in range(CHANCES):
        with pytest.raises(LockTimeout) as caught:
            await second.enter(client.hold(name, wait=0.02))
        if caught.value.holders:
            break
    (holder,) = [one for one in caught.value.holders if not one.waiting]
    assert holder.process
    assert holder.host == socket.gethostname()
    assert f"pid {holder.process}" in str(caught.value)
    await first.exit(context)


@not_pinned("it polls there: nobody queues on the server")
async def test_holders_shows_the_queue(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """`holders` lists who holds the lock, then who waits for it."""
    client = world.client(dsn)
    first, second = world.actors(2)
    assert await first.call(client.holders, name) == []
    rival.execute(TAKE, [name])
    context = client.hold(name)
    pending = first.entering(context)
    (waiter,) = await is_waiting(admin, name)
    held, waits = await second.call(client.holders, name)
    assert (held.pid, held.waiting, held.shared) == (rival.info.backend_pid, False, False)
    assert (waits.pid, waits.waiting, waits.shared) == (waiter, True, False)
    assert waits.since is not None
    assert one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    await pending
    await first.exit(context)


async def race(world: World, client: Any, database: str, name: str, tally: Tally) -> None:
    """Race several waiters of one client until there were enough timeouts."""
    lanes = [
        lane(world.actor(), client.hold, database, f"{name}-{number}", tally)
        for number in range(tally.lanes)
    ]
    await asyncio.gather(*lanes)


@pytest.mark.parametrize("kind", ["server", "polling"])
async def test_a_timeout_that_races_with_the_grant_holds_nothing(
    world: World, dsn: str, database: str, name: str, admin: Admin, route: str, kind: str
) -> None:
    """Thousands of timeouts at the moment of the grant: every one of them left no lock."""
    connections = 10 if kind == "server" else 1
    client, tally = world.client(dsn, max_connections=connections), Tally(races(kind, route))
    await race(world, client, database, name, tally)
    assert tally.grants > tally.wanted / 25, "the grants never came close to the timeouts"
    await no_locks(admin)
    context = client.hold(f"{name}-0", wait=5)
    actor = world.actor()
    await actor.enter(context)
    await actor.exit(context)


async def test_a_timeout_that_races_with_its_turn_holds_nothing(
    world: World, dsn: str, name: str, admin: Admin, route: str
) -> None:
    """The same for threads or tasks of one client that wait for each other."""
    client, tally = world.client(dsn), Tally(races("queue", route))

    async def pass_on(lock: str) -> None:
        owner, guest = world.actors(2)
        wait = 0.002
        while not tally.full:
            context, other = client.hold(lock), client.hold(lock, wait=wait)
            await owner.enter(context)
            pending = guest.entering(other)
            await asyncio.sleep(0.001)
            await owner.exit(context)
            try:
                await pending
            except LockTimeout:
                tally.count(granted=False)
                wait += 0.00005
            else:
                await guest.exit(other)
                tally.count(granted=True)
                wait = max(0.0002, wait - 0.0001)

    await asyncio.gather(*(pass_on(f"{name}-{number}") for number in range(4)))
    assert tally.grants > tally.wanted / 25
    await no_locks(admin)


async def test_control_an_innocent_timeout_leaves_locks(
    world: World, database: str, name: str, admin: Admin
) -> None:
    """Control: in the same harness, lock_timeout with a session that goes on does leave locks."""
    innocent, tally = Innocent(database), Tally(wanted=6000, lanes=1)
    with innocent.session:
        await lane(world.actor(), innocent.hold, database, name, tally)
    assert tally.leaks, f"no lock was left after {tally.timeouts} timeouts"
    await no_locks(admin)
