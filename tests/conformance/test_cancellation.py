"""Promise 2, when a task is cancelled: at whichever await, it never holds the lock afterwards.

Tasks only: a thread cannot be cancelled (test_interruptions.py has what comes closest).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from .helpers import contends, entries, holding, is_waiting, no_locks, one, soon
from .worlds import World

if TYPE_CHECKING:
    from advlock import AsyncLocks

    from .helpers import Admin, Sessions


TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"


@pytest.fixture
def world() -> World:
    """Tasks, and nothing else."""
    return World("async")


async def works(client: AsyncLocks, *names: str) -> None:
    """Show that the client can take these locks."""
    for name in names:
        async with client.hold(name, wait=5):
            pass


async def test_each_turn_of_the_loop(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Cancelled after exactly n turns of the event loop, for every n until it is through."""
    client = world.client(dsn)
    await works(client, name)
    survived = turns = 0
    while survived < 3:
        task = asyncio.ensure_future(enter_and_leave(client, name))
        for _ in range(turns):
            await asyncio.sleep(0)
        survived += not task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        turns += 1
        assert turns < 5000
    await works(client, name)
    await no_locks(admin)


async def enter_and_leave(client: AsyncLocks, name: str) -> None:
    """One section."""
    async with client.hold(name):
        pass


async def test_a_cancelled_release_is_seen_through(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A task that is cancelled while it releases has released."""
    client = world.client(dsn)
    for turns in range(1, 7):
        context = client.hold(name)
        await context.__aenter__()
        task = asyncio.ensure_future(context.__aexit__(None, None, None))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await works(client, name)
    await no_locks(admin)


async def test_a_cancelled_release_of_several_is_seen_through(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Nor does a cancelled end of hold_all keep any of them, also while somebody refers to them."""
    client = world.client(dsn)
    names = [f"{name}-{number}" for number in range(5)]
    for turns in range(1, 12):
        context = client.hold_all(names)
        helds = await context.__aenter__()
        task = asyncio.ensure_future(context.__aexit__(None, None, None))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await no_locks(admin, within=2)
        assert len(helds) == 5


async def test_asyncio_timeout_is_a_timeout(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """`asyncio.timeout()` around a waiting acquire gives TimeoutError, in time, and no lock."""
    client = world.client(dsn)
    await works(client, name)
    rival.execute(TAKE, [name])
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.hold(name).__aenter__()
    assert time.monotonic() - start < 3
    await aeventually(lambda: len(entries(admin, name)) == 1, message="the waiter left the queue")
    assert one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    await no_locks(admin)
    await works(client, name)


async def test_a_cancelled_waiter_leaves_the_servers_queue(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    rival: Admin,
    admin: Admin,
) -> None:
    """Its session ends at once, so it cannot be granted the lock later."""
    client = world.client(dsn, application_name=application)
    await works(client, name)
    rival.execute(TAKE, [name])
    task = asyncio.ensure_future(client.hold(name).__aenter__())
    await contends(client, admin, name)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await aeventually(lambda: len(entries(admin, name)) == 1)
    await aeventually(lambda: len(sessions(application)) == 1)


async def test_a_cancelled_body_is_cancelled(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """CancelledError comes out of the block as itself, and the lock is free by then."""
    client = world.client(dsn)
    inside = asyncio.Event()

    async def section() -> None:
        async with client.hold(name):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(section())
    await soon(asyncio.ensure_future(inside.wait()))
    assert holding(admin, name)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not entries(admin, name)


async def test_a_task_group_that_fails_frees_everything(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """One task's error cancels holders, local waiters and waiters on the server alike."""
    client, other = world.client(dsn), world.client(dsn)

    async def hold_on(owner: Any) -> None:
        async with owner.hold(name):
            await asyncio.Event().wait()

    async def fail() -> None:
        await is_waiting(admin, name)
        raise ZeroDivisionError

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for owner in (client, client, client, other, other):
                group.create_task(hold_on(owner))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await work()
    await no_locks(admin)
    await works(client, name)
    await works(other, name)
