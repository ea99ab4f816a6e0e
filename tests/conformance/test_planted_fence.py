"""What somebody else made of `advlock.fence` gives tokens that rise, or none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advlock import LockError

from .databases import connect, fresh_database
from .test_fencing import FROM_SEQUENCE, close, rise, token_of

if TYPE_CHECKING:
    from servers import Server

    from .helpers import Admin
    from .worlds import World

UNFIT = (
    "TABLE advlock.fence (last_value int8)",
    "VIEW advlock.fence AS SELECT 1::int8 AS last_value",
    "UNLOGGED SEQUENCE advlock.fence MAXVALUE 140737488355327",
    "SEQUENCE advlock.fence CACHE 20 MAXVALUE 140737488355327",
    "SEQUENCE advlock.fence INCREMENT -1 MINVALUE 1 MAXVALUE 1000 START 500",
    "SEQUENCE advlock.fence INCREMENT -1 MINVALUE -1000 MAXVALUE -1",
    "SEQUENCE advlock.fence MAXVALUE 3 CYCLE",
    "SEQUENCE advlock.fence MAXVALUE 140737488355328",
    "SEQUENCE advlock.fence",  # up to 2^63 - 1
)
FIT = (
    "SEQUENCE advlock.fence MAXVALUE 140737488355327",
    "SEQUENCE advlock.fence AS int4 NO CYCLE CACHE 1 INCREMENT 1",
)
MUST_BE = ("INCREMENT 1", "CACHE 1", "NO CYCLE", "UNLOGGED", "MAXVALUE 140737488355327")


async def test_a_fence_of_another_kind(world: World, server: Server, name: str) -> None:
    """Each is refused, with words on what it must be, and the lock is kept."""
    told: dict[str, object] = {}
    with fresh_database(server) as fresh, connect(fresh) as admin:
        client, actor = world.client(fresh), world.actor()
        for kind in UNFIT:
            plant(admin, kind)
            context = client.hold(name)
            held = await actor.enter(context)
            try:
                told[kind] = await actor.call(held.token)
            except LockError as error:
                missing = [word for word in MUST_BE if word not in str(error)]
                told[kind] = (type(error), missing, held.lost)
            await actor.exit(context)
        await actor.call(client.close)
    assert told == dict.fromkeys(UNFIT, (LockError, [], False))


async def test_a_fence_that_a_dba_made(world: World, server: Server, name: str) -> None:
    """Made by hand as it must be, it is used."""
    with fresh_database(server) as fresh, connect(fresh) as admin:
        clients = [world.client(fresh) for _ in range(2)]
        for kind in FIT:
            plant(admin, kind)
            tokens = [await token_of(world, client, name) for client in clients * 2]
            assert rise(tokens), kind
            assert all(token & FROM_SEQUENCE for token in tokens)
        await close(world, *clients)


def plant(admin: Admin, kind: str) -> None:
    """Make something of that name."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    admin.execute("CREATE SCHEMA advlock")
    admin.execute(f"CREATE {kind}")
