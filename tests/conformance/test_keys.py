"""What is locked for a name, so that anybody can join in from SQL."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from servers import locks_in_db

from advlock import ConfigError, Key

from .helpers import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bouncers import Bouncer
    from servers import Server

    from .helpers import Admin
    from .worlds import World

# What we are asked for, and what locks the same in SQL.
SAME = [
    ({}, "nightly", "hashtextextended('nightly', 0)"),
    ({}, "naïve – ☃ 🔒", "hashtextextended('naïve – ☃ 🔒', 0)"),
    ({}, 'it\'s 100% \\ "quoted"', "hashtextextended('it''s 100% \\ \"quoted\"', 0)"),
    ({}, "x" * 1000, "hashtextextended(repeat('x', 1000), 0)"),
    ({"namespace": "billing"}, "nightly", "hashtextextended('billing:nightly', 0)"),
    ({"namespace": "billing"}, 42, "42"),
    ({"namespace": "billing"}, (4, 2), "4, 2"),
    ({"keys": "hashtext"}, "nightly", "hashtext('nightly')"),
    ({"keys": "hashtext", "namespace": "é"}, "ü", "hashtext('é:ü')"),
    ({}, 0, "0"),
    ({}, -1, "-1"),
    ({}, 2**63 - 1, "9223372036854775807"),
    ({}, -(2**63), "'-9223372036854775808'::bigint"),
    ({}, (0, 0), "0, 0"),
    ({}, (1, 2), "1, 2"),
    ({}, (-1, 2**31 - 1), "-1, 2147483647"),
    ({}, (-(2**31), -1), "'-2147483648'::int, -1"),
]


async def check_same_lock(
    world: World, dsn: str, database: str, settings: Any, name: Any, arguments: str
) -> None:
    """We and somebody who writes SQL must exclude each other, in both orders and both modes."""
    client, actor = world.client(dsn, **settings), world.actor()
    with psycopg.connect(database, autocommit=True) as rival:
        for shared in (False, True):
            suffix = "_shared" if shared else ""
            context = client.hold(name, shared=shared)
            held = await actor.enter(context)
            assert not one(rival, f"SELECT pg_try_advisory_lock({arguments})")
            assert one(rival, f"SELECT pg_try_advisory_lock_shared({arguments})") is shared
            (row, *_) = locks_in_db(rival)
            assert Key.from_pg(row.classid, row.objid, row.objsubid) == held.key
            await actor.exit(context)
            rival.execute("SELECT pg_advisory_unlock_all()")
            assert one(rival, f"SELECT pg_try_advisory_lock{suffix}({arguments})")
            assert await actor.enter(client.attempt(name)) is None
            assert not await actor.call(client.lock(name).acquire, timeout=0.02)
            assert one(rival, f"SELECT pg_advisory_unlock{suffix}({arguments})")


@pytest.mark.parametrize(("settings", "name", "arguments"), SAME, ids=str)
async def test_sql_locks_the_same(
    world: World, dsn: str, database: str, settings: Any, name: Any, arguments: str
) -> None:
    """The formula of the documentation is the lock that we take."""
    await check_same_lock(world, dsn, database, settings, name, arguments)


@pytest.fixture
def latin1(server: Server, pooler: Bouncer | None) -> Iterator[tuple[str, str]]:
    """A database in another encoding: how clients reach it, and straight to the server."""
    name = f"latin1_{secrets.token_hex(4)}"
    database = sql.Identifier(name)
    create = sql.SQL("CREATE DATABASE {} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(create.format(database))
    yield pooler.dsn(name) if pooler else server.dsn(name), server.dsn(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.mark.parametrize("name", ["nightly", "café", "ÿ"])
async def test_the_servers_encoding_counts(
    world: World, latin1: tuple[str, str], name: str
) -> None:
    """In a LATIN1 database the hash runs over LATIN1 bytes, on the very first use, too."""
    await check_same_lock(world, *latin1, {}, name, f"hashtextextended('{name}', 0)")
    await check_same_lock(world, *latin1, {"keys": "hashtext"}, name, f"hashtext('{name}')")


async def test_a_name_the_server_cannot_spell(world: World, latin1: tuple[str, str]) -> None:
    """A name outside the server's encoding is refused, and the client lives on."""
    client, actor = world.client(latin1[0]), world.actor()
    with pytest.raises(ConfigError):
        await actor.enter(client.hold("☃"))
    context = client.hold("é")
    await actor.enter(context)
    await actor.exit(context)


async def test_keys_of_different_kinds_are_different_locks(
    world: World, dsn: str, admin: Admin
) -> None:
    """1, "1", (0, 1), and the pair that packs into the same 64 bits, are four locks."""
    client, actor = world.client(dsn), world.actor()
    names = [1, "1", (0, 1), (1, 2), (1 << 32) | 2, (1, 0), 1 << 32]
    contexts = [client.hold(name, wait=5) for name in names]
    for context in contexts:
        await actor.enter(context)
    assert len(locks_in_db(admin)) == len(names)
    for name in names:
        assert await actor.enter(client.attempt(name)) is None
    for context in contexts:
        await actor.exit(context)


async def test_namespaces_separate(world: World, dsn: str, name: str) -> None:
    """The same name in two namespaces is two locks; in one namespace of two clients it is one."""
    clients = [world.client(dsn, namespace=space) for space in ("a", "b", "a", "")]
    actors = world.actors(len(clients))
    got = []
    for client, actor in zip(clients, actors, strict=True):
        context = client.attempt(name)
        got.append((context, await actor.enter(context)))
    assert [held is not None for _, held in got] == [True, True, False, True]
    for (context, _), actor in zip(got, actors, strict=True):
        await actor.exit(context)
    joined, actor = clients[3].attempt(f"a:{name}"), actors[0]
    again = clients[0].hold(name)
    await actor.enter(again)
    assert await actor.enter(joined) is None
    await actor.exit(again)


@pytest.mark.parametrize("name", ["", None, 1.5, True, 2**63, (1, 2**31), (1, 2, 3), "a\0b", b"x"])
async def test_what_is_no_name_is_refused(world: World, dsn: str, name: Any) -> None:
    """ConfigError, by every verb, and no lock."""
    client, actor = world.client(dsn), world.actor()
    for way in (client.hold(name), client.attempt(name), client.hold_all([name])):
        with pytest.raises(ConfigError):
            await actor.enter(way)
    with pytest.raises(ConfigError):
        await actor.call(client.lock(name).acquire)
    with pytest.raises(ConfigError):
        await actor.call(client.holders, name)


async def test_from_pg_names_what_pg_locks_shows(world: World, dsn: str, admin: Admin) -> None:
    """For 200 names, pg_locks read back is the key that the hold has: unsigned halves and all."""
    client, actor = world.client(dsn), world.actor()
    contexts = [client.hold(f"name-{number}") for number in range(200)]
    keys = set()
    for context in contexts:
        keys.add((await actor.enter(context)).key)
    seen = {Key.from_pg(row.classid, row.objid, row.objsubid) for row in locks_in_db(admin)}
    assert seen == keys
    assert len(keys) == 200
    for context in contexts:
        await actor.exit(context)
