"""Behind a pooler: no lock where it would exclude nobody, and none that was granted already."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer_before
from clusters import hot_standby, private_cluster
from psycopg.conninfo import conninfo_to_dict
from waiting import aeventually

from advlock import DatabaseUnavailable, LockLost, TooManyLocks, UnsafeServer, _pin

from .databases import connect
from .helpers import entries, holding, no_locks, one, turns_red
from .pooled import TAKE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bouncers import Bouncer
    from servers import Server

    from advlock.embedded._cluster import Cluster

    from .pooled import Pools
    from .worlds import World

pytest_plugins = ["conformance.pooled_fixtures"]

# A check that fails half-way drops what it holds.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")

MOST = 30_000  # locks; the table of the private server has room for a tenth


# -- what somebody else has left in the pool -------------------------------------------------------


def leave_a_lock(pooler: Bouncer, dbname: str, name: str) -> int:
    """Lock without a transaction, as those do who do not know; the lock stays in the pool."""
    with psycopg.connect(pooler.dsn(dbname), autocommit=True, prepare_threshold=None) as naive:
        naive.execute(TAKE, [name])
        return int(one(naive, "SELECT pg_backend_pid()"))


async def check_not_granted_twice(world: World, pools: Pools, pooler: Bouncer, name: str) -> None:
    """Ask for a lock that a backend of the pool has already, and that nobody holds any more."""
    client, actor = world.client(pooler.dsn(pools.dbname)), world.actor()
    for _ in range(3):
        warm = client.hold(f"{name}-other")
        await actor.enter(warm)
        await actor.exit(warm)
        naive = leave_a_lock(pooler, pools.dbname, name)
        assert holding(pools.admin, name) == [naive]
        context = client.hold(name, wait=3)
        await actor.enter(context)
        (mine,) = holding(pools.admin, name)
        assert mine != naive, "it was granted to the session that has it already"
        await actor.exit(context)
        await no_locks(pools.admin)


async def test_a_lock_that_was_left_is_not_granted_again(
    world: World, pools: Pools, name: str
) -> None:
    """A session that has a lock when it is lent is sent away, which frees that lock."""
    with pools.own(default_pool_size=1) as pooler:
        await check_not_granted_twice(world, pools, pooler, name)


async def test_without_that_look_it_turns_red(
    world: World, pools: Pools, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where a transaction may begin on whatever session there is."""
    check = _pin.check

    def ignore_locks(row: tuple[str | None, ...], server: Any) -> None:
        check((*row[:4], "f", *row[5:]), server)

    monkeypatch.setattr(_pin, "check", ignore_locks)
    with pools.own(default_pool_size=1) as pooler:
        await turns_red(check_not_granted_twice(world, pools, pooler, name))
        await world.close()
    await no_locks(pools.admin)


async def test_somebody_elses_lock_in_a_pool_of_many(world: World, pools: Pools, name: str) -> None:
    """Several locks on several backends: none is granted twice, and none outlives its finding."""
    with pools.own(default_pool_size=4, server_round_robin=1) as pooler:
        clients, actor = [world.client(pooler.dsn(pools.dbname)) for _ in range(3)], world.actor()
        for number in range(12):
            which, one_of = f"{name}-{number % 3}", clients[number % 3]
            leave_a_lock(pooler, pools.dbname, which)
            context = one_of.attempt(which)
            if await actor.enter(context) is not None:
                (mine,) = holding(pools.admin, which)
                assert await actor.enter(clients[number % 3 - 1].attempt(which)) is None
                assert holding(pools.admin, which) == [mine]
                await actor.exit(context)
                assert mine not in holding(pools.admin, which)
    await no_locks(pools.admin)


# -- a full lock table -----------------------------------------------------------------------------


async def test_a_full_lock_table(world: World, newest: Server, name: str) -> None:
    """TooManyLocks takes nothing back: the others stay held, on the same session, and work."""
    with private_cluster(newest) as cluster, bouncer_before(cluster.dsn(), "transaction") as pooler:
        client, actor = world.client(pooler.dsn(), max_locks=MOST), world.actor()
        first = client.hold(name)
        held = await actor.enter(first)
        with connect(cluster.dsn()) as admin:
            (pid,) = holding(admin, name)
            contexts: list[Any] = []
            with pytest.raises(TooManyLocks, match=r"lock table.*max_locks_per_transaction"):
                await _fill(actor, client, name, contexts)
            assert not held.lost
            for context in contexts[:100]:  # room for the questions of the test
                await actor.exit(context)
            assert holding(admin, name, f"{name}-100", f"{name}-{len(contexts) - 1}") == [pid] * 3
            last = f"{name}-{len(contexts)}"
            assert not holding(admin, last)
            again = client.hold(last)
            await actor.enter(again)
            assert holding(admin, last) == [pid]
            for context in (again, first, *contexts[100:]):
                await actor.exit(context)
            await no_locks(admin)
            await aeventually(lambda: not pooler.pinned())
            await world.close()


async def _fill(actor: Any, client: Any, name: str, contexts: list[Any]) -> None:
    while len(contexts) < MOST:
        context = client.hold(f"{name}-{len(contexts)}")
        await actor.enter(context)
        contexts.append(context)


# -- where the pooler leads to ---------------------------------------------------------------------


def lead_to(pooler: Bouncer, cluster: Cluster) -> None:
    """Have the pooler lead elsewhere, as after a fail-over: for whoever asks from now on."""
    given = conninfo_to_dict(cluster.dsn())
    pooler._target = " ".join(f"{word}={given[word]}" for word in ("host", "port", "user"))
    pooler.reload()
    pooler.ask("RECONNECT")


@pytest.fixture(scope="module")
def two_servers(newest: Server) -> Iterator[tuple[Cluster, Cluster]]:
    """Two servers that know nothing of each other."""
    with private_cluster(newest) as one_, private_cluster(newest) as other:
        yield one_, other


async def test_another_server_between_holds(
    world: World, two_servers: tuple[Cluster, Cluster], name: str
) -> None:
    """The next lock is taken on the server that the pooler leads to then."""
    with bouncer_before(two_servers[0].dsn(), "transaction") as pooler, contextlib.ExitStack() as s:
        admins = [s.enter_context(connect(cluster.dsn())) for cluster in two_servers]
        client, actor = world.client(pooler.dsn()), world.actor()
        for place in (0, 1, 0):
            lead_to(pooler, two_servers[place])
            context = client.hold(name, wait=3)
            await actor.enter(context)
            assert [len(holding(admin, name)) for admin in admins] == [1 - place, place]
            await actor.exit(context)
            assert not [entry for admin in admins for entry in entries(admin, name)]
        await world.close()


async def test_another_server_during_a_hold(
    world: World, two_servers: tuple[Cluster, Cluster], name: str
) -> None:
    """The hold stays where it is, and gets no token from elsewhere: it is lost when that shows."""
    with bouncer_before(two_servers[0].dsn(), "transaction") as pooler, contextlib.ExitStack() as s:
        admins = [s.enter_context(connect(cluster.dsn())) for cluster in two_servers]
        client, actor = world.client(pooler.dsn()), world.actor()
        told: list[Any] = []
        context, second = client.hold(name), client.hold(f"{name}-2")
        held = await actor.enter(context)
        held.on_lost(told.append)
        lead_to(pooler, two_servers[1])
        await actor.enter(second)
        assert [len(holding(admin, name, f"{name}-2")) for admin in admins] == [2, 0]
        await actor.exit(second)
        assert not held.lost
        with pytest.raises(LockLost, match="moved to another server"):
            await actor.call(held.token)
        assert held.lost
        await aeventually(lambda: told == [held], within=1)
        with pytest.raises(LockLost):
            await actor.exit(context)
        await no_locks(admins[0], within=1)
        fresh = client.hold(name)
        fresh_held = await actor.enter(fresh)
        assert [len(holding(admin, name)) for admin in admins] == [0, 1]
        assert await actor.call(fresh_held.token) > 0
        await actor.exit(fresh)
        await world.close()


async def test_a_replica_and_a_former_primary(world: World, newest: Server, name: str) -> None:
    """A replica is refused; so is the old primary, by who has seen the new one."""
    with (
        private_cluster(newest) as primary,
        hot_standby(primary) as standby,
        bouncer_before(standby.dsn(), "transaction") as pooler,
    ):
        client, actor = world.client(pooler.dsn()), world.actor()
        for way in (client.hold(name), client.hold(name, wait=2), client.attempt(name)):
            with pytest.raises(UnsafeServer, match="read replica") as caught:
                await actor.enter(way)
            assert caught.value.reason == "replica"
        lead_to(pooler, primary)
        await _hold_once(actor, client, name)
        lead_to(pooler, standby)
        with pytest.raises(UnsafeServer, match="read replica"):
            await actor.enter(client.attempt(name))
        with connect(standby.dsn()) as admin:
            assert one(admin, "SELECT pg_promote()") is True
        await _hold_once(actor, client, name)
        lead_to(pooler, primary)
        with pytest.raises(DatabaseUnavailable, match="former primary"):
            await actor.enter(client.attempt(name))
        lead_to(pooler, standby)
        await _hold_once(actor, client, name)
        await world.close()


async def _hold_once(actor: Any, client: Any, name: str) -> None:
    context = client.hold(name, wait=5)
    await actor.enter(context)
    await actor.exit(context)
