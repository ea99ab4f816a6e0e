"""`lock()` behaves as the stdlib's lock does, to the letter."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import LockNotHeld

from .helpers import entries, holding, soon, terminate

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

# Arguments of acquire(), as (args, kwargs). Both locks get them while they are free.
ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((True,), {}),
    ((False,), {}),
    ((True, -1), {}),
    ((True, 0), {}),
    ((True, 0.01), {}),
    ((True, True), {}),
    ((1, 1), {}),
    ((0,), {}),
    ((), {"timeout": 0.01}),
    ((), {"timeout": -1}),
    ((), {"timeout": -1.0}),
    ((), {"blocking": False}),
    ((False, -1), {}),
    ((False, 0), {}),
    ((False, 1), {}),
    ((), {"blocking": False, "timeout": 1}),
    ((True, -2), {}),
    ((), {"timeout": -0.5}),
    ((), {"timeout": -1.5}),
    ((), {"timeout": threading.TIMEOUT_MAX * 2}),
    ((), {"timeout": 1e100}),
    ((), {"timeout": math.inf}),
    ((), {"timeout": -math.inf}),
    ((), {"timeout": math.nan}),
    ((), {"timeout": "1"}),
    ((), {"timeout": None}),
    ((True, 1, 1), {}),
    ((), {"wait": 1}),
]


def outcome_of_stdlib(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """What threading.Lock answers: a result, or the type of an error."""
    args, kwargs = arguments
    lock = threading.Lock()
    try:
        return lock.acquire(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - which one is what we ask
        return type(error)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
async def test_acquire_takes_what_the_stdlib_takes(
    world: World, dsn: str, name: str, arguments: Any
) -> None:
    """Every form of acquire() has the result, or raises the error, that threading.Lock's has."""
    client, actor = world.client(dsn), world.actor()
    lock = client.lock(name)
    # A timeout that is an argument error must not be confused with one that is too short.
    assert await actor.call(lock.acquire)
    await actor.exit(lock)
    args, kwargs = arguments
    try:
        outcome = await actor.call(lock.acquire, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 - which one is what we ask
        outcome = type(error)
    expected = outcome_of_stdlib(arguments)
    if isinstance(expected, type):
        assert isinstance(outcome, type), outcome
        assert issubclass(outcome, expected)
        assert not lock.locked()
    elif (args, kwargs) == ((True, 0), {}):
        # Even zero seconds may be enough here; the stdlib's always is.
        assert outcome in (True, False)
    else:
        assert outcome is expected
    if lock.locked():
        await actor.exit(lock)


async def test_release_of_an_unheld_lock_is_the_stdlibs_error(
    world: World, dsn: str, name: str
) -> None:
    """RuntimeError, before the first acquire and after the last release."""
    lock, actor, stdlib = world.client(dsn).lock(name), world.actor(), world.stdlib_lock()
    for one in (stdlib, lock):
        with pytest.raises(RuntimeError):
            await actor.call(one.release)
        await actor.call(one.acquire)
        await actor.call(one.release)
        with pytest.raises(RuntimeError):
            await actor.call(one.release)
    with pytest.raises(LockNotHeld, match=name):
        await actor.call(lock.release)


async def test_the_results_are_the_stdlibs(world: World, dsn: str, name: str) -> None:
    """acquire, release, locked and the context manager return what the stdlib's return."""
    actor = world.actor()
    answers = []
    for lock in (world.stdlib_lock(), world.client(dsn).lock(name)):
        told = [lock.locked(), await actor.call(lock.acquire), lock.locked()]
        told += [await actor.call(lock.release), lock.locked()]
        told += [await actor.enter(lock), lock.locked(), await actor.exit(lock), lock.locked()]
        answers.append(told)
    assert answers[0] == answers[1]


async def test_locked_asks_only_this_object(world: World, dsn: str, name: str) -> None:
    """`locked` is about this lock object; who has the lock elsewhere is `holders`."""
    client = world.client(dsn)
    actor, mine, other = world.actor(), client.lock(name), client.lock(name)
    await actor.call(mine.acquire)
    assert (mine.locked(), other.locked()) == (True, False)
    assert not await actor.call(other.acquire, blocking=False)
    await actor.exit(mine)
    assert not mine.locked()


async def test_release_from_another_actor(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A lock belongs to nobody: whoever has the object may release it."""
    lock = world.client(dsn).lock(name)
    first, second, third = world.actors(3)
    await first.call(lock.acquire)
    pending = third.start(lock.acquire)
    await second.call(lock.release)
    assert await soon(pending) is True
    await first.call(lock.release)
    await aeventually(lambda: not entries(admin, name))


async def test_it_is_not_reentrant(world: World, dsn: str, name: str) -> None:
    """A second acquire by the same actor waits, as the stdlib's does, and times out."""
    actor = world.actor()
    for lock in (threading.Lock(), world.client(dsn).lock(name)):
        assert await actor.call(lock.acquire)
        assert await actor.call(lock.acquire, timeout=0.02) is False
        assert await actor.call(lock.acquire, blocking=False) is False
        await actor.call(lock.release)


async def test_a_second_acquire_waits_for_a_release_elsewhere(
    world: World, dsn: str, name: str
) -> None:
    """As with the stdlib, it is somebody else's release that ends an endless second acquire."""
    lock = world.client(dsn).lock(name)
    first, second = world.actors(2)
    await first.call(lock.acquire)
    pending = first.start(lock.acquire)
    await world.pause(0.05)
    assert not pending.done()
    await second.call(lock.release)
    assert await soon(pending) is True
    await first.call(lock.release)


async def test_a_failed_try_does_not_spoil_the_next(world: World, dsn: str, name: str) -> None:
    """After acquires that failed, acquire and release work, any number of times."""
    owner, guest = world.client(dsn).lock(name), world.client(dsn).lock(name)
    first, second = world.actors(2)
    for _ in range(3):
        await first.call(owner.acquire)
        assert await second.call(guest.acquire, blocking=False) is False
        assert await second.call(guest.acquire, timeout=0.02) is False
        assert not guest.locked()
        with pytest.raises(RuntimeError):
            await second.call(guest.release)
        await first.exit(owner)
        assert await second.call(guest.acquire, blocking=False)
        await second.exit(guest)


async def test_a_release_that_was_only_sent_is_not_in_the_way(
    world: World, dsn: str, name: str
) -> None:
    """`release()` and at once a try: it is taken again, as the stdlib's would be."""
    client, actor = world.client(dsn), world.actor()
    await actor.call(client.holders, name)
    client._grace = 5.0  # a busy machine may need more than 40 ms for a round trip
    for _ in range(20):
        lock = client.lock(name)
        assert await actor.call(lock.acquire, blocking=False)
        await actor.call(lock.release)


async def test_it_can_be_weakly_referenced(world: World, dsn: str, name: str, admin: Admin) -> None:
    """As the stdlib's; a lock object that is dropped while held is released, with a warning."""
    lock, actor = world.client(dsn).lock(name), world.actor()
    reference = weakref.ref(lock)
    weakref.ref(world.stdlib_lock())
    await actor.call(lock.acquire)
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what other tests have dropped warns for itself
    with pytest.warns(ResourceWarning, match="never released"):  # noqa: PT031 - a finalizer warns
        del lock
        # The actor's thread may still be about to forget what it was told to call.
        await aeventually(lambda: gc.collect() >= 0 and reference() is None)
    await aeventually(lambda: not entries(admin, name))


async def test_its_repr_shows_its_state(world: World, dsn: str, name: str) -> None:
    """`locked` or `unlocked`, as the stdlib shows it, and the name."""
    lock, actor = world.client(dsn).lock(name), world.actor()
    assert repr(lock).startswith("<unlocked ")
    assert name in repr(lock)
    await actor.call(lock.acquire)
    assert repr(lock).startswith("<locked ")
    await actor.exit(lock)


async def test_no_thread_is_left(world: World, dsn: str, name: str) -> None:
    """A hundred locks, used and dropped, leave as many threads as there were."""
    client, actor = world.client(dsn), world.actor()
    lock = client.lock(name)
    await actor.call(lock.acquire)
    await actor.exit(lock)
    await aeventually(lambda: not [t for t in threading.enumerate() if "connect" in t.name])
    before = threading.active_count()
    for number in range(100):
        lock = client.lock(f"{name}-{number}")
        await actor.call(lock.acquire)
        await actor.exit(lock)
    assert threading.active_count() == before


async def test_a_condition_over_it(world: World, dsn: str, name: str) -> None:
    """threading.Condition and asyncio.Condition work over it: wait, notify, and a timeout."""
    lock = world.client(dsn).lock(name)
    condition: Any = threading.Condition(lock) if world.is_sync else asyncio.Condition(lock)
    consumer, producer = world.actors(2)
    items: list[int] = []

    def has_items() -> bool:
        return bool(items)

    async def consume() -> int:
        async with condition:
            await condition.wait_for(has_items)
            return items.pop()

    def consume_in_thread() -> int:
        with condition:
            assert condition.wait_for(has_items, timeout=5)
            return items.pop()

    def produce(_: Any) -> None:
        items.append(7)
        condition.notify()

    pending = consumer.start(consume_in_thread if world.is_sync else consume)
    await world.pause(0.05)
    assert not pending.done()
    await producer.within(condition, world.defines(produce))
    assert await soon(pending) == 7
    assert not lock.locked()


async def test_release_is_sent_at_once(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Asyncio's plain release() reaches the server without further ado; a thread's has, already."""
    client, actor = world.client(dsn), world.actor()
    lock = client.lock(name)
    await actor.call(lock.acquire)
    start = time.monotonic()
    await actor.call(lock.release)
    await aeventually(lambda: not entries(admin, name))
    assert time.monotonic() - start < 1.6  # before the next heartbeat


async def test_release_of_a_lost_lock_tells(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A release whose session is known to be gone raises; the object is free afterwards."""
    lock, actor = world.client(dsn).lock(name), world.actor()
    await actor.call(lock.acquire)
    terminate(admin, *holding(admin, name))
    await aeventually(lambda: lock._held[0].lost)
    with pytest.raises(Exception, match="lost"):
        await actor.call(lock.release)
    assert not lock.locked()
