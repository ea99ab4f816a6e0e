"""A client with a registry: what it locks for a name, and which names it refuses."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from routes import direct_only
from servers import locks_in_db

from advlock import ConfigError, Key, KeyCollision, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

    from .helpers import Admin
    from .worlds import World

pytestmark = direct_only("names become keys before any pooler sees them")

TEXT = """\
[locks]
nightly = "the report"
legacy = {keys = "hashtext"}
deploy = {key = 42}
pair = {key = [7, -42]}
"user:{id}" = {keys = "hashtext"}
"größe" = {keys = "hashtext"}
"☃" = {key = 43}
"""
# hashtext gives them one number.
TWINS = ("job:11352", "job:189279")


def registry(folder: Path, text: str = TEXT) -> Registry:
    """The registry that this text is."""
    path = folder / "advlock.toml"
    path.write_text(text)
    return Registry.load(path)


async def locked(world: World, client: Any, name: Any, admin: Admin) -> Key:
    """What the server has while a client holds a name."""
    actor, context = world.actor(), client.hold(name)
    await actor.enter(context)
    (row,) = locks_in_db(admin)
    await actor.exit(context)
    return Key.from_pg(row.classid, row.objid, row.objsubid)


async def test_the_registry_s_key_is_what_is_locked(
    world: World, dsn: str, admin: Admin, tmp_path: Path
) -> None:
    """A fixed key, a pair, a scheme, a template's scheme; any other name as without a registry."""
    client = world.client(dsn, registry=registry(tmp_path))
    for name, key in {
        "nightly": Key.of("nightly"),
        "legacy": Key.hashtext("legacy"),
        "deploy": Key.of(42),
        "pair": Key.of((7, -42)),
        "user:7": Key.hashtext("user:7"),
        "größe": Key.hashtext("größe"),
        "☃": Key.of(43),
        "unregistered": Key.of("unregistered"),
        17: Key.of(17),
    }.items():
        assert await locked(world, client, name, admin) == key, name
    plain = world.client(dsn)
    assert await locked(world, plain, "deploy", admin) == Key.of("deploy"), "the control"


async def test_a_path_is_a_registry_and_so_is_the_nearest_file(
    world: World, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`registry=` takes a path, as text too, or True; anything else is refused."""
    path = registry(tmp_path).path
    monkeypatch.chdir(tmp_path)
    for given in (path, str(path), True):
        client = world.client(dsn, registry=given)
        assert client._ascii_key("deploy") == Key.of(42)
    with pytest.raises(ConfigError, match="registry is a path"):
        world.client(dsn, registry=3)
    assert path is not None
    path.unlink()
    (tmp_path / ".git").mkdir()
    with pytest.raises(ConfigError, match="write one, or give its path"):
        world.client(dsn, registry=True)


async def test_strict_refuses_what_is_not_registered(
    world: World, dsn: str, admin: Admin, tmp_path: Path
) -> None:
    """By every verb and before the server is asked; the client lives on."""
    client = world.client(dsn, registry=registry(tmp_path), strict=True)
    actor = world.actor()
    for refused in ("nigthly", "user:", "user:7:8", "ü", 41, (42, 0), Key.of("other"), Key.of(7)):
        for enter in (client.hold(refused), client.attempt(refused), client.hold_all([refused])):
            with pytest.raises(ConfigError, match="this client is strict"):
                await actor.enter(enter)
        with pytest.raises(ConfigError, match="this client is strict"):
            await actor.call(client.lock(refused).acquire)
        with pytest.raises(ConfigError, match="this client is strict"):
            await actor.call(client.holders, refused)
    for name in ("nightly", "user:7", "größe", 42, (7, -42), Key.of("nightly"), "cron:job"):
        await locked(world, client, name, admin)
    loose = world.client(dsn, registry=registry(tmp_path))
    await locked(world, loose, "nigthly", admin)


async def test_strict_says_what_to_write(world: World, dsn: str, tmp_path: Path) -> None:
    """The name that was probably meant, and the line of TOML for one that was not."""
    client = world.client(dsn, registry=registry(tmp_path), strict=True)
    for name, told in {
        "nigthly": "did you mean 'nightly'? If not, add to its [locks]: nigthly = \"what it",
        'a "b" é': '[locks]: "a \\"b\\" é" = "what it protects"',
        41: "[locks]: some-name = {key = 41, ",
        (1, 2): "[locks]: some-name = {key = [1, 2], ",
    }.items():
        with pytest.raises(ConfigError) as caught:
            await world.actor().enter(client.hold(name))
        assert told in str(caught.value)
        assert str(tmp_path) in str(caught.value)


async def test_strict_needs_a_registry(world: World, dsn: str) -> None:
    """Otherwise it would refuse everything, or nothing."""
    with pytest.raises(ConfigError, match="needs a registry"):
        world.client(dsn, strict=True)


async def test_a_registry_that_collides_is_refused(world: World, dsn: str, tmp_path: Path) -> None:
    """When the client is made, with both names; the same names in 64 bits are fine."""
    text = f'[locks]\n"{TWINS[0]}" = ""\n"{TWINS[1]}" = ""\n'
    with pytest.raises(KeyCollision) as caught:
        world.client(dsn, registry=registry(tmp_path, 'keys = "hashtext"\n' + text))
    assert caught.value.names == TWINS
    assert caught.value.key == Key.hashtext(TWINS[0])
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.names, again.key) == (TWINS, caught.value.key)
    world.client(dsn, registry=registry(tmp_path, text))


@pytest.mark.parametrize("registered", [TWINS[:1], ()], ids=["one registered", "none"])
async def test_two_names_with_one_key_are_refused(
    world: World, dsn: str, admin: Admin, tmp_path: Path, registered: tuple[str, ...]
) -> None:
    """The second one, every time; without a registry they silently exclude each other."""
    text = "[locks]\n" + "".join(f'"{name}" = {{keys = "hashtext"}}\n' for name in registered)
    client = world.client(dsn, registry=registry(tmp_path, text), keys="hashtext")
    await locked(world, client, TWINS[0], admin)
    for _ in range(2):
        with pytest.raises(KeyCollision, match="would exclude each other"):
            await world.actor().enter(client.hold(TWINS[1]))
    await locked(world, client, TWINS[0], admin)
    control = world.client(dsn, keys="hashtext")
    for name in TWINS:
        await locked(world, control, name, admin)


async def test_a_name_may_not_meet_another_s_fixed_key(
    world: World, dsn: str, tmp_path: Path
) -> None:
    """A hash that happens to be a registered number is a collision, too."""
    found = registry(tmp_path, "[locks]\ndeploy = {key = 3417513}\n")
    client = world.client(dsn, registry=found, keys="hashtext")
    with pytest.raises(KeyCollision, match="'deploy' and 'job:11352'"):
        await world.actor().enter(client.hold(TWINS[0]))


async def test_namespaces(world: World, dsn: str, admin: Admin, tmp_path: Path) -> None:
    """The registry's is the client's, unless it says otherwise; another one can find nothing."""
    own = registry(tmp_path, 'namespace = "app"\n[locks]\nnightly = {keys = "hashtext"}\n')
    for settings in ({}, {"namespace": "app"}):
        client = world.client(dsn, registry=own, strict=True, **settings)
        assert await locked(world, client, "nightly", admin) == Key.hashtext("app:nightly")
    full = world.client(dsn, registry=own, namespace="", strict=True)
    assert await locked(world, full, "app:nightly", admin) == Key.hashtext("app:nightly")
    with pytest.raises(ConfigError, match="none of its names could be found"):
        world.client(dsn, registry=own, namespace="shop")
    shared = registry(tmp_path, '[locks]\n"shop:nightly" = {key = 42}\n')
    shop = world.client(dsn, registry=shared, namespace="shop", strict=True)
    assert await locked(world, shop, "nightly", admin) == Key.of(42)


@pytest.fixture
def latin1(server: Server, name: str) -> Iterator[str]:
    """A database in another encoding."""
    database = sql.Identifier(name)
    create = sql.SQL("CREATE DATABASE {} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(create.format(database))
    yield server.dsn(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


async def test_the_servers_encoding_counts(world: World, latin1: str, tmp_path: Path) -> None:
    """In a LATIN1 database registered names are hashed as LATIN1, on the very first use, too."""
    with psycopg.connect(latin1, autocommit=True) as admin:
        for settings in ({}, {"namespace": "é"}):
            client = world.client(latin1, registry=registry(tmp_path), **settings)
            full = ":".join([*settings.values(), "größe" if not settings else "a"])
            wanted = Key.of(full, encoding="latin-1") if settings else None
            key = await locked(world, client, full.removeprefix("é:"), admin)
            assert key == (wanted or Key.hashtext(full, encoding="latin-1"))
        client = world.client(latin1, registry=registry(tmp_path), strict=True)
        assert await locked(world, client, "☃", admin) == Key.of(43), (
            "fixed: it need not be spelled"
        )


async def test_a_namespace_that_is_not_ascii_waits_for_the_encoding(
    world: World, latin1: str
) -> None:
    """Without a registry as well: the first use of an ASCII name comes before any session."""
    with psycopg.connect(latin1, autocommit=True) as admin:
        client = world.client(latin1, namespace="é")
        key = await locked(world, client, "nightly", admin)
    assert key == Key.of("é:nightly", encoding="latin-1")
