"""Fencing tokens behind a pooler: drawn beside the transaction, and only while it has the lock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import aeventually

from advlock import AsyncLocks, DatabaseUnavailable, LockLost, Locks, _pin
from advlock._liveness import Bounds

from .helpers import holding, no_locks, one, soon, terminate, turns_red
from .pooled import plain_clients

if TYPE_CHECKING:
    from .pooled import Pools
    from .worlds import World

pytest_plugins = ["conformance.pooled_fixtures"]

# A check that fails half-way drops what it holds.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")

LIVENESS = 4  # seconds
TRUST = Bounds(LIVENESS).behind_a_pooler().trust
BUSY = 0.7  # seconds
HAS_NO_XID = "SELECT backend_xid IS NULL FROM pg_stat_activity WHERE pid = %s"
OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'idle in transaction'
"""


async def test_tokens_rise_on_every_way(world: World, pools: Pools, name: str) -> None:
    """Holder after holder, direct and through both kinds of pooler: each has a greater one."""
    ways = [pools.database, pools.dsn(), pools.dsn("session"), pools.dsn(default_pool_size=2)]
    clients = [world.client(way) for way in ways]
    actor, tokens = world.actor(), []
    for client in clients * 5:
        context = client.hold(name)
        held = await actor.enter(context)
        tokens.append(await actor.call(held.token))
        assert await actor.call(held.token) == tokens[-1], "one for each hold"
        await actor.exit(context)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 20


async def test_the_pinned_transaction_gets_no_id(world: World, pools: Pools, name: str) -> None:
    """The token is drawn elsewhere; the connection for it is closed again."""
    pooler = pools.bouncer()
    client, actor = world.client(pools.dsn()), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    (pid,) = holding(pools.admin, name)
    for _ in range(3):
        held._ticket.token = None
        await actor.call(held.token)
        assert one(pools.admin, HAS_NO_XID, pid)
        assert holding(pools.admin, name) == [pid]
    users = [row for row in pooler.ask("SHOW CLIENTS") if row["database"] == pools.dbname]
    assert len(users) == 1, "the connection that it was drawn on is closed"
    assert one(pools.admin, OPEN) == 1
    await actor.exit(context)
    assert one(pools.admin, OPEN) == 0


async def test_no_token_for_a_lock_that_is_lost(world: World, pools: Pools, name: str) -> None:
    """The session is gone, and nobody has noticed yet: LockLost, and no number."""
    client, actor = world.client(pools.dsn()), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    assert terminate(pools.admin, *holding(pools.admin, name)) == 1
    with pytest.raises(LockLost):
        await actor.call(held.token)
    with pytest.raises(LockLost):
        await actor.exit(context)


def losing(pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the session with the lock end between the drawing of the token and its delivery."""
    aside = _pin.aside

    def aside_and_lose(*args: Any) -> Any:
        token = yield from aside(*args)
        assert terminate(pools.admin, *holding(pools.admin, name)) == 1
        return token

    monkeypatch.setattr(_pin, "aside", aside_and_lose)


async def check_lost_meanwhile(world: World, pools: Pools, name: str) -> None:
    """Lose the lock while its token is drawn, and let somebody else have the lock and a token."""
    client, actor = world.client(pools.dsn()), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    with contextlib.suppress(LockLost):
        token = await actor.call(held.token)
        pytest.fail(f"token {token} of a lock that was lost before")
    with pytest.raises(LockLost):
        await actor.exit(context)


async def test_no_token_for_a_lock_that_is_lost_meanwhile(
    world: World, pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was drawn after the lock was lost is thrown away."""
    losing(pools, name, monkeypatch)
    await check_lost_meanwhile(world, pools, name)


async def test_without_asking_again_that_turns_red(
    world: World, pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where the session with the lock is not asked afterwards."""

    def nothing() -> Any:
        return None
        yield

    losing(pools, name, monkeypatch)
    monkeypatch.setattr(_pin, "confirm", nothing)
    monkeypatch.setattr(Locks if world.is_sync else AsyncLocks, "_check_held", lambda *_: None)
    await turns_red(check_lost_meanwhile(world, pools, name))


async def test_a_full_pool_gives_no_token_and_takes_no_lock(
    world: World, pools: Pools, name: str
) -> None:
    """DatabaseUnavailable in time, and the lock is still held; later there is a token."""
    pooler = pools.bouncer(default_pool_size=2)
    client, actor = world.client(pooler.dsn(pools.dbname), liveness=LIVENESS), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    (pid,) = holding(pools.admin, name)
    with plain_clients(pooler, pools.dbname, 1):
        start = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"default_pool_size|still held"):
            await actor.call(held.token)
        assert time.monotonic() - start < 2 * TRUST + BUSY
        assert not held.lost
        assert holding(pools.admin, name) == [pid]
    assert await actor.call(held.token) > 0
    await actor.exit(context)
    await aeventually(lambda: not pooler.pinned())


async def test_no_room_for_another_client(world: World, pools: Pools, name: str) -> None:
    """With max_client_conn used up there is no token either; the error says why."""
    with pools.own(max_client_conn=4) as pooler:
        client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
        context = client.hold(name)
        held = await actor.enter(context)
        others = [psycopg.connect(pooler.dsn(pools.dbname)) for _ in range(3)]
        with pytest.raises(DatabaseUnavailable, match="max_client_conn"):
            await actor.call(held.token)
        assert not held.lost
        for other in others:
            other.close()
        assert await actor.call(held.token) > 0
        await actor.exit(context)
    await no_locks(pools.admin)


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_a_drawing_that_is_cancelled(world: World, pools: Pools, name: str) -> None:
    """Whenever that comes: no connection stays open, the lock is held, and the next call works."""
    pooler = pools.bouncer(default_pool_size=4)
    client = world.client(pooler.dsn(pools.dbname))
    async with client.hold(name) as held:
        for number in range(20):
            drawing = asyncio.create_task(held.token())
            await asyncio.sleep(number / 2000)
            drawing.cancel()
            await asyncio.wait([drawing])
            held._ticket.token = None
        assert not held.lost
        await aeventually(lambda: pooler.pinned() == 1, message="nothing else is lent")

        def ours() -> int:
            rows = pooler.ask("SHOW CLIENTS")
            return sum(row["database"] == pools.dbname for row in rows)

        await aeventually(lambda: ours() == 1, message="no connection stays open")
        assert await soon(asyncio.create_task(held.token())) > 0
