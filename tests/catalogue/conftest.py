"""Databases in which tools have left their tables, and somebody who asks what a lock is."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from servers import locks_in_db

from advlock._catalogue._catalogue import Catalogue, Known
from advlock._catalogue._facts import facts
from advlock._dsn import Dsn
from advlock._inspect._window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from advlock._catalogue._facts import Facts

Identified = dict[tuple[int, int, int], tuple[Known, ...]]


def learn(dsn: str, most: int = 4000) -> Facts:
    """Ask a database for its facts, as `advlock ps` does."""
    with Window(Dsn(dsn, "the test")) as window:
        return window.ask(facts(most))


def identify(dsn: str, connection: psycopg.Connection[Any]) -> Identified:
    """Say of every lock that pg_locks shows what the catalogue says of it."""
    catalogue = Catalogue(learn(dsn))
    return {
        (row.classid, row.objid, row.objsubid): catalogue.identify(
            row.classid, row.objid, row.objsubid
        )
        for row in locks_in_db(connection)
    }


@contextlib.contextmanager
def new_database(server: Server, name: str = "", *, encoding: str = "UTF8") -> Iterator[str]:
    """A database that is gone in the end, with a name like a shop's, as its superuser."""
    identifier = sql.Identifier(name or f"shop_{secrets.token_hex(4)}")
    create = sql.SQL(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'"
    ).format(identifier, sql.Literal(encoding))
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(create)
        try:
            yield make_conninfo(server.dsn(identifier._obj[0]), client_encoding="UTF8")
        finally:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


@pytest.fixture
def fresh(server: Server) -> Iterator[str]:
    """A database of this test alone."""
    with new_database(server) as dsn:
        yield dsn


@pytest.fixture
def shop(fresh: str) -> Iterator[psycopg.Connection[Any]]:
    """A session in that database."""
    with psycopg.connect(fresh, autocommit=True, application_name="test-shop") as connection:
        yield connection
