"""A later holder's token is greater, whoever draws it, and whatever happened in between."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from clusters import hot_standby, private_cluster
from psycopg import sql
from waiting import aeventually

from advlock import LockError, LockLost, _sql
from advlock._liveness import SHORTEST_LIVENESS

from .databases import connect, fresh_database, plain_role
from .helpers import holding, one, soon, terminate, turns_red
from .processes import program
from .worlds import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .helpers import Admin

Patch = pytest.MonkeyPatch

FROM_SEQUENCE = 1 << 47
ENOUGH = 4  # crashes; more, where the server had written everything down before each of them
SEQUENCE = "SELECT to_regclass('advlock.fence')::text"
BARE_XID = "SELECT pg_current_xact_id()::text::bigint"
WRITE = "UPDATE report SET body = %(body)s, fence = %(token)s WHERE id = 1 AND fence < %(token)s"


@pytest.fixture
def fresh(server: Server) -> Iterator[str]:
    """The superuser's DSN of a database in which nobody ever drew a token."""
    with fresh_database(server) as dsn:
        yield dsn


async def token_of(world: World, client: Any, name: str) -> int:
    """Hold a lock, draw its token, and let go."""
    actor, context = world.actor(), client.hold(name, wait=10)
    held = await actor.enter(context)
    try:
        return int(await actor.call(held.token))
    finally:
        await actor.exit(context)


def rise(tokens: list[int]) -> bool:
    """Whether each is greater than the one before, and all are bigints."""
    in_range = all(0 < token < 1 << 63 for token in tokens)
    return in_range and all(earlier < later for earlier, later in pairwise(tokens))


# -- one database, nothing goes wrong --------------------------------------------------------------


async def test_tokens_rise_from_holder_to_holder(world: World, fresh: str, name: str) -> None:
    """Over clients, both worlds and processes; the first one made the sequence."""
    other = World("async" if world.is_sync else "sync")
    tokens: list[int] = []
    try:
        crew = [
            (world, world.client(fresh)),
            (other, other.client(fresh)),
            (world, world.client(fresh)),
        ]
        with connect(fresh) as admin:
            assert one(admin, SEQUENCE) is None
            for _ in range(3):
                for where, client in crew:
                    tokens.append(await token_of(where, client, name))
                async with program("program.py", world.name, "draws", fresh, name) as process:
                    tokens.append(int(await process.says()))
            assert one(admin, SEQUENCE) == "advlock.fence"
            cache = "SELECT seqcache FROM pg_sequence WHERE seqrelid = 'advlock.fence'::regclass"
            assert one(admin, cache) == 1
    finally:
        await other.close()
    assert rise(tokens), tokens
    assert all(token & FROM_SEQUENCE for token in tokens)


async def test_a_hold_remembers_its_token(world: World, fresh: str, name: str) -> None:
    """Asked again, also through a re-entrant hold, it draws no other; the next hold does."""
    client, actor = world.client(fresh), world.actor()
    context, inner = client.hold(name), client.hold(name, reentrant=True)
    held = await actor.enter(context)
    token = await actor.call(held.token)
    again = await actor.enter(inner)
    assert [await actor.call(held.token), await actor.call(again.token)] == [token, token]
    await actor.exit(inner)
    assert await actor.call(held.token) == token
    await actor.exit(context)
    assert await token_of(world, client, name) > token


async def test_a_hold_has_one_token(world: World, dsn: str, name: str) -> None:
    """Two threads or tasks that ask at once are told the same."""
    client = world.client(dsn)
    actors = world.actors(4)
    for _ in range(10):
        context = client.hold(name)
        held = await actors[0].enter(context)
        asked = await asyncio.gather(*(actor.call(held.token) for actor in actors))
        asked.append(await actors[0].call(held.token))
        await actors[0].exit(context)
        assert len(set(asked)) == 1


async def test_a_lost_hold_has_no_token(world: World, dsn: str, name: str, admin: Admin) -> None:
    """It says that the lock was lost, noticed or not; there is nothing to fence any more."""
    client, actor = world.client(dsn), world.actor()
    for notice in (True, False):
        context = client.hold(name, wait=5)
        held = await actor.enter(context)
        terminate(admin, *holding(admin, name))
        if notice:
            await aeventually(lambda held=held: held.lost)
        with pytest.raises(LockLost):
            await actor.call(held.token)
        with pytest.raises(LockLost):
            await actor.exit(context)


async def test_a_late_write_is_refused(world: World, fresh: str, name: str) -> None:
    """The pattern of docs/guarantees.md: the row takes only what is newer than itself."""
    early, late = (world.client(fresh), world.client(fresh))
    first = await token_of(world, early, name)
    second = await token_of(world, late, name)
    with connect(fresh) as admin:
        admin.execute("CREATE TABLE report AS SELECT 1 AS id, '' AS body, 0::bigint AS fence")
        writes = [("first", first), ("second", second), ("first, late", first)]
        done = [admin.execute(WRITE, {"body": body, "token": t}).rowcount for body, t in writes]
        assert done == [1, 1, 0]
        assert one(admin, "SELECT body FROM report") == "second"


# -- who may what ----------------------------------------------------------------------------------


async def test_a_role_that_may_not_create(world: World, fresh: str, name: str) -> None:
    """It has tokens without the sequence, makes nothing, and uses the sequence once it is there."""
    with plain_role(fresh) as (_, plain), connect(fresh) as admin:
        humble, mighty = world.client(plain), world.client(fresh)
        tokens = [await token_of(world, humble, name) for _ in range(3)]
        assert one(admin, "SELECT to_regnamespace('advlock')") is None
        assert not any(token & FROM_SEQUENCE for token in tokens)
        tokens += [await token_of(world, mighty, name), await token_of(world, humble, name)]
        tokens += [await token_of(world, world.client(plain), name)]
        assert rise(tokens), tokens
        assert all(token & FROM_SEQUENCE for token in tokens[3:])
        await close(world, humble)


async def close(world: World, *clients: Any) -> None:
    """Close clients before what they are connected to is gone."""
    for client in clients:
        await world.actor().call(client.close)


async def check_never_smaller(world: World, fresh: str, name: str, revoke: str) -> None:
    """Take a privilege away; the next token is greater, or there is none and it says why."""
    with plain_role(fresh) as (role, plain), connect(fresh) as admin:
        client, actor = world.client(plain), world.actor()
        last = await token_of(world, world.client(fresh), name)
        admin.execute(revoke)
        context = client.hold(name)
        held = await actor.enter(context)
        (outcome,) = await asyncio.gather(actor.call(held.token), return_exceptions=True)
        for object_ in ("SCHEMA advlock", "SEQUENCE advlock.fence"):
            grant = sql.SQL(f"GRANT USAGE ON {object_} TO {{}}").format(sql.Identifier(role))
            admin.execute(grant)
        lost, after = held.lost, await actor.call(held.token)
        await actor.exit(context)
        await close(world, client)
    if isinstance(outcome, int):
        assert outcome > last
    else:
        assert type(outcome) is LockError
        assert "GRANT USAGE ON SCHEMA advlock TO" in str(outcome)
        assert "GRANT USAGE ON SEQUENCE advlock.fence TO" in str(outcome)
    assert not lost
    assert after > last


@pytest.mark.parametrize("what", ["SCHEMA advlock", "SEQUENCE advlock.fence"])
async def test_a_role_without_the_privilege(world: World, fresh: str, name: str, what: str) -> None:
    """It gets an error that says what to grant, keeps its lock, and the advice helps."""
    await check_never_smaller(world, fresh, name, f"REVOKE USAGE ON {what} FROM PUBLIC")


async def test_falling_back_would_be_smaller(
    world: World, fresh: str, name: str, monkeypatch: Patch
) -> None:
    """The control: a client that chose by what it may do would go backward."""
    there = "pg_catalog.to_regclass('advlock.fence')"
    mine = f"pg_catalog.has_sequence_privilege({there}, 'USAGE')"
    draw = _sql.DRAW_TOKEN.replace(there, f"CASE WHEN {mine} THEN {there} END")
    monkeypatch.setattr(_sql, "DRAW_TOKEN", draw)
    revoke = "REVOKE USAGE ON SEQUENCE advlock.fence FROM PUBLIC"
    await turns_red(check_never_smaller(world, fresh, name, revoke))


# -- making the sequence ---------------------------------------------------------------------------


async def test_several_make_the_sequence_at_once(world: World, fresh: str, name: str) -> None:
    """Each of them gets a token; nobody gets an error."""
    crew = [(world.actor(), world.client(fresh)) for _ in range(4)]
    with connect(fresh) as admin:
        for turn in range(12):
            entries = [(a, c.hold(f"{name}-{n}")) for n, (a, c) in enumerate(crew)]
            helds = [await actor.enter(context) for actor, context in entries]
            drawing = [a.start(h.token) for (a, _), h in zip(entries, helds, strict=True)]
            tokens = await asyncio.gather(*drawing)
            for actor, context in entries:
                await actor.exit(context)
            assert len(set(tokens)) == len(tokens)
            assert all(token & FROM_SEQUENCE for token in tokens), turn
            admin.execute("DROP SCHEMA advlock CASCADE")


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_dba_in_the_midst_of_making_it(
    world: World, fresh: str, name: str, end: str
) -> None:
    """Two who ask meanwhile are answered soon, below all that comes later, and lose nothing."""
    crew = [(world.actor(), world.client(fresh, liveness=SHORTEST_LIVENESS)) for _ in range(2)]
    with connect(fresh) as dba:
        dba.execute("BEGIN")
        dba.execute("CREATE SCHEMA advlock")
        contexts = [client.hold(f"{name}-{n}") for n, (_, client) in enumerate(crew)]
        helds = [await actor.enter(c) for (actor, _), c in zip(crew, contexts, strict=True)]
        drawing = []
        for (actor, _), held in zip(crew, helds, strict=True):
            drawing.append(actor.start(held.token))
            await world.pause(0.03)  # the second one behind the first: the worst case
        tokens = [await soon(task, within=1.5) for task in drawing]
        lost = [held.lost for held in helds]
        dba.execute(end)
        for (actor, _), context in zip(crew, contexts, strict=True):
            await actor.exit(context)
        assert not any(lost)
        assert not any(token & FROM_SEQUENCE for token in tokens)
        assert await token_of(world, crew[0][1], name) > max(tokens)
        assert one(dba, SEQUENCE) == "advlock.fence"


# -- crashes and promotions ------------------------------------------------------------------------


async def test_tokens_rise_over_crashes(world: World, server: Server, name: str) -> None:
    """From the sequence and without it; bare transaction ids repeat, which is the control."""
    with private_cluster(server) as cluster:
        cluster._settings["port"] = str(cluster.port)
        repeated: list[bool] = []
        with plain_role(cluster.dsn()) as (_, plain):
            with connect(cluster.dsn()) as admin:
                admin.execute("CREATE DATABASE humble")
            humble = f"{plain} dbname=humble"
            sources = {d: world.client(d) for d in (cluster.dsn(), humble)}
            tokens: dict[str, list[int]] = {dsn: [] for dsn in sources}
            last_xid = 0
            for crash in range(12):
                if crash >= ENOUGH and any(repeated):
                    break
                for dsn, client in sources.items():
                    tokens[dsn].append(await token_of(world, client, name))
                with connect(cluster.dsn()) as admin:
                    first_xid = one(admin, BARE_XID)
                    repeated.append(first_xid <= last_xid)
                    last_xid = [one(admin, BARE_XID) for _ in range(20)][-1]
                await asyncio.to_thread(cluster.stop, "immediate")
                await asyncio.to_thread(cluster.start)
            await close(world, *sources.values())
        assert all(rise(drawn) for drawn in tokens.values()), tokens
        assert tokens[cluster.dsn()][0] & FROM_SEQUENCE
        assert not tokens[humble][0] & FROM_SEQUENCE
        assert any(repeated)


async def test_tokens_rise_over_a_promotion(world: World, server: Server, name: str) -> None:
    """The new primary's first token is above all of the old one's, those after the split too.

    The timeline makes it so: the numbers below it overlap, which is the control.
    """
    with private_cluster(server) as old, plain_role(old.dsn()) as (role, _):
        with connect(old.dsn()) as admin:
            admin.execute("CREATE DATABASE humble")
        with hot_standby(old) as new:
            dsns = [(c.dsn(), f"{c.dsn('humble')} user={role}") for c in (old, new)]
            clients = [[world.client(dsn) for dsn in side] for side in dsns]
            before = [[await token_of(world, client, name)] for client in clients[0]]
            with connect(new.dsn()) as admin:
                assert one(admin, "SELECT pg_promote()") is True
            with connect(old.dsn()) as admin:  # more than the sequence has written down ahead
                assert one(admin, "SELECT max(nextval('advlock.fence')) FROM generate_series(1,99)")
            for drawn, client in zip(before, clients[0], strict=True):
                drawn += [await token_of(world, client, name) for _ in range(3)]
            after = [
                [await token_of(world, client, name) for _ in range(2)] for client in clients[1]
            ]
            await close(world, *clients[0], *clients[1])
    for early, late, sequence in zip(before, after, (True, False), strict=True):
        assert rise(early + late), (early, late)
        assert bool(early[0] & FROM_SEQUENCE) is sequence
        assert late[0] % (1 << 48) <= early[-1] % (1 << 48)
