"""Behind a pooler: a role's hostile settings do no harm, and ours do not stay with its sessions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from bouncers import bouncer_before
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import aeventually

from advlock import LockError, LockTimeout, _set_up, _sql

from .databases import connect
from .helpers import holding, no_locks, soon, turns_red
from .hostile import ODDITIES, SETTINGS, SHADOWS, hostile_role
from .pooled import plain_clients, servers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bouncers import Bouncer
    from servers import Server

    from .helpers import Admin
    from .pooled import Pools
    from .worlds import World

pytest_plugins = ["conformance.pooled_fixtures"]

# A check that fails half-way drops what it holds.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")

# Longer than in `hostile`: finding out about the pooler takes a second on a busy machine.
TIMEOUTS = {
    "statement_timeout": "500ms",
    "idle_session_timeout": "2s",
    "idle_in_transaction_session_timeout": "2s",
    "transaction_timeout": "2s",
}
LONGER = 2.4  # seconds
SIZE = 3
STATE = {
    "settings": "SELECT name, setting FROM pg_catalog.pg_settings",
    "prepared": "SELECT name FROM pg_catalog.pg_prepared_statements",
    "temporary": "SELECT pg_catalog.pg_my_temp_schema()",
    "ours": "SELECT pg_catalog.current_setting('advlock.op', true)",
    "channels": "SELECT pg_catalog.pg_listening_channels()",
}
# No operator: the role has those that say nonsense.
CALM = """
SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings
WHERE pg_catalog.starts_with(name, 'transaction_timeout')
   OR pg_catalog.starts_with(name, 'statement_timeout')
   OR pg_catalog.starts_with(name, 'idle_in_transaction_session_timeout')
"""


class Stage:
    """A database, a pooler before it, and a superuser's session beside it."""

    def __init__(self, pooler: Bouncer, dbname: str, dba: Admin) -> None:
        self.pooler, self.dbname, self.dba = pooler, dbname, dba
        self.dsn = pooler.dsn(dbname)

    def states(self) -> dict[int, dict[str, Any]]:
        """Look at every session of the pool, with the eyes of a client that it is lent to."""
        found = {}
        with plain_clients(self.pooler, self.dbname, SIZE) as clients:
            for client in clients:
                client.execute(CALM)
                state = {
                    what: sorted(client.execute(sql).fetchall()) for what, sql in STATE.items()
                }
                ((pid,),) = client.execute("SELECT pg_catalog.pg_backend_pid()").fetchall()
                found[pid] = state
        return found


@contextmanager
def stage(server: Server, upstream: str, mode: str) -> Iterator[Stage]:
    """Put a pooler before a database that a role's DSN names."""
    dbname = str(conninfo_to_dict(upstream)["dbname"])
    calm = make_conninfo(server.dsn(dbname), options="-c idle_session_timeout=0")
    sizes = {"default_pool_size": SIZE if mode == "transaction" else 10}
    with connect(calm) as dba, bouncer_before(upstream, mode, **sizes) as pooler:
        yield Stage(pooler, dbname, dba)


@pytest.fixture(scope="module")
def hostile(newest: Server) -> Iterator[str]:
    """The DSN of a role that everything is against."""
    with hostile_role(newest, SETTINGS | TIMEOUTS, SHADOWS) as dsn:
        yield dsn


async def check_works(world: World, scene: Stage, name: str, seconds: float = LONGER) -> None:
    """Hold and wait for longer than any timeout; ask everything; then hand over and release."""
    owner, client = world.client(scene.dsn), world.client(scene.dsn)
    first, second = world.actors(2)
    context, other, next_one = owner.hold(name), owner.hold((7, 7)), client.hold(name, wait=9)
    try:
        held = await first.enter(context)
        await first.enter(other)
        assert await second.enter(client.attempt(name)) is None
        pending = second.entering(next_one)
        holders = holding(scene.dba, name, (7, 7))
        assert len(holders) == 2
        await world.pause(seconds)
        assert holding(scene.dba, name, (7, 7)) == holders
        assert not held.lost
        shown = await first.call(owner.holders, name)
        assert [who.pid for who in shown if not who.waiting] == holders[:1]
        token = await first.call(held.token)
        with pytest.raises(LockTimeout):
            await first.enter(owner.hold(name, wait=0.2))
        await first.exit(context)
        again = await soon(pending)
        assert await second.call(again.token) > token
        await second.exit(next_one)
        await first.exit(other)
    except LockError as error:
        raise AssertionError from error
    await no_locks(scene.dba)


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_the_locks_hold(
    world: World, newest: Server, hostile: str, name: str, mode: str
) -> None:
    """Nothing that a role's settings do ends them, and nothing in them is shadowed."""
    with stage(newest, hostile, mode) as scene:
        try:
            await check_works(world, scene, name)
        finally:
            await world.close()


@pytest.mark.parametrize("oddity", ODDITIES)
async def test_the_locks_hold_under_an_oddity(
    world: World, newest: Server, name: str, oddity: str
) -> None:
    """What nobody in his right mind would set, one by one."""
    with (
        hostile_role(newest, *ODDITIES[oddity]) as dsn,
        stage(newest, dsn, "transaction") as scene,
    ):
        try:
            await check_works(world, scene, name, 0.1)
        finally:
            await world.close()


async def check_nothing_stays(world: World, scene: Stage, name: str) -> None:
    """Use the pool, and compare its sessions before and after."""
    before = scene.states()
    await check_works(world, scene, name, 0.1)
    await world.close()
    await aeventually(lambda: not scene.pooler.pinned())
    after = scene.states()
    (fresh,) = {repr(state) for state in before.values()}
    for pid, state in after.items():
        changed = {what: set(state[what]) ^ set(before[next(iter(before))][what]) for what in STATE}
        assert repr(state) == fresh, f"{pid} has changed: {changed}"


@pytest.mark.parametrize("whose", ["a plain role", "a hostile role"])
async def test_nothing_of_ours_stays(
    world: World, newest: Server, pools: Pools, hostile: str, name: str, whose: str
) -> None:
    """No setting, no prepared statement, nothing temporary; and the backends are the same ones."""
    dsn = hostile if whose == "a hostile role" else pools.database
    with stage(newest, dsn, "transaction") as scene:
        await check_nothing_stays(world, scene, name)
        if dsn is pools.database:
            known = set(scene.states())
            await check_nothing_stays(world, scene, name)
            assert known == servers_of(scene.pooler, scene.dbname)


async def test_nothing_of_ours_stays_if_the_pooler_guesses_well(
    world: World, pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ids that it makes up could be real ones, now and then: that is no reason."""
    monkeypatch.setattr(_set_up, "_LARGEST_PID", 2**32)
    with stage(pools.server, pools.database, "transaction") as scene:
        for number in range(3):  # half of its numbers are negative
            await check_nothing_stays(world, scene, f"{name}-{number}")


async def test_nothing_of_ours_stays_after_a_loss(world: World, pools: Pools, name: str) -> None:
    """A refused request, a client that is closed inside: what goes back is as it was."""
    with stage(pools.server, pools.database, "transaction") as scene:
        before = {repr(state) for state in scene.states().values()}
        client, actor = world.client(scene.dsn, max_locks=5), world.actor()
        for number in range(3):
            await actor.enter(client.hold(f"{name}-{number}"))
        await actor.call(client.close)
        await no_locks(scene.dba)
        assert {repr(state) for state in scene.states().values()} == before
        await world.close()


# -- controls --------------------------------------------------------------------------------------


async def test_settings_for_the_session_turn_red(
    world: World, pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: settings that are made for the session, not for the transaction, stay."""
    local, session = (f"pg_backend_pid() OPERATOR(pg_catalog.{x}) $3" for x in ("<>", "="))
    assert local in _sql.SET_UP
    monkeypatch.setattr(_sql, "SET_UP", _sql.SET_UP.replace(local, session))
    with stage(pools.server, pools.database, "transaction") as scene:
        await turns_red(check_nothing_stays(world, scene, name))
        await world.close()


async def test_without_our_settings_it_fails(
    world: World, newest: Server, hostile: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same role, and none of the settings that protect us."""
    monkeypatch.setattr(_sql, "SETTINGS", {})
    with stage(newest, hostile, "transaction") as scene:
        await turns_red(check_works(world, scene, name))
        await world.close()
