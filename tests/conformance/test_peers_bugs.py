"""One case for each bug that was seen in a lock library for PostgreSQL, and must not be ours.

The name says the bug, the docstring how it showed. What other files check already is not repeated.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from clusters import free_port
from routes import not_pinned
from waiting import aeventually

from advlock import AsyncLocks, DatabaseUnavailable, LockTimeout

from .helpers import contends, entries, holding, is_waiting, no_locks, one, soon

if TYPE_CHECKING:
    from .helpers import Admin, Sessions
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


async def test_zero_seconds_meant_the_default(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """`timeout=0` was read as "not given", and waited for the default time (pals)."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    assert await actor.enter(client.attempt(name)) is None
    start = time.monotonic()
    with pytest.raises(LockTimeout):
        await actor.enter(client.hold(name, wait=0))
    assert not await actor.call(client.lock(name).acquire, timeout=0)
    assert time.monotonic() - start < 5


async def test_less_than_a_millisecond_meant_for_ever(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """0.0005 s became 0 ms, which switches PostgreSQL's timeout off (pg-dlock)."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    assert await actor.enter(client.attempt(name)) is None
    for wait in (0.0005, 0.00001, 1e-9):
        assert not await soon(actor.start(client.lock(name).acquire, timeout=wait))


async def test_a_failed_try_kept_its_connection(
    world: World, dsn: str, name: str, application: str, sessions: Sessions, rival: Admin
) -> None:
    """The 16th failing try blocked for 30 s on an exhausted pool (pals)."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    rival.execute(TAKE, [name])
    start = time.monotonic()
    for _ in range(40):
        assert await actor.enter(client.attempt(name)) is None
        assert not await actor.call(client.lock(name).acquire, blocking=False)
    assert time.monotonic() - start < 20
    assert len(sessions(application)) == 1


async def test_the_message_was_never_formatted(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """The failure message showed a literal placeholder (pals)."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    with pytest.raises(LockTimeout) as caught:
        await actor.enter(client.hold(name, wait=0.01))
    assert name in str(caught.value)
    assert not set("{}%") & set(str(caught.value))


async def test_two_acquires_and_one_release_freed_both(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """acquire() twice returned True twice, and one release() freed it (pals)."""
    lock, actor = world.client(dsn).lock(name), world.actor()
    assert await actor.call(lock.acquire)
    assert await actor.call(lock.acquire, blocking=False) is False
    assert len(entries(admin, name)) == 1
    await actor.exit(lock)
    assert not entries(admin, name)


async def test_key_zero_was_missing(world: World, dsn: str, admin: Admin) -> None:
    """The key 0 was taken for "no key" (django-pglock)."""
    client, actor = world.client(dsn), world.actor()
    for key in (0, (0, 0)):
        context = client.hold(key)
        await actor.enter(context)
        assert len(holding(admin, key)) == 1
        await actor.exit(context)


@not_pinned("nobody waits on the server there, whose backend could die")
async def test_a_dead_backend_counted_as_a_timeout(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Any OperationalError meant "not acquired" (django-pglock); so did a cancel (pg-dlock)."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    lock = client.lock(name)
    pending = actor.start(lock.acquire)
    for statement in ("SELECT pg_terminate_backend(%s)", "SELECT pg_cancel_backend(%s)"):
        (pid,) = await is_waiting(admin, name)
        assert one(admin, statement, pid)
        await aeventually(lambda pid=pid: pid not in [each for each, *_ in entries(admin, name)])
    assert not pending.done()
    assert one(rival, FREE, name)
    assert await soon(pending) is True
    await actor.exit(lock)


async def test_acquire_and_release_left_the_connection_open(
    world: World, dsn: str, name: str, application: str, sessions: Sessions
) -> None:
    """Five locks that were acquired and released left five idle sessions (pg-dlock)."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    locks = [client.lock(f"{name}-{number}") for number in range(5)]
    for lock in locks:
        await actor.call(lock.acquire)
    for lock in locks:
        await actor.exit(lock)
    assert len(sessions(application)) == 1


async def test_waiting_for_a_pool_slot_was_not_counted(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """With a full pool, a timeout of 0.25 s took 30 s (pg-dlock)."""
    client = world.client(dsn, max_connections=2)
    patient, hasty = world.actors(2)
    for busy in (name, f"{name}-2"):
        rival.execute(TAKE, [busy])
    lock = client.lock(name)
    pending = patient.start(lock.acquire)
    await contends(client, admin, name)
    start = time.monotonic()
    with pytest.raises(LockTimeout):
        await hasty.enter(client.hold(f"{name}-2", wait=0.25))
    assert 0.249 < time.monotonic() - start < 5
    assert one(rival, FREE, name)
    assert await soon(pending)
    await patient.exit(lock)


async def test_a_waiter_stalled_everybody(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A waiting acquire kept all others from their turn (django-pgware)."""
    client = world.client(dsn)
    patient, busy = world.actors(2)
    rival.execute(TAKE, [name])
    lock = client.lock(name)
    pending = patient.start(lock.acquire)
    await contends(client, admin, name)
    other = client.hold(f"{name}-2")
    await asyncio.wait_for(busy.enter(other), 5)
    await busy.exit(other)
    assert one(rival, FREE, name)
    assert await soon(pending)
    await patient.exit(lock)


async def test_a_cancelled_waiter_got_the_lock_later(
    dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """The query went on waiting, was granted the lock, and nobody released it.

    So did django-pgware and postgresql-lock.
    """
    client = AsyncLocks(dsn)
    rival.execute(TAKE, [name])
    task = asyncio.ensure_future(client.lock(name).acquire())
    await contends(client, admin, name)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert one(rival, FREE, name)
    await no_locks(admin)
    await client.close()


async def test_the_first_connection_failure_was_swallowed(world: World, name: str) -> None:
    """Nobody was told that the database was not there (asyncpg-lock)."""
    client, actor = world.client(f"host=127.0.0.1 port={free_port()} dbname=x"), world.actor()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="refused"):
            await actor.enter(client.hold(name))


async def test_an_uncontended_lock_took_seconds(world: World, dsn: str, name: str) -> None:
    """A free lock was handed out after 5 s, and handed over after 9 (asyncpg-lock)."""
    client, other = world.client(dsn), world.client(dsn)
    first, second = world.actors(2)
    start = time.monotonic()
    context, then = client.hold(name), other.hold(name)
    await first.enter(context)
    pending = second.entering(then)
    await world.pause(0.02)
    await first.exit(context)
    await soon(pending)
    await second.exit(then)
    assert time.monotonic() - start < 4.5


async def test_names_collided(world: World, dsn: str) -> None:
    """16 or 32 bits of a hash: unrelated names refused each other (tooz, psycopg-toolbox)."""
    client = world.client(dsn)
    for names in (
        ("job-181", "job-492"),
        ("user:78002", "user:180762"),
        ("job:11352", "job:189279"),
    ):
        first, second = world.actors(2)
        contexts = [client.hold(each, wait=5) for each in names]
        await first.enter(contexts[0])
        await second.enter(contexts[1])
        await first.exit(contexts[0])
        await second.exit(contexts[1])
