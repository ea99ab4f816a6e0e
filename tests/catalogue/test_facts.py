"""What is learnt from a real database, whatever it has and whoever asks."""

from __future__ import annotations

import secrets
import zlib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from advlock import Key
from advlock._catalogue._catalogue import Catalogue
from advlock._catalogue._facts import Facts, facts
from advlock._plan import Refused
from catalogue.conftest import identify, learn, new_database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

Shop = psycopg.Connection[Any]


def test_names_of_a_database_are_learnt(shop: Shop, fresh: str) -> None:
    """Schemas, tables with their oids, extensions and publications come in one answer."""
    shop.execute("""
        CREATE SCHEMA sales;
        CREATE TABLE sales.schema_migrations (version bigint, dirty boolean);
        CREATE TABLE orders (id int) PARTITION BY RANGE (id);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (1) TO (2);
        CREATE SEQUENCE global_states_id_seq;
        CREATE SEQUENCE of_no_interest;
        CREATE TEMPORARY TABLE que_jobs ();
    """)
    learnt = learn(fresh)
    assert learnt.database.startswith("shop_")
    assert learnt.codec == "utf-8"
    assert learnt.schemas == ("public", "sales")
    assert "plpgsql" in learnt.extensions
    names = {str(table): table for table in learnt.tables}
    assert set(names) == {
        "sales.schema_migrations",
        "public.orders",
        "public.orders_1",
        "public.global_states_id_seq",
    }
    assert names["sales.schema_migrations"].columns == ("dirty",)
    assert names["public.orders"].partitioned
    (row,) = shop.execute("SELECT 'orders'::regclass::oid::int8")
    assert learnt.by_oid[row[0]] == names["public.orders"]
    assert learnt.any(["schema_migrations(dirty)"])
    assert not learnt.any(["que_jobs", "schema_migrations(inserted_at)"])


def test_a_bare_server_is_enough(fresh: str) -> None:
    """An empty database says its name and its schema."""
    learnt = learn(fresh)
    assert (learnt.schemas, learnt.tables, learnt.publications) == (("public",), (), ())


ODD = ['a"b', "a\\b", "ü ☃", "{x,y}", "%s $1 '", "\x1b[31mred", "x\ny"]


def test_odd_names_do_no_harm(server: Server) -> None:
    """Names with quotes, backslashes, braces, newlines and escapes come as they are."""
    name = 'odd "☃" \\ \'' + secrets.token_hex(2)
    with new_database(server, name) as dsn, psycopg.connect(dsn, autocommit=True) as session:
        for odd in ODD:
            session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(odd)))
            table = sql.Identifier(odd, f"{odd}_migrations")
            session.execute(sql.SQL("CREATE TABLE {} ()").format(table))
        with session.transaction():
            session.execute("SELECT pg_advisory_xact_lock(%s)", [_rails(session)])
            (found,) = identify(dsn, session).values()
        learnt = learn(dsn)
        assert learnt.database == name
        assert set(learnt.schemas) == {"public", *ODD}
        assert {table.schema for table in learnt.tables} == set(ODD)
        assert [known.tool for known in found] == ["Rails"]


def _rails(session: Shop) -> int:
    """Rails' key, made by other means: Ruby's crc32 is Python's, the rest is done by the server."""
    (row,) = session.execute("SELECT current_database()")
    (made,) = session.execute("SELECT 2053462845::int8 * %s::int8", [zlib.crc32(row[0].encode())])
    return int(made[0])


@pytest.fixture
def guest(server: Server, fresh: str) -> Iterator[str]:
    """A role that may connect, and nothing else: no schema is its, not even `public`."""
    role = f"guest_{secrets.token_hex(4)}"
    identifier = sql.Identifier(role)
    with psycopg.connect(fresh, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(identifier))
        admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    yield make_conninfo(fresh, user=role)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(identifier))


def test_a_role_that_may_nothing_learns_the_names(shop: Shop, fresh: str, guest: str) -> None:
    """Names are in catalogs that everybody may read; tables need not be readable."""
    shop.execute("CREATE SCHEMA secret; CREATE TABLE secret.que_jobs (id bigint)")
    assert learn(guest) == learn(fresh)
    assert learn(guest).any(["que_jobs"])


def test_of_very_many_tables_those_that_matter_come_first(shop: Shop, fresh: str) -> None:
    """The list is bounded; a tool's own table is first in it, then a likely name, then parents."""
    for name in ("a", "b", "c", "shop_migrations", "que_jobs"):
        shop.execute(sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(name)))
    shop.execute("CREATE TABLE parent (id int) PARTITION BY RANGE (id)")
    shop.execute("CREATE TABLE part PARTITION OF parent DEFAULT")
    names = [table.name for table in learn(fresh).tables]
    assert names == ["que_jobs", "shop_migrations", "parent", "a", "b", "c", "part"]
    assert [table.name for table in learn(fresh, 2).tables] == names[:2]


@pytest.mark.parametrize(
    ("encoding", "queue"), [("LATIN1", "größe"), ("EUC_JP", "大きさ"), ("SQL_ASCII", "größe")]
)
def test_other_encodings(server: Server, encoding: str, queue: str) -> None:
    """The hash runs over the bytes of the database's encoding, so its keys are made of those."""
    with (
        new_database(server, encoding=encoding) as dsn,
        psycopg.connect(dsn, autocommit=True) as session,
    ):
        session.execute("CREATE SCHEMA pgmq")
        table = sql.Identifier("pgmq", f"q_{queue}")
        session.execute(sql.SQL("CREATE TABLE {} ()").format(table))
        with session.transaction():
            take = "SELECT pg_advisory_xact_lock(hashtext('pgmq.queue_' || %s))"
            session.execute(take, [queue])
            (found,) = identify(dsn, session).values()
    text = f"pgmq: creation or removal of a queue (queue {queue})"
    assert [str(known) for known in found] == [text]


def test_names_that_are_no_text(server: Server) -> None:
    """In a SQL_ASCII database a name may be any bytes; keys are made of them, messages are not."""
    with new_database(server, encoding="SQL_ASCII") as dsn:
        # As text it would be refused: the server checks what it sends to a client that has UTF-8.
        own = make_conninfo(dsn, client_encoding="SQL_ASCII")
        with psycopg.connect(own, autocommit=True) as session:
            session.execute(b'CREATE SCHEMA pgmq; CREATE TABLE pgmq."q_\xff\xfe" ()')
            with session.transaction():
                session.execute(b"SELECT pg_advisory_xact_lock(hashtext('pgmq.queue_\xff\xfe'))")
                (found,) = identify(dsn, session).values()
    shown = "\N{REPLACEMENT CHARACTER}" * 2
    text = f"pgmq: creation or removal of a queue (queue {shown})"
    assert [str(known) for known in found] == [text]


def test_a_refusal_is_no_failure() -> None:
    """A server that will not tell leaves the catalogue with what is the same everywhere."""
    plan = facts()
    next(plan)
    with pytest.raises(StopIteration) as stop:
        plan.throw(Refused("57014", "canceling statement due to statement timeout"))
    assert stop.value.value == Facts()
    key = Key.of(4097083626)
    (known,) = Catalogue(stop.value.value).identify(key.classid, key.objid, key.objsubid)
    assert known.tool == "goose"
