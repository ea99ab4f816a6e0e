"""Behind a pooler: its timeouts do not end a hold that has heartbeats, and silence does."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import LockLost
from advlock._liveness import Bounds

from .helpers import holding, no_locks, terminate
from .processes import program

if TYPE_CHECKING:
    from .pooled import Pools
    from .worlds import World

pytest_plugins = ["conformance.pooled_fixtures"]

LIVENESS = 4  # seconds; long enough for a busy machine, and short enough for a test
BOUNDS = Bounds(LIVENESS).behind_a_pooler()
BEAT = BOUNDS.heartbeat
SETTINGS = {"liveness": LIVENESS}
LATE = 1.0  # seconds
PGBOUNCER_LOOKS = 0.34  # seconds between two of its looks at timeouts
LIMITS = {
    "age": {"server_lifetime": 1, "server_idle_timeout": 1, "client_idle_timeout": 1},
    "idle in a transaction": {"idle_transaction_timeout": 3 * BEAT},
    "query": {"query_timeout": 3 * BEAT},
    "no cleaning up": {"server_check_delay": 0, "server_fast_close": 1, "server_lifetime": 1},
}
HELD_FOR = LIVENESS + 0.5


def test_the_limits_are_above_a_heartbeat() -> None:
    """What the tests below assume of the numbers."""
    assert BEAT < 1 < HELD_FOR
    assert 3 * BEAT < HELD_FOR / 2
    assert BOUNDS.lease == LIVENESS


async def test_a_hold_outlasts_the_poolers_limits(world: World, pools: Pools, name: str) -> None:
    """For longer than every limit and the lease: one hold behind each, on its first backend."""
    actor = world.actor()
    contexts, helds, homes = [], [], []
    for which, limits in LIMITS.items():
        client = world.client(pools.dsn(**limits), **SETTINGS)
        contexts.append(client.hold(f"{name}-{which}"))
        helds.append(await actor.enter(contexts[-1]))
        homes.append(holding(pools.admin, f"{name}-{which}"))
    await world.pause(HELD_FOR)
    assert [holding(pools.admin, f"{name}-{which}") for which in LIMITS] == homes
    assert not [held for held in helds if held.lost]
    for context in contexts:
        await actor.exit(context)


async def check_hears_of_it(world: World, pools: Pools, name: str, limit: str) -> None:
    """Be ended by a limit below the heartbeat; be told before anybody else can have the lock."""
    pooler = pools.bouncer(**{limit: BEAT / 2})
    client, other = (world.client(pooler.dsn(pools.dbname), liveness=10) for _ in range(2))
    first, second = world.actors(2)
    told: list[Any] = []
    context = client.hold(name)
    held = await first.enter(context)
    held.on_lost(told.append)
    await aeventually(lambda: not holding(pools.admin, name), message="the pooler ended it")
    assert held.lost
    await aeventually(lambda: told == [held], within=1.6)
    again = other.hold(name, wait=2)
    await second.enter(again)
    with pytest.raises(LockLost, match=limit.replace("_", ".") + "|closed the session"):
        await first.exit(context)
    with contextlib.suppress(LockLost):  # the limit is for this one, too
        await second.exit(again)


@pytest.mark.parametrize("limit", ["idle_transaction_timeout", "query_timeout"])
async def test_a_limit_below_the_heartbeat_is_heard_of(
    world: World, pools: Pools, name: str, limit: str
) -> None:
    """The hold is lost, and the holder knows it at once."""
    await check_hears_of_it(world, pools, name, limit)


# -- leases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_frozen_holder_loses_the_lock(
    world: World, pools: Pools, name: str, mode: str
) -> None:
    """Silence ends a hold within `liveness`, known at the first look; a living one stays."""
    dsn = pools.dsn(mode)
    client, actor = world.client(dsn, **SETTINGS), world.actor()
    living = client.hold(f"{name}-living")
    alive = await actor.enter(living)
    async with program(
        "program.py", world.name, "believes", dsn, name, json.dumps(SETTINGS)
    ) as holder:
        assert await holder.says() == "held"
        holder.freeze()
        frozen = time.monotonic()
        try:
            await aeventually(lambda: not holding(pools.admin, name), within=LIVENESS + LATE)
            assert time.monotonic() - frozen > LIVENESS - 2 * BEAT - 0.2
            context = client.hold(name, wait=1)
            await actor.enter(context)
            holder.thaw()
            assert await holder.says() == "told of 1, lost is True"
            assert await holder.says() == "LockLost"
            await actor.exit(context)
        finally:
            holder.thaw()
            await holder.tell()
    assert not alive.lost
    await actor.exit(living)


@pytest.mark.parametrize("world", ["async"], indirect=True)
@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_blocked_loop_stops_believing_first(
    world: World, pools: Pools, name: str, mode: str
) -> None:
    """Whoever blocks the loop is told by the clock, before the server lets go."""
    client = world.client(pools.dsn(mode), **SETTINGS)
    context = client.hold(name)
    held = await context.__aenter__()
    began = time.monotonic()
    while not held.lost:
        time.sleep(0.01)  # noqa: ASYNC251 - to block is the point
    assert time.monotonic() - began < BOUNDS.trust + LATE
    assert len(holding(pools.admin, name)) == 1, "told before the server let go"
    with pytest.raises(LockLost):
        await context.__aexit__(None, None, None)
    await no_locks(pools.admin)


async def test_an_explicit_lease_is_kept(world: World, pools: Pools, name: str) -> None:
    """lease=2 behind the pooler: two seconds, whatever `liveness` is."""
    lease = json.dumps({"lease": 2})
    async with program("program.py", world.name, "believes", pools.dsn(), name, lease) as holder:
        assert await holder.says() == "held"
        holder.freeze()
        frozen = time.monotonic()
        try:
            await aeventually(lambda: not holding(pools.admin, name), within=2 + LATE)
            assert time.monotonic() - frozen > 2 - 2 * Bounds(lease=2).heartbeat - 0.2
        finally:
            holder.thaw()
        assert await holder.says() == "told of 1, lost is True"
        assert await holder.says() == "LockLost"


async def test_a_session_that_a_dba_ends(world: World, pools: Pools, name: str) -> None:
    """In session mode, too, the goodbye passes through the pooler at once."""
    client, actor = world.client(pools.dsn("session")), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    assert terminate(pools.admin, *holding(pools.admin, name)) == 1
    await aeventually(lambda: held.lost, within=LATE)
    with pytest.raises(LockLost, match="administrator"):
        await actor.exit(context)
