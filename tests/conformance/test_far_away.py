"""A server that is far away: what takes a round trip gets the time of a round trip."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from bouncers import bouncer_before
from chaos.proxy import proxy
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from routes import SESSION, TRANSACTION, direct_only

from advlock import LockTimeout, _grace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from bouncers import Bouncer
    from servers import Server

    from .helpers import Admin
    from .worlds import Actor, World

CHANCES = 5
ONE_WAY = 0.06  # seconds: as between continents
TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"


@pytest.fixture
def far(server: Server, pooler: Bouncer | None, dsn: str) -> Iterator[str]:
    """The way to the server, on which everything takes its time."""
    near = dsn if pooler else server.tcp_dsn(str(conninfo_to_dict(dsn)["dbname"]))
    target = conninfo_to_dict(near)
    with proxy(str(target["host"]), int(target["port"])) as made:
        made.strike("delay", "both", ONE_WAY, 0, scope="new")
        yield make_conninfo(near, port=made.port)


async def connected(world: World, dsn: str, name: str) -> tuple[Any, Actor]:
    """A client that has been used."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(f"{name}-first")
    await actor.enter(context)
    await actor.exit(context)
    return client, actor


async def does(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Try until it works: a busy machine may take longer than three round trips, now and then."""
    for _ in range(CHANCES):
        with suppress(LockTimeout):
            if done := await attempt():
                return done
    pytest.fail("it never works")


async def enters(actor: Actor, make: Callable[[], Any]) -> bool:
    """Enter and leave."""
    context = make()
    await actor.enter(context)
    await actor.exit(context)
    return True


async def test_a_free_lock_is_taken_without_a_wait(world: World, far: str, name: str) -> None:
    """Whoever waits for nothing still waits for the answer."""
    client, actor = await connected(world, far, name)
    several = [f"{name}-1", f"{name}-2"]
    await does(lambda: enters(actor, lambda: client.hold(name, wait=0)))
    await does(lambda: enters(actor, lambda: client.hold_all(several, wait=0.001)))
    for one in (client.lock(name), client.semaphore(name, 2)):
        await does(lambda one=one: actor.call(one.acquire, timeout=0.001))
        await actor.call(one.release)


@pytest.mark.parametrize("wait", [0, 0.2])
async def test_a_busy_lock_says_who_has_it(
    world: World, far: str, name: str, rival: Admin, wait: float
) -> None:
    """Those who hold it are named, though it takes a round trip to ask."""
    client, actor = await connected(world, far, name)
    rival.execute(TAKE, [name])

    async def who() -> list[int]:
        with pytest.raises(LockTimeout) as caught:
            await actor.enter(client.hold(name, wait=wait))
        return [holder.pid for holder in caught.value.holders]

    assert await does(who) == [rival.info.backend_pid]


@direct_only("it has a pooler of its own")
@pytest.mark.parametrize("mode", [SESSION, TRANSACTION])
async def test_behind_a_pooler_that_is_near(
    world: World, server: Server, database: str, name: str, mode: str
) -> None:
    """Connecting ends at the pooler, so it is no measure of the way behind it."""
    with ExitStack() as stack:
        dbname = str(conninfo_to_dict(database)["dbname"])
        near = server.tcp_dsn(dbname)
        target = conninfo_to_dict(near)
        way = stack.enter_context(proxy(str(target["host"]), int(target["port"])))
        way.strike("delay", "both", ONE_WAY, 0, scope="new")
        pooler = stack.enter_context(bouncer_before(make_conninfo(near, port=way.port), mode))
        client, actor = await connected(world, pooler.dsn(dbname), name)
        await does(lambda: enters(actor, lambda: client.hold(name, wait=0)))
        await actor.call(client.close)


async def test_without_the_time_of_a_round_trip(
    world: World, far: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where every network counts as near, a free lock seems to be busy."""
    monkeypatch.setattr(_grace, "_FARTHEST", 0.0)
    client, actor = await connected(world, far, name)
    with pytest.raises(LockTimeout) as caught:
        await actor.enter(client.hold(name, wait=0))
    assert not caught.value.holders
