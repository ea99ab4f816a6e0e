"""Session pooling, and the ways in which a PgBouncer can be configured."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually, eventually

from advlock import DatabaseUnavailable, LockTimeout, _aconnecting, _connecting
from advlock._liveness import Bounds
from advlock._pooling import probe

from .helpers import holding, is_waiting, no_locks, soon, waiting
from .pooled import FREE, TAKE, servers_of
from .processes import program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pooled import Pools
    from .worlds import World

pytest_plugins = ["conformance.pooled_fixtures"]

NOT_RESET = [
    pytest.param({"server_reset_query": ""}, id="empty"),
    pytest.param({"server_reset_query": "RESET ALL"}, id="RESET ALL"),
    pytest.param({"server_reset_query": "SELECT pg_advisory_unlock_all()"}, id="unlock all"),
]
ONE = {"default_pool_size": 1}
LIVENESS = 4  # seconds
BEAT = Bounds(LIVENESS).behind_a_pooler().heartbeat
ODD = {
    "disable_pqexec": {"disable_pqexec": 1},
    "round robin": {"server_round_robin": 1},
    "always reset": {"server_reset_query_always": 1},
    "always RESET ALL": {"server_reset_query_always": 1, "server_reset_query": "RESET ALL"},
    "checked each time": {"server_check_delay": 0},
    "fast close": {"server_fast_close": 1},
    "little buffers": {"pkt_buf": 256, "max_packet_size": 65536},
    "named application": {"application_name_add_host": 1},
}


async def check_works(world: World, dsn: str, pools: Pools, name: str) -> None:
    """Exclude, count, ask, draw, wait, share and release: between two clients there."""
    one, other = world.client(dsn), world.client(dsn)
    first, second = world.actors(2)
    contexts = [one.hold(f"{name}-{number}") for number in range(3)]
    for context in contexts:
        held = await first.enter(context)
    assert len(set(holding(pools.admin, *(f"{name}-{number}" for number in range(3))))) == 1
    assert await second.enter(other.attempt(f"{name}-0")) is None
    (holder,) = await second.call(other.holders, f"{name}-0")
    assert holder.pid in holding(pools.admin, f"{name}-0")
    with pytest.raises(LockTimeout):
        await second.enter(other.hold(f"{name}-0", wait=0.2))
    waited_for = other.hold(f"{name}-2")
    pending = second.entering(waited_for)
    token = await first.call(held.token)
    for context in contexts:
        await first.exit(context)
    again = await soon(pending)
    assert await second.call(again.token) > token
    shares = [client.hold(f"{name}-shared", shared=True) for client in (one, other)]
    await first.enter(shares[0])
    await second.enter(shares[1])
    assert len(holding(pools.admin, f"{name}-shared")) == 2
    await first.exit(shares[0])
    await second.exit(shares[1])
    await second.exit(waited_for)
    await no_locks(pools.admin)


@pytest.mark.parametrize("odd", ODD)
async def test_it_works_with_odd_settings(world: World, pools: Pools, name: str, odd: str) -> None:
    """Whatever a PgBouncer may be configured to do, the locks hold, in both modes."""
    for mode in ("transaction", "session"):
        with pools.own(mode, **ODD[odd]) as pooler:
            await check_works(world, pooler.dsn(pools.dbname), pools, f"{name}-{mode}")
            await world.close()


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_verdict_that_comes_while_a_heartbeat_is_under_way(
    world: World, pools: Pools, name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that has waited long to know what it is behind is fit for use afterwards."""
    with pools.own(mode) as pooler:

        def slow_probe(*args: Any) -> Any:
            verdict = probe(*args)
            pooler.process.send_signal(signal.SIGSTOP)
            time.sleep(2 * BEAT)  # one has been sent by now, if any is
            threading.Timer(BEAT / 2, pooler.process.send_signal, [signal.SIGCONT]).start()
            return verdict

        for module in (_connecting, _aconnecting):
            monkeypatch.setattr(module, "probe", slow_probe)
        client, actor = world.client(pooler.dsn(pools.dbname), liveness=LIVENESS), world.actor()
        context = client.hold(name)
        held = await soon(actor.entering(context))
        assert len(holding(pools.admin, name)) == 1
        assert not held.lost
        await actor.exit(context)
        await world.close()


# -- session pooling -------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", NOT_RESET)
async def test_without_a_reset_a_transaction_pins_the_session(
    world: World, pools: Pools, name: str, reset: dict[str, Any]
) -> None:
    """Locks would outlive their client there; so it pins, and a killed holder leaves nothing."""
    dsn = pools.dsn("session", **reset)
    client, actor = world.client(dsn), world.actor()
    context = client.hold(f"{name}-own")
    await actor.enter(context)
    assert client._pinned
    async with program("program.py", world.name, "holds", dsn, name) as holder:
        assert await holder.says() == "held"
        holder.kill()
        killed = time.monotonic()
        await aeventually(lambda: not holding(pools.admin, name))
        assert time.monotonic() - killed < 1
    await actor.exit(context)


async def test_with_a_reset_it_is_as_without_a_pooler(
    world: World, pools: Pools, name: str
) -> None:
    """Nothing is pinned; who waits does so on the server, is seen there, and gets it at once."""
    client, actor = world.client(pools.dsn("session")), world.actor()
    pools.admin.execute(TAKE, [name])
    others = [world.client(pools.dsn("session")) for _ in range(3)]
    waiters, contexts = world.actors(3), [other.hold(name) for other in others]
    pending = [who.entering(what) for who, what in zip(waiters, contexts, strict=True)]
    await is_waiting(pools.admin, name, count=3)
    own = client.hold(f"{name}-own")
    await actor.enter(own)
    assert not client._pinned
    pools.admin.execute(FREE, [name])
    left = dict(zip(pending, zip(waiters, contexts, strict=True), strict=True))
    while left:
        done, _ = await asyncio.wait(left, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1, "one after the other"
        waiter, context = left.pop(done.pop())
        assert len(holding(pools.admin, name)) == 1
        await waiter.exit(context)
    await actor.exit(own)


async def test_a_killed_waiter_and_a_killed_holder(world: World, pools: Pools, name: str) -> None:
    """Both are soon out of the server's queue, and whoever is next has the lock."""
    pooler = pools.bouncer("session")
    dsn = pooler.dsn(pools.dbname)
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    async with program("program.py", world.name, "holds", dsn, name) as holder:
        assert await holder.says() == "held"
        async with program("program.py", world.name, "waits", dsn, name) as waiter:
            (dead,) = await is_waiting(pools.admin, name)
            pending = actor.entering(context)
            await is_waiting(pools.admin, name, count=2)
            waiter.kill()
            await aeventually(lambda: dead not in waiting(pools.admin, name), within=2)
        holder.kill()
        await soon(pending, within=2)
        await actor.exit(context)
    await no_locks(pools.admin)


async def test_dedicated_sessions_go_back(world: World, pools: Pools, name: str) -> None:
    """Those that waited are in the pool again as soon as nobody waits."""
    pooler = pools.bouncer("session")
    client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
    pools.admin.execute(TAKE, [name])
    context = client.hold(name)
    pending = actor.entering(context)
    await is_waiting(pools.admin, name)
    await aeventually(lambda: pooler.pinned() == 2, message="one that is shared, one that waits")
    pools.admin.execute(FREE, [name])
    await soon(pending)
    await actor.exit(context)
    await aeventually(lambda: pooler.pinned() == 1)
    await actor.call(client.close)
    await aeventually(lambda: not pooler.pinned())


@pytest.fixture
def small(pools: Pools) -> Iterator[str]:
    """A session pool with one session in it."""
    yield pools.dsn("session", **ONE)
    pooler = pools.bouncer("session", **ONE)
    eventually(lambda: not pooler.pinned(), message="it is free again")


async def test_a_session_pool_of_one(world: World, pools: Pools, small: str, name: str) -> None:
    """The first client works alone there; another one is told that the pool is used up."""
    client, other = world.client(small), world.client(small, liveness=3)
    first, second = world.actors(2)
    context = client.hold(name)
    await soon(first.entering(context))
    assert len(holding(pools.admin, name)) == 1
    with pytest.raises(DatabaseUnavailable, match="default_pool_size"):
        await soon(second.entering(other.attempt(name)), within=8)
    with pytest.raises(LockTimeout):
        await soon(second.entering(other.hold(name, wait=0.5)))
    await first.exit(context)
    await first.call(client.close)
    await no_locks(pools.admin)
    again = other.hold(name, wait=9)
    await soon(second.entering(again), within=9)
    await second.exit(again)
    assert len(servers_of(pools.bouncer("session", **ONE), pools.dbname)) == 1
