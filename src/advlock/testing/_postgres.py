"""A real PostgreSQL for tests, thrown away afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from advlock import embedded
from advlock.errors import ConfigError
from advlock.testing._clients import Clients

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "ADVLOCK_TEST_DSN"


class PostgresDatabase(Clients):
    """An empty database on a real server, which nobody else uses."""

    __module__ = "advlock.testing"

    def __repr__(self) -> str:
        return f"<PostgresDatabase {self._name!r}>"

    def __init__(self, server: str, name: str) -> None:
        super().__init__(make_conninfo(server, dbname=name))
        self._name = name


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a server of our own, or take that of ADVLOCK_TEST_DSN; its address.

    Raises:
        ConfigError: there is neither; the message says how to get one.
    """
    if given := os.environ.get(VARIABLE):
        yield given
        return
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(embedded.temporary())
        except ConfigError as error:
            msg = f"{error}; or set {VARIABLE} to a server on which databases may be made"
            raise ConfigError(msg) from None
        yield running.dsn


@contextlib.contextmanager
def database(server: str) -> Iterator[PostgresDatabase]:
    """Make an empty database; afterwards its clients are closed, and it is gone."""
    name = f"advlock_test_plugin_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    made = PostgresDatabase(server, name)
    try:
        yield made
    finally:
        made.close_clients()
        with psycopg.connect(server, autocommit=True) as session:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            session.execute(drop.format(sql.Identifier(name)))
