"""Rate limits: what every client is promised, in both worlds and on every route."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from routes import direct_only
from waiting import aeventually

from advlock import (
    AsyncLocks,
    ConfigError,
    DatabaseUnavailable,
    LockError,
    Locks,
    Permit,
    RateLimited,
    _schema,
)
from advlock._rate import _desk

from .databases import plain_role
from .helpers import entries, one

if TYPE_CHECKING:
    from pathlib import Path

    from .helpers import Admin
    from .worlds import World

LOCK = "SELECT pg_advisory_lock(hashtextextended('rate:' || %s, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('rate:' || %s, 0))"
ROWS = """
SELECT coalesce(sum(upto - first + 1), 0)::int FROM advlock.rate_grant
WHERE key = hashtextextended('rate:' || %s, 0)
"""
SHORT = 0.3  # seconds
LONGER = 1.2


@pytest.fixture(autouse=True)
def _table(admin: Admin) -> None:
    """The table is there, so that a bystander may look."""
    if one(admin, "SELECT to_regclass('advlock.rate_grant') IS NULL"):
        admin.execute(_schema.text().encode())


async def test_never_more_than_the_limit(world: World, dsn: str, admin: Admin, name: str) -> None:
    """Two clients share it; what is refused says when to come back, and is not recorded."""
    one_client, other = (world.client(dsn).rate_limit(name, 3, 60) for _ in range(2))
    actor = world.actor()
    answers = [
        await actor.call(limit.try_acquire) for limit in (one_client, other, one_client, other)
    ]
    assert [bool(answer) for answer in answers] == [True, True, True, False]
    assert 30 < answers[3].retry_after <= 60
    assert one(admin, ROWS, name) == 3
    assert not await actor.call(other.test)
    stats = await actor.call(other.stats)
    assert (stats.limit, stats.remaining) == (3, 0)
    assert 30 < stats.reset_after <= 60


async def test_whoever_comes_back_when_told_gets_it(world: World, dsn: str, name: str) -> None:
    """`retry_after` is never too short."""
    limit = world.client(dsn).rate_limit(name, 2, SHORT)
    actor = world.actor()
    for _ in range(3):
        while answer := await actor.call(limit.try_acquire):
            pass
        assert 0 <= answer.retry_after <= SHORT  # 0: the moment came while the answer travelled
        await world.pause(answer.retry_after)
        assert await actor.call(limit.try_acquire)


async def test_it_waits_for_a_permit(world: World, dsn: str, admin: Admin, name: str) -> None:
    """A window after the first one, by the server's clock, and with no lock held meanwhile."""
    limit = world.client(dsn).rate_limit(name, 2, LONGER)
    actor = world.actor()
    began = time.monotonic()
    await actor.call(limit.acquire, 2)
    task = actor.start(limit.acquire, 1, wait=20)
    await aeventually(lambda: entries(admin, f"rate:{name}") == [])
    await world.pause(LONGER / 4)
    assert not task.done()
    assert entries(admin, f"rate:{name}") == []
    permit = await task
    assert permit.granted
    assert time.monotonic() - began >= LONGER * 0.9
    rows = "SELECT max(at) - min(at) >= interval '1.2 s' FROM advlock.rate_grant WHERE key = "
    assert one(admin, rows + "hashtextextended('rate:' || %s, 0)", name)


async def test_a_wait_that_is_too_short_is_refused_at_once(
    world: World, dsn: str, admin: Admin, name: str
) -> None:
    """Nobody waits for what he will not get; the error says when he would."""
    limit = world.client(dsn).rate_limit(name, 1, 60)
    actor = world.actor()
    await actor.call(limit.acquire)
    began = time.monotonic()
    for wait in (0, "2s", 30):
        with pytest.raises(RateLimited, match="retry after 5") as caught:
            await actor.call(limit.acquire, wait=wait)
        assert 50 < caught.value.retry_after <= 60
        assert (caught.value.name, caught.value.limit, caught.value.per) == (name, 1, 60)
    assert time.monotonic() - began < 30
    assert one(admin, ROWS, name) == 1


async def test_more_than_the_limit_is_refused(world: World, dsn: str, name: str) -> None:
    """It would have to wait for ever."""
    limit = world.client(dsn).rate_limit(name, 3, 60)
    for verb in (limit.acquire, limit.try_acquire, limit.test):
        with pytest.raises(ConfigError, match="never to be had"):
            await world.actor().call(verb, 4)


async def test_who_asked_first_comes_first(world: World, dsn: str, name: str) -> None:
    """Within a client one who wants much is not passed by those who want little."""
    limit = world.client(dsn).rate_limit(name, 3, 0.5)
    actors = world.actors(3)
    await actors[0].call(limit.acquire, 2)
    order: list[str] = []

    async def take(who: str, actor: Any, n: int) -> None:
        await actor.call(limit.acquire, n)
        order.append(who)

    big = asyncio.create_task(take("big", actors[1], 3))
    await world.pause(0.2)
    small = asyncio.create_task(take("small", actors[2], 1))
    await asyncio.gather(big, small)
    assert order == ["big", "small"]


async def test_smooth_keeps_them_apart(world: World, dsn: str, admin: Admin, name: str) -> None:
    """Each comes a tenth of the window after the one before it, at least."""
    limit = world.client(dsn).rate_limit(name, "10/5s", smooth=True)
    actor = world.actor()
    for _ in range(3):
        await actor.call(limit.acquire)
    await actor.call(limit.try_acquire)
    gaps = """
    SELECT bool_and(gap >= interval '0.5 s') FROM (
        SELECT at - lag(at) OVER (ORDER BY first) AS gap FROM advlock.rate_grant
        WHERE key = hashtextextended('rate:' || %s, 0)) AS gaps WHERE gap IS NOT NULL
    """
    assert one(admin, gaps, name)


async def test_it_is_a_decorator_and_a_context_manager(
    world: World, dsn: str, admin: Admin, name: str
) -> None:
    """One permit for each call, and for each block."""
    limit = world.client(dsn).rate_limit(name, 100, 60)
    actor = world.actor()
    twice = limit(world.defines(lambda x: 2 * x))
    assert twice.__name__ == "<lambda>" or not world.is_sync
    assert [await actor.call(twice, n) for n in (1, 2)] == [2, 4]
    assert await actor.within(limit, lambda entered: entered is limit)
    assert one(admin, ROWS, name) == 3


async def test_who_stops_waiting_takes_nothing(
    world: World, dsn: str, admin: Admin, name: str
) -> None:
    """A client that is closed frees whoever waits in it, and no permit is used up."""
    client = world.client(dsn)
    limit = client.rate_limit(name, 1, 60)
    await world.actor().call(limit.acquire)
    waiting = world.actor().start(limit.acquire)
    await world.pause(0.2)
    await world.actor().call(client.close)
    with pytest.raises(LockError, match="closed"):
        await waiting
    assert one(admin, ROWS, name) == 1


async def test_a_cancelled_wait_leaves_the_queue(dsn: str, admin: Admin, name: str) -> None:
    """Whoever waits behind a task that is cancelled moves up."""
    async with AsyncLocks(dsn) as locks:
        limit = locks.rate_limit(name, 3, 1)
        await limit.acquire(2)
        big = asyncio.create_task(limit.acquire(3))
        await asyncio.sleep(0.1)
        assert not await limit.try_acquire()
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        assert await limit.try_acquire()
    assert one(admin, ROWS, name) == 3


async def test_a_held_lock_holds_nobody_else_up(
    world: World, dsn: str, admin: Admin, rival: Admin, name: str
) -> None:
    """Somebody sits on it: a try says so, a wait goes on, and other locks are not touched."""
    client = world.client(dsn)
    limit = client.rate_limit(name, 3, 60)
    rival.execute(LOCK, [name])
    try:
        with pytest.raises(DatabaseUnavailable, match=f"advlock why 'rate:{name}'"):
            await world.actor().call(limit.try_acquire)
        waiting = world.actor().start(limit.acquire, wait=20)
        actor = world.actor()
        await actor.within(client.hold(f"other-{name}"), lambda held: held.check())
    finally:
        rival.execute(UNLOCK, [name])
    assert isinstance(await waiting, Permit)
    assert one(admin, ROWS, name) == 1


@direct_only("a pooler changes nothing about what is known")
async def test_a_wait_without_an_answer_says_so(
    world: World, dsn: str, rival: Admin, name: str
) -> None:
    """Nobody has said when there are permits: that is no reason to say that there are some now."""
    rival.execute(LOCK, [name])
    try:
        with pytest.raises(DatabaseUnavailable, match=name):
            await world.actor().call(world.client(dsn).rate_limit(name, 9, 9).acquire, wait=0.3)
    finally:
        rival.execute(UNLOCK, [name])


@direct_only("a pooler changes nothing about who asks")
async def test_whoever_asks_does_so_for_all(
    world: World, dsn: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many who wait cost a round trip for each bunch of permits, and not one for each of them."""
    asked: list[int] = []
    batch = _desk.Desk.batch

    def counted(desk: _desk.Desk) -> list[_desk.Request]:
        found = batch(desk)
        asked.append(len(found))
        return found

    limit = world.client(dsn).rate_limit(name, 10, 0.2)
    actors = world.actors(50)
    await actors[0].call(limit.acquire)
    monkeypatch.setattr(_desk.Desk, "batch", counted)
    await asyncio.gather(*(actor.call(limit.acquire) for actor in actors))
    assert len(asked) < 60, asked


@direct_only("a role of its own has no account at the pooler")
async def test_a_role_without_rights_is_told_what_to_do(
    world: World, database: str, admin: Admin, name: str
) -> None:
    """It names the command that a DBA can run."""
    with plain_role(database) as (role, dsn):
        client = world.client(dsn)
        actor = world.actor()
        with pytest.raises(ConfigError, match=f"advlock init --sql --role {role} "):
            await actor.call(client.rate_limit(name, 1, 1).acquire)
        admin.execute(f"GRANT USAGE ON SCHEMA advlock TO {role}".encode())
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA advlock TO {role}".encode())
        with pytest.raises(ConfigError, match=f"advlock init --sql --role {role} "):
            await actor.call(client.rate_limit(name, 1, 1).acquire)
        world.forget(client)
        await world.actor().call(client.close)


async def test_the_table_is_made_on_first_use(
    world: World, dsn: str, admin: Admin, name: str
) -> None:
    """Also where it was there a moment ago."""
    limit = world.client(dsn).rate_limit(name, 5, 60)
    actor = world.actor()
    for _ in range(2):
        admin.execute("DROP SCHEMA advlock CASCADE")
        assert await actor.call(limit.try_acquire)
    assert one(admin, ROWS, name) == 1


@direct_only("with or without a pooler the same statements clean up")
async def test_a_thousand_limits_side_by_side(world: World, dsn: str, admin: Admin) -> None:
    """Each keeps to its own, and what has expired goes by itself."""
    admin.execute("DELETE FROM advlock.rate_grant")
    client = world.client(dsn)
    actor = world.actor()
    for number in range(1000):
        limit = client.rate_limit(f"user:{number}", 1 + number % 3, 100 + number % 50)
        assert await actor.call(limit.try_acquire)
    assert one(admin, "SELECT count(DISTINCT key) FROM advlock.rate_grant") == 1000
    admin.execute("UPDATE advlock.rate_grant SET until = clock_timestamp() - interval '1 minute'")
    busy = client.rate_limit("busy", 10**6, 60)

    async def cleaned() -> bool:
        await actor.call(busy.try_acquire)
        return one(admin, "SELECT count(*) FROM advlock.rate_grant") < 900

    await aeventually(cleaned, within=30)


@direct_only("a pooler changes nothing about names")
async def test_a_strict_client_knows_its_limits(
    world: World, dsn: str, tmp_path: Path, name: str
) -> None:
    """The lock of a limit is advlock's own name, which no registry has to list."""
    file = tmp_path / "advlock.toml"
    file.write_text('[locks]\nother = "something else"\n')
    client = world.client(dsn, registry=str(file), strict=True)
    assert await world.actor().call(client.rate_limit(name, 1, 60).try_acquire)


@direct_only("a pooler changes nothing about processes")
def test_a_forked_child_takes_permits_of_its_own(dsn: str, admin: Admin, name: str) -> None:
    """Also while another thread of the parent waits: it shares no queue with it."""
    with Locks(dsn) as locks:
        limit = locks.rate_limit(name, 4, 60)
        limit.acquire(2)
        with limit._desk_for(None, threading.RLock).turn:  # as a thread has it that asks
            child = os.fork()
            if child == 0:
                granted = limit.try_acquire(2)
                os._exit(0 if granted else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not limit.try_acquire()
    assert one(admin, ROWS, name) == 4
