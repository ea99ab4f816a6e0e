"""Promise 2, when a task is cancelled: 2 000 times at random moments, and no lock is left.

Tasks only: a thread cannot be cancelled (test_interruptions.py has what comes closest).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from typing import TYPE_CHECKING

import pytest
from waiting import aeventually

from advlock import AsyncLocks, LockTimeout

from .helpers import no_locks
from .races import Releaser
from .worlds import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .helpers import Admin, Sessions

# × two servers: 2 000 cancellations that hit a task which was still at it
RACES = {"free": 300, "grant": 300, "queue": 200, "all": 100, "connect": 100}
TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"


@pytest.fixture
def world() -> World:
    """Tasks, and nothing else."""
    return World("async")


class Canceller:
    """Cancels a task at a random moment of its usual life, and counts the hits."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.hits = 0
        self._times = [0.001]

    @property
    def full(self) -> bool:
        """Whether there were enough hits."""
        return self.hits >= self.wanted

    async def cancel(self, section: Callable[[], Awaitable[None]]) -> None:
        """Run `section` in a task, and cancel that."""
        start = time.perf_counter()
        task = asyncio.ensure_future(section())
        usual = statistics.median(self._times)
        await precise_sleep(random.uniform(0, 1.1 * usual))  # noqa: S311 - jitter
        if task.cancel():
            self.hits += 1
        with contextlib.suppress(asyncio.CancelledError, LockTimeout):
            await task
            self._times = [*self._times[-9:], time.perf_counter() - start]


async def precise_sleep(seconds: float) -> None:
    """Let the loop turn until the moment has come: its timers are a millisecond coarse."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:  # noqa: ASYNC110 - it is the time that is waited for
        await asyncio.sleep(0)


async def works(client: AsyncLocks, *names: str) -> None:
    """Show that the client can take these locks."""
    for name in names:
        async with client.hold(name, wait=5):
            pass


async def test_cancelled_anywhere_in_an_uncontended_section(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """However far the section has come, acquiring or releasing, nothing stays; neighbours do."""
    client, canceller = world.client(dsn), Canceller(RACES["free"])
    async with client.hold(f"{name}-neighbour") as neighbour:

        async def section() -> None:
            async with client.hold(name):
                await asyncio.sleep(0)

        while not canceller.full:
            await canceller.cancel(section)
        neighbour.check()
        await works(client, name)
    await no_locks(admin)


async def test_cancelled_together_with_the_grant(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A waiter that is cancelled at the moment of the grant does not hold the lock."""
    client, canceller = world.client(dsn), Canceller(RACES["grant"])
    releaser = Releaser(dsn, name)
    try:

        async def section() -> None:
            async with client.hold(name):
                await asyncio.sleep(0)

        while not canceller.full:
            await releaser.take()
            releaser.let_go_soon()
            await canceller.cancel(section)
            await releaser.has_let_go()
            await aeventually(lambda: not client._ledger.tickets())
    finally:
        releaser.close()
    await works(client, name)
    await no_locks(admin)


async def test_cancelled_in_the_local_queue(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A queue of tasks loses some of its members, and everybody else gets the lock."""
    client, canceller = world.client(dsn), Canceller(RACES["queue"])

    async def section() -> None:
        async with client.hold(name):
            await asyncio.sleep(0)

    async def faithful() -> None:
        while not canceller.full:
            await section()

    friends = [asyncio.ensure_future(faithful()) for _ in range(2)]

    async def fickle() -> None:
        while not canceller.full:
            await canceller.cancel(section)

    await asyncio.gather(*(fickle() for _ in range(4)))
    await asyncio.wait_for(asyncio.gather(*friends), 10)
    await works(client, name)
    await no_locks(admin)


async def test_cancelled_in_hold_all(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Of several locks none stays when the task is cancelled half-way."""
    client, canceller = world.client(dsn), Canceller(RACES["all"])
    names = [f"{name}-{number}" for number in range(5)]

    async def section() -> None:
        async with client.hold_all(names):
            await asyncio.sleep(0)

    while not canceller.full:
        await canceller.cancel(section)
    await works(client, *names)
    await no_locks(admin)


async def test_cancelled_while_connecting(
    world: World, dsn: str, name: str, application: str, sessions: Sessions, admin: Admin
) -> None:
    """A client whose first caller is cancelled is good for the next; no session is left over."""
    del world
    canceller = Canceller(RACES["connect"])
    while not canceller.full:
        client = AsyncLocks(dsn, application_name=application)

        async def section(client: AsyncLocks = client) -> None:
            async with client.hold(name):
                pass

        await canceller.cancel(section)
        if canceller.hits % 10 == 0:
            await works(client, name)
        await client.close()
    await no_locks(admin)
    await aeventually(lambda: not sessions(application), message="all sessions ended")
