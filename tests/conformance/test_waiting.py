"""Promise 5: a waiter holds nothing up and is not heard of; and the order of the queue is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import Log, about
from postgres.vacuum import dead_rows_kept, leave_dead_rows
from psycopg import sql
from routes import not_pinned
from waiting import aeventually

from .helpers import backends, contends, is_waiting, one, soon, terminate, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .helpers import Admin
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
POLLS = not_pinned("it polls there: nobody waits on the server, who could be served or interrupted")


@pytest.fixture
def table(database: str, name: str) -> Iterator[str]:
    """A table which only the test itself vacuums."""
    table = name.replace("-", "_")
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(f"CREATE TABLE {table} (id int) WITH (autovacuum_enabled = false)")
        yield table
        session.execute(f"DROP TABLE {table}")


async def check_index_is_built(
    world: World, dsn: str, name: str, table: str, rival: Admin, admin: Admin, patience: str
) -> None:
    """Have the holder build an index concurrently while somebody waits for its lock.

    On another connection than the lock's, as a program does that uses a lock library: then no
    deadlock detector sees that the two wait for each other.
    """
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    context = client.hold(name)
    pending = actor.entering(context)
    await contends(client, admin, name)
    admin.execute("SELECT set_config('statement_timeout', %s, false)", [patience])
    built = True
    build = f"CREATE INDEX CONCURRENTLY {table}_idx ON {table} (id)"
    try:
        await asyncio.to_thread(admin.execute, build)
    except psycopg.errors.QueryCanceled:
        built = False
    assert one(rival, FREE, name)
    await soon(pending)
    await actor.exit(context)
    assert built, "the waiter's snapshot held up CREATE INDEX CONCURRENTLY"


async def test_the_holder_can_build_an_index(
    world: World, dsn: str, name: str, table: str, rival: Admin, admin: Admin
) -> None:
    """CREATE INDEX CONCURRENTLY by the holder is through in moments, though somebody waits."""
    await check_index_is_built(world, dsn, name, table, rival, admin, "15s")


async def test_vacuum_cleans_up_behind_a_waiter(
    world: World, dsn: str, name: str, table: str, rival: Admin, admin: Admin
) -> None:
    """Dead rows younger than the wait can be removed with the next slice of it, in a second."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    context = client.hold(name)
    pending = actor.entering(context)
    await contends(client, admin, name)
    leave_dead_rows(admin, table)
    await aeventually(lambda: dead_rows_kept(admin, table) == 0)
    assert one(rival, FREE, name)
    await soon(pending)
    await actor.exit(context)


async def check_log_is_quiet(
    world: World, server: Server, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Time out once, wait through more than one slice, be granted; and read the server's log."""
    if server.log_path is None:
        pytest.skip("the log of the server of ADVLOCK_TEST_DSN is out of reach")
    log = Log(server.log_path)
    client, actor = world.client(dsn, application_name=name), world.actor()
    rival.execute(TAKE, [name])
    assert await actor.enter(client.attempt(name)) is None
    pids = set(backends(admin, name))
    pending = actor.start(client.lock(name).acquire, timeout=2)
    await contends(client, admin, name)
    pids.update(backends(admin, name))
    assert await soon(pending) is False
    context = client.hold(name)
    pending = actor.entering(context)
    await contends(client, admin, name)
    pids.update(backends(admin, name))
    await world.pause(0.6)
    assert one(rival, FREE, name)
    await soon(pending)
    await actor.exit(context)
    await actor.call(client.close)
    assert len(pids) >= 1 + (not client._pinned)
    assert about(log.since(), *pids) == []


async def test_nothing_is_written_to_the_servers_log(
    world: World, server: Server, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Neither a wait that ends with the lock nor one that times out leaves a line in the log."""
    await check_log_is_quiet(world, server, dsn, name, rival, admin)


async def test_local_waiters_are_served_in_order(world: World, dsn: str, name: str) -> None:
    """Threads or tasks of one client get the lock in the order in which they asked."""
    client = world.client(dsn)
    owner = world.actor()
    context = client.hold(name)
    await owner.enter(context)
    order: list[int] = []

    async def stand_in_line(number: int) -> None:
        actor, place = world.actor(), client.hold(name)
        await actor.enter(place)
        order.append(number)
        await actor.exit(place)

    people = []
    for number in range(8):
        people.append(asyncio.ensure_future(stand_in_line(number)))
        await aeventually(lambda: len(client._ledger.tickets()) == len(people) + 1)
    await owner.exit(context)
    await asyncio.wait_for(asyncio.gather(*people), 10)
    assert order == list(range(8))


async def test_waiters_of_other_clients_are_all_served(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Several clients that wait for one lock all get it, one after the other."""
    rival.execute(TAKE, [name])
    clients = [world.client(dsn) for _ in range(4)]
    order: list[int] = []

    async def stand_in_line(number: int) -> None:
        actor, place = world.actor(), clients[number].hold(name)
        await actor.enter(place)
        order.append(number)
        await actor.exit(place)

    people = []
    for number in range(4):
        people.append(asyncio.ensure_future(stand_in_line(number)))
        await contends(clients[number], admin, name)
    # In which order, nobody promises: a slice ends every half second, and whoever asks again stands
    # at the end of the server's queue.
    assert one(rival, FREE, name)
    await asyncio.wait_for(asyncio.gather(*people), 10)
    assert sorted(order) == list(range(4))


@POLLS
async def test_a_handover_is_quick(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """From a release elsewhere to our grant it takes milliseconds, no polling interval."""
    client, actor = world.client(dsn), world.actor()
    times = []
    for _ in range(10):
        rival.execute(TAKE, [name])
        context = client.hold(name)
        pending = actor.entering(context)
        await is_waiting(admin, name)
        start = time.perf_counter()
        assert one(rival, FREE, name)
        await soon(pending)
        times.append(time.perf_counter() - start)
        await actor.exit(context)
    assert sorted(times)[2] < 0.1, times


WAITS_SINCE = "SELECT max(waitstart) FROM pg_locks WHERE pid = %s AND NOT granted"


@POLLS
@pytest.mark.parametrize("shared", [False, True])
async def test_an_interrupted_waiter_carries_on(
    world: World, dsn: str, name: str, application: str, rival: Admin, admin: Admin, *, shared: bool
) -> None:
    """pg_cancel_backend or pg_terminate_backend of a waiter is no timeout, nor an error."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    rival.execute(TAKE, [name])
    context = client.hold(name, shared=shared)
    pending = actor.entering(context)
    for statement in ("SELECT pg_cancel_backend(%s)", "SELECT pg_terminate_backend(%s)"):
        (pid,) = await is_waiting(admin, name)
        since = one(admin, WAITS_SINCE, pid)
        assert one(admin, statement, pid)
        # A pooler may lend the same server session at once, so its number alone says nothing.
        await aeventually(
            lambda pid=pid, since=since: (
                pid not in waiting(admin, name) or one(admin, WAITS_SINCE, pid) != since
            )
        )
        assert not pending.done()
    await is_waiting(admin, name)
    await aeventually(lambda: len(backends(admin, application)) == 2)
    assert terminate(admin, *backends(admin, application)) == 2
    await is_waiting(admin, name)
    assert one(rival, FREE, name)
    await soon(pending)
    await actor.exit(context)


@POLLS
async def test_an_interrupted_waiter_keeps_its_deadline(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A cancelled wait goes on for the rest of its time, not for all of it again."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    start = time.monotonic()
    pending = actor.start(client.lock(name).acquire, timeout=2.0)
    for _ in range(3):
        (pid,) = await is_waiting(admin, name)
        assert one(admin, "SELECT pg_cancel_backend(%s)", pid)
        await world.pause(0.4)
    assert await soon(pending) is False
    assert 1.99 < time.monotonic() - start < 2.8


@pytest.fixture
def without_plpgsql(server: Server, name: str) -> Iterator[str]:
    """A database in which the server cannot wait for us in slices."""
    database = sql.Identifier(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(database))
    dsn = server.dsn(name)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("DROP EXTENSION plpgsql")
    yield dsn
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


async def test_without_plpgsql_it_polls(world: World, without_plpgsql: str, name: str) -> None:
    """Where plpgsql is missing, waiting works all the same: by asking again and again."""
    client, actor = world.client(without_plpgsql), world.actor()
    with psycopg.connect(without_plpgsql, autocommit=True) as rival:
        rival.execute(TAKE, [name])
        start = time.monotonic()
        assert not await actor.call(client.lock(name).acquire, timeout=0.2)
        assert time.monotonic() - start < 3
        context = client.hold(name)
        pending = actor.entering(context)
        await world.pause(0.05)
        assert not pending.done()
        assert one(rival, FREE, name)
        await soon(pending, within=2)
        await actor.exit(context)
        assert one(rival, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", name)


async def test_a_waiting_actor_does_not_hold_up_others(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """While one waits, the client's other actors take and release other locks unhindered."""
    client: Any = world.client(dsn)
    patient, busy = world.actors(2)
    rival.execute(TAKE, [name])
    context = client.hold(name)
    pending = patient.entering(context)
    await contends(client, admin, name)
    start = time.monotonic()
    for number in range(50):
        other = client.hold(f"{name}-{number}")
        await busy.enter(other)
        await busy.exit(other)
    assert time.monotonic() - start < 10
    assert not pending.done()
    with contextlib.suppress(psycopg.Error):
        assert one(rival, FREE, name)
    await soon(pending)
    await patient.exit(context)
