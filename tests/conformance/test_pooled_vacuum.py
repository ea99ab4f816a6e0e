"""Promise 5 behind a pooler: an open transaction that holds nothing back, whatever it was asked."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from postgres.vacuum import ROWS, dead_rows_kept, leave_dead_rows
from waiting import aeventually

from advlock import LockTimeout, _pin, _sql

from .helpers import holding, one, soon, turns_red
from .pooled import make_table

if TYPE_CHECKING:
    from .pooled import Pools
    from .worlds import Actor, World

pytest_plugins = ["conformance.pooled_fixtures"]

SOON = 1.5  # seconds
FOOTPRINT = """
SELECT backend_xid IS NULL AND backend_xmin IS NULL FROM pg_stat_activity WHERE pid = %s
"""
TABLE_LOCKS = "SELECT array_agg(DISTINCT locktype) FROM pg_locks WHERE pid = %s"
BUILD = "CREATE INDEX CONCURRENTLY ON {} (id)"


class Scene:
    """Somebody who holds a lock through a pooler, and somebody who waits for it."""

    def __init__(self, world: World, pools: Pools, name: str) -> None:
        self.pools, self.name = pools, name
        self.client, self.other = (world.client(pools.dsn()) for _ in range(2))
        self.holder, self.waiter = world.actors(2)
        self.table = make_table(pools.admin)
        self.context = self.client.hold(name)
        self.held: Any = None
        self.pending: Any = None

    async def begin(self) -> None:
        """Hold, and wait."""
        self.held = await self.holder.enter(self.context)
        assert await self.waiter.enter(self.other.attempt(self.name)) is None
        self.waited_for = self.other.hold(self.name)
        self.pending = self.waiter.entering(self.waited_for)

    async def check(self) -> None:
        """Check that the transaction has no trace of what was asked in it, and holds up nobody."""
        admin = self.pools.admin
        (pid,) = holding(admin, self.name)
        assert set(one(admin, TABLE_LOCKS, pid)) == {"advisory", "virtualxid"}
        assert one(admin, FOOTPRINT, pid), "the pinned transaction has a snapshot or an id"
        leave_dead_rows(admin, self.table)
        await aeventually(lambda: dead_rows_kept(admin, self.table) == 0, within=SOON)
        await self.check_index()
        assert holding(admin, self.name) == [pid]
        assert not self.pending.done()

    async def check_index(self, patience: str = "5s") -> None:
        """Have an index built, by which everybody's snapshot is waited for."""
        admin, start = self.pools.admin, time.monotonic()
        admin.execute(f"SET statement_timeout = '{patience}'")
        try:
            await asyncio.to_thread(admin.execute, BUILD.format(self.table))
        except psycopg.errors.QueryCanceled:
            pytest.fail("CREATE INDEX CONCURRENTLY was held up")
        finally:
            admin.execute("SET statement_timeout = 0")
        assert time.monotonic() - start < 2 * SOON

    async def end(self) -> None:
        """Let the other one have it."""
        await self.holder.exit(self.context)
        await soon(self.pending)
        await self.waiter.exit(self.waited_for)
        self.pools.admin.execute(f"DROP TABLE {self.table}")


async def nothing(_: World, scene: Scene, actor: Actor) -> None:
    """Hold, and no more."""


async def token(_: World, scene: Scene, actor: Actor) -> None:
    """Draw a fencing token."""
    assert await actor.call(scene.held.token) > 0


async def holders(_: World, scene: Scene, actor: Actor) -> None:
    """Ask who holds it, which reads system tables."""
    assert len(await actor.call(scene.client.holders, scene.name)) == 1


async def shares(_: World, scene: Scene, actor: Actor) -> None:
    """Share another lock, twice, and keep one: the second time asks pg_locks."""
    first, second = (scene.client.hold(f"{scene.name}-shared", shared=True) for _ in range(2))
    for context in (first, second):
        await actor.enter(context)
    await actor.exit(first)
    await actor.exit(second)


async def timed_out(_: World, scene: Scene, actor: Actor) -> None:
    """Wait in vain for what somebody else has."""
    scene.pools.admin.execute("SELECT pg_advisory_lock(7, 7)")
    with pytest.raises(LockTimeout):
        await actor.enter(scene.client.hold((7, 7), wait=0.3))
    scene.pools.admin.execute("SELECT pg_advisory_unlock(7, 7)")


async def several(_: World, scene: Scene, actor: Actor) -> None:
    """Take several locks, and release some of them: combined requests."""
    contexts = [scene.client.hold(f"{scene.name}-{number}") for number in range(5)]
    for context in contexts:
        await actor.enter(context)
    for context in contexts:
        await actor.exit(context)


async def heartbeats(world: World, *_: object) -> None:
    """Let one pass at least; see `_sql.HEARTBEAT`."""
    await world.pause(2)


@pytest.mark.parametrize(
    "after",
    [nothing, token, holders, shares, timed_out, several, heartbeats],
    ids=lambda f: f.__name__,
)
async def test_nothing_is_held_back(
    world: World, pools_of_each: Pools, name: str, after: Any
) -> None:
    """VACUUM removes dead rows, and an index is built, while it is held and waited for."""
    scene = Scene(world, pools_of_each, name)
    await scene.begin()
    await after(world, scene, scene.holder)
    await scene.check()
    await scene.end()


async def test_without_the_return_that_turns_red(
    world: World, pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: requests that do not end in a return to the savepoint keep their snapshot."""
    compose = _pin.compose

    def compose_without(*args: Any) -> _pin.Request:
        request = compose(*args)
        steps = tuple(step for step in request.steps if step.sql != _sql.ROLLBACK_TO_SAVEPOINT)
        return request._replace(steps=steps)

    monkeypatch.setattr(_pin, "compose", compose_without)
    scene = Scene(world, pools, name)
    await scene.begin()
    await turns_red(scene.check())
    leave_dead_rows(pools.admin, scene.table)
    assert dead_rows_kept(pools.admin, scene.table) == ROWS
    await turns_red(scene.check_index("1s"))
    await scene.end()


async def test_a_waiter_that_polls_leaves_nothing_open(
    world: World, pools: Pools, name: str
) -> None:
    """Whoever waits has no transaction between two polls, and nothing of it stays in the pool."""
    pooler = pools.bouncer()
    pools.admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    client, actor = world.client(pools.dsn()), world.actor()
    context = client.hold(name)
    pending = actor.entering(context)
    await aeventually(lambda: client._pinned, message="it is connected")
    seen = []
    for _ in range(50):
        seen.append(pooler.pinned())
        await asyncio.sleep(0.02)
    assert sum(seen) < len(seen) / 2
    pools.admin.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
    await soon(pending)
    await actor.exit(context)
