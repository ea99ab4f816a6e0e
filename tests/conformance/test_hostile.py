"""Whatever a DBA has set, and whatever stands in the search path: the locks hold."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import aeventually, eventually

from advlock import DatabaseUnavailable, LockError, _sql
from advlock._liveness import Bounds

from .databases import connect
from .helpers import entries, holding, one, soon, turns_red, waiting
from .hostile import ODDITIES, SETTINGS, hostile_role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .helpers import Admin
    from .worlds import World

Patch = pytest.MonkeyPatch

# A check that fails half-way drops what it holds.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")

LONGER = 2.2  # seconds; every timeout above is one second at the most


@pytest.fixture(scope="module")
def hostile(server: Server) -> Iterator[str]:
    """The DSN of a role that everything is against."""
    with hostile_role(server) as dsn:
        yield dsn


@contextmanager
def above(server: Server, dsn: str) -> Iterator[Admin]:
    """Open a superuser's session in the same database, which is spared."""
    database = str(conninfo_to_dict(dsn)["dbname"])
    calm = "-c idle_session_timeout=0"
    with connect(make_conninfo(server.dsn(database), options=calm)) as session:
        yield session


@pytest.fixture
def dba(server: Server, hostile: str) -> Iterator[Admin]:
    """A superuser's session in that database."""
    with above(server, hostile) as session:
        yield session


async def check_works(
    world: World, dsn: str, name: str, dba: Admin, seconds: float = LONGER
) -> None:
    """Hold and wait for longer than any timeout; ask everything; then hand over and release."""
    owner, client = world.client(dsn), world.client(dsn)
    first, second = world.actors(2)
    context, other, next_one = owner.hold(name), owner.hold((7, 7)), client.hold(name, wait=9)
    held = await first.enter(context)
    await first.enter(other)
    pending = second.entering(next_one)
    waiters = await aeventually(lambda: waiting(dba, name))
    holders = holding(dba, name, (7, 7))
    assert len(holders) == 2
    await world.pause(seconds)
    assert holding(dba, name, (7, 7)) == holders
    await aeventually(lambda: waiting(dba, name) == waiters)  # not seen between two slices
    assert not held.lost
    shown = await first.call(owner.holders, name)
    assert [(who.waiting, who.pid) for who in shown] == [(False, holders[0]), (True, *waiters)]
    token = await first.call(held.token)
    for busy in (name, (7, 7)):
        assert await first.enter(world.client(dsn).attempt(busy)) is None
    await first.exit(context)
    again = await soon(pending)
    assert holding(dba, name) == waiters
    assert await second.call(again.token) > token
    await second.exit(next_one)
    await first.exit(other)
    assert not entries(dba, name)


async def test_the_locks_hold(world: World, hostile: str, name: str, dba: Admin) -> None:
    """The same sessions all the time: nothing ends them, and nothing in them is shadowed."""
    await check_works(world, hostile, name, dba)
    schema, sequence = "SELECT to_regnamespace('advlock')", "SELECT to_regclass('advlock.fence')"
    assert one(dba, schema) is not None
    assert one(dba, sequence) is not None


@pytest.mark.parametrize("oddity", ODDITIES)
async def test_the_locks_hold_under_an_oddity(
    world: World, server: Server, name: str, oddity: str
) -> None:
    """What nobody in his right mind would set, one by one; a wait lasts for several slices."""
    with hostile_role(server, *ODDITIES[oddity]) as dsn, above(server, dsn) as dba:
        try:
            await check_works(world, dsn, name, dba, 1.2)
        finally:
            await world.close()


async def test_nobody_waits_for_a_safe_snapshot(world: World, server: Server, name: str) -> None:
    """A deferrable default would wait for every serializable transaction there is to end."""
    settings = {name: SETTINGS[name] for name in SETTINGS if name.startswith("default_trans")}
    with hostile_role(server, settings, "") as dsn, above(server, dsn) as busy:
        busy.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        busy.execute("CREATE TABLE public.something ()")
        with psycopg.connect(dsn, autocommit=True) as plain, above(server, dsn) as dba:
            client, actor = world.client(dsn), world.actor()
            context = client.hold(name)
            try:
                await soon(actor.entering(context), within=3)
                await actor.exit(context)
            finally:
                busy.execute("ROLLBACK")
                await world.close()
            assert not entries(dba, name)
            assert one(plain, "SHOW transaction_deferrable") == "on"


# -- controls --------------------------------------------------------------------------------------


async def check_no_harm(world: World, dsn: str, name: str, dba: Admin) -> None:
    """`check_works`, with every failure as the failure of a check."""
    try:
        await check_works(world, dsn, name, dba)
    except LockError as error:
        raise AssertionError from error


async def test_without_our_settings_it_fails(
    world: World, hostile: str, name: str, dba: Admin, monkeypatch: Patch
) -> None:
    """The control: with none of them, and with all but the one against idleness."""
    settings = Bounds.settings
    idle = {"idle_session_timeout": "500"}  # shorter than until the lock's name is recorded
    with monkeypatch.context() as off:
        off.setattr(Bounds, "settings", lambda bounds: settings(bounds) | idle)
        await turns_red(check_no_harm(world, hostile, name, dba))
    await world.close()
    with monkeypatch.context() as off:
        off.setattr(_sql, "SETTINGS", {})
        await turns_red(check_no_harm(world, hostile, f"{name}-2", dba))
        await world.close()


async def test_a_question_that_a_locked_catalog_delays_costs_no_lock(
    world: World, dsn: str, database: str, name: str
) -> None:
    """VACUUM FULL locks catalogs; who holds a lock, as every timeout asks, has to wait for them."""
    actor, client = world.actor(), world.client(dsn, liveness=3)
    context = client.hold(name)
    held = await actor.enter(context)
    with psycopg.connect(database) as rude:
        rude.execute("LOCK TABLE pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE")
        with suppress(DatabaseUnavailable):  # a pooler's session may know the catalog by heart
            await actor.call(client.holders, name)
        before = held._ticket.session.pulse.confirmed
        await aeventually(lambda: held._ticket.session.pulse.confirmed > before, within=3)
        held.check()
    await actor.exit(context)


def ends(session: psycopg.Connection[Any]) -> bool:
    """Whether the server has hung up on an idle session; nothing is asked."""
    try:
        session.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return session.pgconn.status != psycopg.pq.ConnStatus.OK


def test_a_plain_session_is_hit(hostile: str, server: Server, dba: Admin) -> None:
    """The control: each of them does to psycopg's sessions what it says."""
    with psycopg.connect(hostile, autocommit=True) as mine, connect(hostile) as other:
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            mine.execute("SELECT pg_sleep(0.2)")
        for session in (mine, other):
            session.execute("SET statement_timeout = 0")
            assert one(session, "SELECT pg_try_advisory_lock(7)") is True
        assert not entries(dba, 7), "both were told that they have it, and nobody has"
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            mine.execute("CREATE TABLE public.something ()")
        mine.execute("SELECT pg_catalog.pg_advisory_lock(7)")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT pg_catalog.pg_advisory_lock(7)")
    sessions = [psycopg.connect(hostile, autocommit=True) for _ in range(2)]
    sessions[1].execute("BEGIN")
    if server.version >= "17":
        sessions.append(psycopg.connect(hostile, autocommit=True))
        sessions[2].execute("SET idle_in_transaction_session_timeout = 0")
        sessions[2].execute("BEGIN")
    for session in sessions:
        eventually(lambda session=session: ends(session), within=3)
        session.close()
