"""`lease`: a process that is frozen loses its locks on the server's clock, and is told later."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from routes import not_pinned
from waiting import aeventually

from advlock import ConfigError, LockLost
from advlock._liveness import Bounds

from .helpers import entries, holding, is_waiting, no_locks, one, terminate, turns_red
from .processes import program

if TYPE_CHECKING:
    from servers import Server

    from .helpers import Admin, Sessions
    from .worlds import World

LEASE = 2.0
HEARTBEAT = Bounds(lease=LEASE).heartbeat
LATE = 0.8  # seconds that a busy machine may be late
LEASED = json.dumps({"lease": LEASE})
PLAIN = json.dumps({})


async def check_frozen(world: World, dsn: str, name: str, admin: Admin, settings: str) -> None:
    """Freeze a holder: free after about the lease, not before; told as soon as it can hear."""
    client, actor = world.client(dsn), world.actor()
    async with program("program.py", world.name, "believes", dsn, name, settings) as holder:
        assert await holder.says() == "held"
        holder.freeze()
        (pid,) = holding(admin, name)
        frozen = time.monotonic()
        try:
            await aeventually(lambda: holding(admin, name) != [pid], within=LEASE + LATE)
            assert time.monotonic() - frozen > LEASE - HEARTBEAT - 0.2
            context = client.hold(name, wait=5)
            await actor.enter(context)
            holder.thaw()
            assert await holder.says() == "told of 1, lost is True"
            assert await holder.says() == "LockLost"
            await actor.exit(context)
        finally:
            holder.thaw()
            await holder.tell()


async def check_alive(world: World, dsn: str, name: str) -> None:
    """Hold for longer than the lease without a call."""
    client, actor = world.client(dsn, lease=LEASE), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    await actor.call(time.sleep if world.is_sync else asyncio.sleep, 1.6 * LEASE)
    assert not held.lost
    await actor.exit(context)


async def test_a_frozen_holder_loses_the_lock_and_a_living_one_does_not(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The three at once, to save time: frozen, alive, and the control, frozen without a lease."""
    await asyncio.gather(
        check_frozen(world, dsn, name, admin, LEASED),
        check_alive(world, dsn, f"{name}-alive"),
        turns_red(check_frozen(world, dsn, f"{name}-control", admin, PLAIN)),
    )
    await no_locks(admin)


@not_pinned("it polls there: nobody is granted anything while it is frozen")
async def test_a_frozen_waiter_loses_what_it_is_granted(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """It keeps its place in the queue, is granted, and is out after a lease; then it goes on."""
    client, actor = world.client(dsn), world.actor()
    one(rival, "SELECT pg_advisory_lock(hashtextextended(%s, 0))", name)
    async with program("program.py", world.name, "believes", dsn, name, LEASED) as waiter:
        (pid,) = await is_waiting(admin, name)
        waiter.freeze()
        one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
        granted = time.monotonic()
        await aeventually(lambda: holding(admin, name) == [pid])
        context = client.hold(name, wait=LEASE + LATE)
        await actor.enter(context)
        assert time.monotonic() - granted > LEASE - 0.2
        waiter.thaw()
        await is_waiting(admin, name)  # it knows that its grant was none
        await actor.exit(context)
        assert await waiter.says() == "held"
        assert terminate(admin, *holding(admin, name)) == 1
        assert await waiter.says() == "told of 1, lost is True"


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_a_blocked_loop_loses_the_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Nobody can tell it from a frozen process; the code that blocks may ask, and is told before.

    `Bounds.trust` is shorter than the lease.
    """
    client = world.client(dsn, lease=LEASE)
    context = client.hold(name)
    held = await context.__aenter__()
    began = time.monotonic()
    while not held.lost:
        time.sleep(0.01)  # noqa: ASYNC251 - to block is the point
    assert len(holding(admin, name)) == 1, "told before the server let go"
    while entries(admin, name):
        assert time.monotonic() - began < LEASE + LATE
        time.sleep(0.01)  # noqa: ASYNC251
    with pytest.raises(LockLost):
        await context.__aexit__(None, None, None)


async def test_an_idle_client_keeps_its_session(
    world: World, dsn: str, name: str, sessions: Sessions
) -> None:
    """Without a lock, too: a server that ends an idle session says so in its log."""
    client, actor = world.client(dsn, lease=LEASE, application_name=name), world.actor()
    first = client.hold(name)
    await actor.enter(first)
    await actor.exit(first)
    session = sessions(name)
    await world.pause(1.3 * LEASE)
    assert len(session) == 1
    assert sessions(name) == session


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "liveness", "lease"),
    [
        ({}, 10.0, None),
        ({"liveness": 3, "lease": 2}, 3.0, 2.0),
        ({"liveness": "10s", "lease": "1.5m"}, 10.0, 90.0),
        ({"liveness": timedelta(minutes=1), "lease": timedelta(seconds=15)}, 60.0, 15.0),
    ],
)
async def test_good_values(
    world: World, dsn: str, name: str, settings: dict[str, Any], liveness: float, lease: float
) -> None:
    """Numbers, strings and timedeltas are durations, the client shows them, and it works."""
    client, actor = world.client(dsn, **settings), world.actor()
    assert (client.liveness, client.lease) == (liveness, lease)
    context = client.hold(name)
    assert not (await actor.enter(context)).lost
    await actor.exit(context)


_BAD = [
    None,
    0,
    -1,
    2.9,
    "2.9s",
    "soon",
    "",
    True,
    float("nan"),
    float("inf"),
    "2d",
    "3 days",
    [10],
]


@pytest.mark.parametrize("value", _BAD, ids=repr)
async def test_bad_values_of_liveness(world: World, value: Any) -> None:
    """The error says what to write."""
    with pytest.raises(ConfigError, match=r"between 3s and 1d|write a duration such as 5, 30s"):
        world.client("postgresql:///x", liveness=value)


@pytest.mark.parametrize("value", [0, -1, 1.9, "1s", *_BAD[5:]], ids=repr)
async def test_bad_values_of_a_lease(world: World, value: Any) -> None:
    """The error says what to write; None is no lease."""
    with pytest.raises(ConfigError, match=r"between 2s and 1d|write a duration such as 5, 30s"):
        world.client("postgresql:///x", lease=value)


@pytest.mark.parametrize(
    "settings", [{"liveness": "5m"}, {"liveness": "1d"}, {"lease": "1d"}], ids=repr
)
async def test_the_longest_times_work(
    world: World, server: Server, dsn: str, name: str, settings: dict[str, str]
) -> None:
    """The operating system can count them, too: over TCP, where keepalives exist."""
    database = str(conninfo_to_dict(dsn)["dbname"])
    client, actor = world.client(server.tcp_dsn(database), **settings), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    await actor.exit(context)
