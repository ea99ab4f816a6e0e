"""Names that were written down, and what a role that may read little is told."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from advlock import Key, Registry
from advlock._inspect import _look, _sql
from advlock._inspect._look import Access, look
from advlock._inspect._naming import Namer
from advlock._plan import Refused
from advlock._registry._entry import Entry

from .seeing import make_tables, record, role, tree_of, window_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection
    from servers import Server

    from advlock._inspect._window import Window

    from .seeing import Scene

TICK = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def tables(no_tables: Connection[Any]) -> Connection[Any]:
    """The tables of advlock, empty."""
    make_tables(no_tables)
    return no_tables


def lock(session: Connection[Any], *keys: Key) -> None:
    """Lock these."""
    for key in keys:
        session.execute("SELECT pg_advisory_lock(%s)", (key.value,))


def test_what_was_recorded_names_the_key(
    scene: Scene, window: Window, tables: Connection[Any]
) -> None:
    """By each scheme, and of a slot which one; a row that lies names nothing."""
    keys = [Key.of("größe"), Key.hashtext("old"), Key.slot("encode", 70), Key.of("honest")]
    for key in keys[:-1]:
        record(tables, key)
    record(tables, keys[-1], "a lie")
    lock(scene.connect(), *keys)
    seen = window.look()
    assert [tree_of(seen, key).name for key in keys] == ["größe", "old", "encode (slot 70)", None]
    assert seen.hidden == ()
    record(tables, keys[-1])
    assert tree_of(window.look(), keys[-1]).name == "honest"


def test_what_the_cron_has_locked_has_a_name(
    scene: Scene, window: Window, tables: Connection[Any]
) -> None:
    """Its runs, also those that may overlap, and its schedulers."""
    ident = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    names = ["cron:report", f"cron:tide@{TICK.isoformat()}", f"cron-host:{ident}"]
    keys = [Key.of(name) for name in names]
    for job, key in zip(("report", "tide"), keys, strict=False):
        tables.execute(
            "INSERT INTO advlock.cron_run (job, scheduled_at, state, key)"
            " VALUES (%s, %s, 'running', %s)",
            (job, TICK, key.value),
        )
    tables.execute(
        "INSERT INTO advlock.cron_host (id, host, pid, source, hash) VALUES (%s, 'h', 7, 'f', '')",
        (ident,),
    )
    lock(scene.connect(), *keys)
    seen = window.look()
    trees = [tree_of(seen, key) for key in keys]
    assert [(tree.name, tree.kind) for tree in trees] == [(name, "recorded") for name in names]
    assert "job report" in trees[0].description
    assert "scheduler h:7" in trees[2].description


def test_tables_may_come_and_go(scene: Scene, window: Window, no_tables: Connection[Any]) -> None:
    """Whoever keeps looking sees names once there are some, and goes on when they are gone."""
    key = Key.of("comes and goes")
    lock(scene.connect(), key)
    assert tree_of(window.look(), key).name is None
    make_tables(no_tables)
    record(no_tables, key)
    window.look()  # learns that there is a table
    assert tree_of(window.look(), key).name == "comes and goes"
    no_tables.execute("ALTER TABLE advlock.lock_name DROP COLUMN scheme")
    assert tree_of(window.look(), key).name is None
    no_tables.execute("DROP SCHEMA advlock CASCADE")
    for _ in range(2):
        seen = window.look()
        assert (tree_of(seen, key).name, tree_of(seen, key).kind) == (None, "unknown")


def test_a_table_that_is_being_changed_holds_up_nobody(
    scene: Scene, window: Window, tables: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locks are seen without the names, which is said; the next look has them again."""
    monkeypatch.setitem(_sql.SETTINGS, "lock_timeout", "50ms")
    key = Key.of("changed")
    record(tables, key)
    lock(scene.connect(), key)
    assert tree_of(window.look(), key).name == "changed"
    tables.execute("BEGIN")
    tables.execute("LOCK advlock.lock_name")
    seen = window.look()
    assert tree_of(seen, key).name is None
    assert any("ask again" in sentence for sentence in seen.hidden)
    tables.execute("ROLLBACK")
    again = window.look()
    assert (tree_of(again, key).name, again.hidden) == ("changed", ())


def test_a_role_without_any_right_sees_the_locks(scene: Scene, tables: Connection[Any]) -> None:
    """Keys, holders and signatures; what it cannot see is said, and what is said to type helps."""
    key, plain = Key.of("nightly"), Key.of("plain")
    record(tables, plain)
    lock(scene.connect(application_name="advlock:nightly web-2:4242 @t8x3k1"), key)
    lock(scene.connect(application_name="web"), plain)
    with role(scene.dsn) as dsn:
        with window_to(dsn) as little:
            seen = little.look()
            tree = tree_of(seen, key)
            assert tree.name == "nightly"
            (holder,) = tree.holders
            assert (holder.host, holder.process, holder.since is None) == ("web-2", 4242, False)
            unseen = (holder.state, holder.query, holder.client, holder.connected)
            assert unseen == (None, None, None, None)
            assert tree_of(seen, plain).name is None
            assert len(seen.hidden) == 3
        for sentence in seen.hidden:
            for statement in sentence.partition(": ")[2].split("; "):
                tables.execute(statement)  # type: ignore[call-overload]
        with window_to(dsn) as more:
            seen = more.look()
            assert tree_of(seen, plain).name == "plain"
            assert tree_of(seen, key).holders[0].state == "idle"
            assert seen.hidden == ()


def test_other_databases_are_named_only_where_that_is_certain(
    scene: Scene, tables: Connection[Any]
) -> None:
    """A name that was recorded or registered here is none there, and that is said."""
    key = Key.slot("nightly", secrets.randbelow(60))
    record(tables, key)
    lock(scene.connect(), key)
    lock(scene.connect(dbname="postgres"), key)
    registry = Registry([Entry("nightly")])
    with window_to(scene.dsn, all_databases=True, registry=registry) as wide:
        seen = wide.look(["nightly"])
    here = conninfo_to_dict(scene.dsn)["dbname"]
    ours = [tree for tree in seen.trees if tree.database in {here, "postgres"}]
    names = {tree.database: tree.name is None for tree in ours}
    assert names == {here: False, "postgres": True}
    assert any("'postgres'" in sentence for sentence in seen.hidden)


@pytest.fixture
def latin(server: Server) -> Iterator[str]:
    """A database whose encoding is not UTF-8."""
    name = f"latin_{secrets.token_hex(4)}"
    identifier = sql.Identifier(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        made = "CREATE DATABASE {} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
        session.execute(sql.SQL(made).format(identifier))
        yield server.dsn(name)
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def test_another_encoding_is_read_as_it_is(latin: str) -> None:
    """Names hash by the server's bytes there, and queries come out as they were sent."""
    key = Key.of("größe", encoding="iso8859-1")
    with psycopg.connect(latin, autocommit=True) as session, window_to(latin) as window:
        session.execute(f"SELECT pg_advisory_lock({key.value}) /* größe */")  # type: ignore[call-overload]
        (tree,) = window.look(["größe"]).trees
        assert tree.name == "größe"
        assert (tree.holders[0].query or "").endswith("/* größe */")


def test_bytes_of_another_encoding_hide_no_lock(latin: str, scene: Scene) -> None:
    """A query over there may be no text here, within or where it is cut; its lock is seen."""
    number = 10**17 + secrets.randbelow(10**17)  # nobody else's, in any database; 18 digits
    for filler in ("ö", "x" * 968 + "ö" * 20):
        with psycopg.connect(latin, autocommit=True) as session:
            session.execute(f"SELECT pg_advisory_lock({number}) /* {filler} */")  # type: ignore[call-overload]
            with window_to(scene.dsn, all_databases=True) as wide:
                (tree,) = wide.look([number]).trees
            assert tree.database == session.info.dbname
            assert tree.holders[0].pid == session.info.backend_pid


@pytest.mark.parametrize("sqlstate", ["42501", "42P01", "22021"])
def test_what_is_refused_is_asked_again_in_another_way(sqlstate: str) -> None:
    """Once without our tables, once without queries; and then it is an error."""
    access = Access()
    access.names = True
    plan = look(namer=Namer(), access=access)
    first = next(plan).steps[0]
    second = plan.throw(Refused(sqlstate, "no")).steps[0]
    assert first != second
    changed = (
        second.params[2] == "False" if sqlstate in _look._ENCODING else second.sql != first.sql
    )
    assert changed
    with pytest.raises(Refused):
        plan.throw(Refused("XX000", "no"))
