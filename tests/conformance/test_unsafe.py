"""Promise 6: no lock where it would exclude nobody; and clear words where there is no server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from clusters import ask_for_passwords, free_port, hot_standby, private_cluster
from routes import direct_only

from advlock import DatabaseUnavailable, LockError, UnsafeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .worlds import World

PASSWORD = "hunter2-very-secret"  # noqa: S105 - of a server that lives for a moment


def ways_in(client: Any, name: str) -> list[Any]:
    """Every context manager that would take a lock."""
    holds = [client.hold(name), client.hold(name, wait=5), client.attempt(name)]
    return [*holds, client.lock(name), client.once(name)]


async def check_refused(world: World, dsn: str, name: str, *, reason: str, advice: str) -> None:
    """Try every way to a lock; each must be refused, with a reason and a next step."""
    client, actor = world.client(dsn), world.actor()
    for way in ways_in(client, name):
        error: BaseException | None = None
        try:
            await actor.enter(way)
            await actor.exit(way)
        except UnsafeServer as refusal:
            error = refusal
        assert error is not None, f"{way!r} was granted a lock"
        assert isinstance(error, UnsafeServer)
        assert error.reason == reason
        assert re.search(advice, str(error))
    with pytest.raises(UnsafeServer):
        await actor.call(client.holders, name)


async def test_a_pooler_in_statement_mode_is_refused(
    world: World, server: Server, name: str
) -> None:
    """It lends nothing to lock on: UnsafeServer, which says what to set, and where to go else."""
    with bouncer(server, "statement") as pooler:
        advice = r"statement mode.*pool_mode = transaction.*the server's own address"
        await check_refused(world, pooler.dsn(), name, reason="pooler", advice=advice)


async def test_a_read_replica_is_refused(world: World, server: Server, name: str) -> None:
    """A hot standby grants locks of its own: UnsafeServer, which says to connect to the primary."""
    with private_cluster(server) as primary, hot_standby(primary) as standby:
        await check_refused(
            world, standby.dsn(), name, reason="replica", advice="Connect to the primary"
        )
        client, actor = world.client(primary.dsn()), world.actor()
        context = client.hold(name)
        await actor.enter(context)
        await actor.exit(context)
        await actor.call(client.close)


@pytest.fixture(scope="module")
def guarded(server: Server) -> Iterator[str]:
    """A server that asks the role `guest` for a password."""
    with private_cluster(server) as cluster:
        ask_for_passwords(cluster, "guest", PASSWORD)
        yield cluster.dsn(host="127.0.0.1").replace("user=postgres", "user=guest")


async def test_a_right_password_works(world: World, guarded: str, name: str) -> None:
    """The password of the DSN is used, and never shown."""
    client, actor = world.client(f"{guarded} password={PASSWORD}"), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    assert PASSWORD not in repr(client) + repr(held) + repr(context)
    await actor.exit(context)
    await actor.call(client.close)


@pytest.mark.parametrize("given", [f"{PASSWORD}x", None])
async def test_a_wrong_password_is_reported_and_not_shown(
    world: World, guarded: str, name: str, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that it is the password, and what to do; the password is nowhere in it."""
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    address = guarded if given is None else f"{guarded} password={given}"
    client, actor = world.client(address), world.actor()
    with pytest.raises(DatabaseUnavailable) as caught:
        await actor.enter(client.hold(name))
    words = str(caught.value) + repr(client)
    assert "password" in words
    assert PASSWORD not in words
    context = caught.value.__context__
    assert context is None or PASSWORD not in repr(context) or caught.value.__suppress_context__


async def check_unavailable(world: World, dsn: str, name: str, *signs: str) -> None:
    """Try to connect; the error must say why not, and what to check, and be every way's error."""
    client, actor = world.client(dsn), world.actor()
    for way in ways_in(client, name):
        with pytest.raises(DatabaseUnavailable) as caught:
            await actor.enter(way)
        message = str(caught.value)
        assert isinstance(caught.value, LockError)
        assert isinstance(caught.value, ConnectionError)
        assert PASSWORD not in message
        for sign in signs:
            assert re.search(sign, message), message


async def test_an_unknown_host(world: World, name: str) -> None:
    """The error names the host and says to check it."""
    dsn = f"postgresql://user:{PASSWORD}@no-such-host.invalid/db"
    await check_unavailable(world, dsn, name, "no-such-host.invalid", "check the host")


async def test_a_refused_connection(world: World, name: str) -> None:
    """The error asks whether PostgreSQL runs there."""
    dsn = f"postgresql://user:{PASSWORD}@127.0.0.1:{free_port()}/db"
    await check_unavailable(world, dsn, name, "refused", "is PostgreSQL running there")


async def test_a_missing_socket(world: World, name: str) -> None:
    """So it does for a Unix socket that is not there."""
    await check_unavailable(
        world, "host=/nonexistent dbname=db", name, "/nonexistent", "is PostgreSQL running there"
    )


@direct_only("the pooler lets everybody in, and finds out later")
async def test_an_unknown_database(world: World, dsn: str, name: str) -> None:
    """The error names the database."""
    address = psycopg.conninfo.make_conninfo(dsn, dbname="no_such_database")
    await check_unavailable(world, address, name, '"no_such_database" does not exist', "check")


@direct_only("the pooler has a role of its own there")
async def test_an_unknown_role(world: World, dsn: str, name: str) -> None:
    """The error names the role."""
    address = psycopg.conninfo.make_conninfo(dsn, user="no_such_role")
    await check_unavailable(world, address, name, '"no_such_role" does not exist', "check")


async def test_a_failed_connection_is_tried_again(world: World, server: Server, name: str) -> None:
    """A client whose server was not there yet works when it is."""
    with private_cluster(server) as cluster:
        dsn = cluster.dsn()
        cluster.stop()
        client, actor = world.client(dsn), world.actor()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await actor.enter(client.hold(name))
        cluster._settings["port"] = psycopg.conninfo.conninfo_to_dict(dsn)["port"]
        cluster.start()
        context = client.hold(name)
        await actor.enter(context)
        await actor.exit(context)
        await actor.call(client.close)
