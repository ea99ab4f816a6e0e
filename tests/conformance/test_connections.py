"""Promise 3: any number of locks costs one connection; a waiting lock one more while it waits."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from clusters import private_cluster
from routes import not_pinned
from servers import locks_in_db
from waiting import aeventually

from advlock import TooManyLocks
from advlock._clock import now

from .helpers import contends, entries, holding, no_locks, one, soon, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .helpers import Admin, Sessions
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


class Census:
    """Counts a client's sessions again and again, and remembers the most there were."""

    def __init__(self, sessions: Sessions, application: str) -> None:
        self._sessions = sessions
        self._application = application
        self.most = self.samples = 0

    async def take(self) -> None:
        """Go on until cancelled."""
        while True:
            self.most = max(self.most, len(self._sessions(self._application)))
            self.samples += 1
            await asyncio.sleep(0.003)

    @contextmanager
    def taken(self) -> Iterator[Census]:
        """Count during the block."""
        task = asyncio.ensure_future(self.take())
        try:
            yield self
        finally:
            task.cancel()
        assert self.samples > 2


async def check_many_locks_one_backend(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    admin: Admin,
    count: int,
) -> None:
    """Hold `count` locks at a time; they must all be one session's, and there only be that one."""
    client = world.client(dsn, application_name=application)
    client._used.rest(now() + 600)  # pinned, it would record names over a session of its own
    actors = world.actors(4)
    # Finding out about a pooler takes two more. And it is held on to: between two transactions a
    # pooler may lend another session, while the first keeps our name.
    await actors[0].enter(first := client.hold(name))
    await aeventually(lambda: len(sessions(application)) == 1)
    contexts = [client.hold(f"{name}-{number}") for number in range(1, count)]
    with Census(sessions, application).taken() as census:
        for start in range(0, count, len(actors)):
            batch = zip(actors, contexts[start:], strict=False)
            await asyncio.gather(*(actor.enter(context) for actor, context in batch))
        rows = locks_in_db(admin)
        assert (len(rows), len({row.pid for row in rows})) == (count, 1)
        assert len(sessions(application)) == 1
        for start in range(0, count, len(actors)):
            batch = zip(actors, contexts[start:], strict=False)
            await asyncio.gather(*(actor.exit(context) for actor, context in batch))
    await actors[0].exit(first)
    assert census.most == 1
    assert len(sessions(application)) == 1


async def test_a_thousand_locks_one_backend(
    world: World, dsn: str, name: str, application: str, sessions: Sessions, admin: Admin
) -> None:
    """1 000 locks held at the same time: one session, and each is released independently."""
    await check_many_locks_one_backend(world, dsn, name, application, sessions, admin, 1000)


async def test_many_at_work_few_backends(
    world: World, dsn: str, name: str, application: str, sessions: Sessions, admin: Admin
) -> None:
    """64 actors that each take and release 100 different locks: at most 4 sessions, ever."""
    client = world.client(dsn, application_name=application)

    async def work(number: int) -> None:
        actor = world.actor()
        for turn in range(100):
            context = client.hold(f"{name}-{number}-{turn}")
            await actor.enter(context)
            await actor.exit(context)

    with Census(sessions, application).taken() as census:
        await asyncio.gather(*(work(number) for number in range(64)))
    assert census.most <= 4
    await no_locks(admin)


async def test_contention_stays_within_the_budget(
    world: World, dsn: str, name: str, application: str, sessions: Sessions, admin: Admin
) -> None:
    """Two clients whose actors fight for few locks: at most max_connections sessions each."""
    client = world.client(dsn, application_name=application, max_connections=3)
    other = world.client(dsn, application_name=f"{application}-other", max_connections=3)

    async def work(who: Any, number: int) -> None:
        actor = world.actor()
        for turn in range(8):
            context = who.hold(f"{name}-{(number + turn) % 5}")
            await actor.enter(context)
            await asyncio.sleep(0.001)
            await actor.exit(context)

    with Census(sessions, application).taken() as census:
        people = [(who, number) for who in (client, other) for number in range(8)]
        await asyncio.gather(*(work(who, number) for who, number in people))
    assert census.most <= 3
    await no_locks(admin)
    await aeventually(lambda: len(sessions(application)) == 1, message="the waiters' go")


async def test_a_waiting_lock_costs_one_more(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    rival: Admin,
    admin: Admin,
) -> None:
    """While one lock waits there are two sessions, or one that polls; after its release one."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    held = client.hold(f"{name}-held")
    await actor.enter(held)
    rival.execute(TAKE, [name])
    context = client.hold(name)
    pending = actor.entering(context)
    await contends(client, admin, name)
    assert len(sessions(application)) == 1 + (not client._pinned)
    assert one(rival, FREE, name)
    await soon(pending)
    await actor.exit(context)
    await aeventually(lambda: len(sessions(application)) == 1, within=2)
    await actor.exit(held)


async def test_a_wait_that_timed_out_costs_nothing(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    rival: Admin,
    admin: Admin,
) -> None:
    """After a timeout the waiting session is gone."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    rival.execute(TAKE, [name])
    for _ in range(3):
        assert not await actor.call(client.lock(name).acquire, timeout=0.05)
        await aeventually(lambda: len(sessions(application)) == 1, within=2)
    assert len(entries(admin, name)) == 1


@not_pinned("it polls there, whatever the budget is")
async def test_waiters_beyond_the_budget_share_the_first(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    rival: Admin,
    admin: Admin,
) -> None:
    """Ten locks waited for with a budget of three sessions: three, and all ten are served."""
    client = world.client(dsn, application_name=application, max_connections=3)
    names = [f"{name}-{number}" for number in range(10)]
    for busy in names:
        rival.execute(TAKE, [busy])
    people = [(world.actor(), client.hold(busy)) for busy in names]
    with Census(sessions, application).taken() as census:
        pending = [actor.entering(context) for actor, context in people]
        await aeventually(lambda: len(waiting(admin, *names)) == 2, message="two server waits")
        assert len(sessions(application)) == 3
        for busy in reversed(names):
            assert one(rival, FREE, busy)
        await asyncio.wait_for(asyncio.gather(*pending), 5)
        assert len(holding(admin, *names)) == 10
        for actor, context in people:
            await actor.exit(context)
    assert census.most == 3
    await aeventually(lambda: len(sessions(application)) == 1)


async def test_a_client_of_one_connection_waits(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    rival: Admin,
) -> None:
    """max_connections=1: waiting works, on the only session, which serves others meanwhile."""
    client = world.client(dsn, application_name=application, max_connections=1)
    patient, busy = world.actors(2)
    rival.execute(TAKE, [name])
    context = client.hold(name)
    pending = patient.entering(context)
    for number in range(20):
        other = client.hold(f"{name}-{number}", wait=2)
        await busy.enter(other)
        await busy.exit(other)
    assert not pending.done()
    assert len(sessions(application)) == 1
    assert one(rival, FREE, name)
    await soon(pending, within=2)
    await patient.exit(context)


async def test_max_locks_is_a_cap_that_explains_itself(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The lock above the cap raises and says what to raise; the others are unharmed."""
    client, actor = world.client(dsn, max_locks=3), world.actor()
    contexts = [client.hold(f"{name}-{number}") for number in range(3)]
    for context in contexts:
        await actor.enter(context)
    for way in (client.hold(name), client.attempt(name), client.hold_all([name])):
        with pytest.raises(TooManyLocks, match=r"max_locks.*max_locks_per_transaction"):
            await actor.enter(way)
    with pytest.raises(TooManyLocks):
        await actor.call(client.lock(name).acquire)
    for context in contexts:
        await actor.exit(context)
    way = client.hold(name)
    await actor.enter(way)
    await actor.exit(way)
    await no_locks(admin)


async def test_a_full_lock_table_is_reported_as_what_it_is(world: World, server: Any) -> None:
    """53200 from the server is TooManyLocks; what was granted stays good, and nothing is leaked."""
    with private_cluster(server) as cluster:
        client, actor = world.client(cluster.dsn(), max_locks=100_000), world.actor()
        contexts: list[Any] = []

        async def fill_up() -> None:
            for number in range(20_000):
                context = client.hold(f"lock-{number}")
                await actor.enter(context)
                contexts.append(context)

        with pytest.raises(TooManyLocks, match=r"lock table.*max_locks_per_transaction"):
            await fill_up()
        for context in contexts[-100:]:
            await actor.exit(context)
        one_more = client.hold("one more")
        await actor.enter(one_more)
        await actor.exit(one_more)
        await actor.call(client.close)
