"""What every test of the names needs: the table, and clients that do not let one wait for it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from cli.helpers import Cli
from psycopg import sql

from advlock import _names, _recording

from .people import Table, client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection
    from servers import Server

    from .people import Person


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses: what happens when they are over is what is tested. And forget."""
    monkeypatch.setattr(_recording, "_done", {})
    monkeypatch.setattr(_recording, "_RARELY", 0.05)
    monkeypatch.setattr(_recording, "_IDLE", 0.05)
    for pause in ("SOON", "_AGAIN", "_BUSY", "_ABSENT"):
        monkeypatch.setattr(_names, pause, 0.05)


@pytest.fixture
def no_table(admin: Connection[Any]) -> Iterator[Connection[Any]]:
    """A database without a schema `advlock`, also afterwards."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    yield admin
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")


@pytest.fixture
def table(no_table: Connection[Any]) -> Table:
    """The table, empty."""
    made = Table(no_table)
    made.make()
    return made


@pytest.fixture(params=["sync", "async"])
def person(request: pytest.FixtureRequest) -> Iterator[Callable[..., Person]]:
    """Make somebody with a client of one of the two worlds; it is closed afterwards."""
    made: list[Person] = []

    def _person(dsn: str, **settings: Any) -> Person:
        made.append(client(request.param, dsn, **settings))
        return made[-1]

    yield _person
    for one in made:
        one.close()


@pytest.fixture
def cli(dsn: str) -> Iterator[Cli]:
    """The command, with the test's database."""
    started = Cli(dsn)
    yield started
    started.close()


@pytest.fixture
def encoded(server: Server) -> Iterator[Callable[[str], str]]:
    """Make databases in another encoding; the DSN of one."""
    made: list[str] = []

    def _encoded(encoding: str) -> str:
        made.append(f"advlock_{encoding.lower()}_{secrets.token_hex(4)}")
        create = sql.SQL("CREATE DATABASE {} ENCODING {} TEMPLATE template0 LOCALE 'C'")
        admin.execute(create.format(sql.Identifier(made[-1]), encoding))
        return server.dsn(made[-1])

    with psycopg.connect(server.superuser_dsn, autocommit=True) as admin:
        yield _encoded
        for name in made:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            admin.execute(drop.format(sql.Identifier(name)))
