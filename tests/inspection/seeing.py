"""What tests do with locks, and how they look for what they did."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from waiting import eventually

from advlock import _schema
from advlock._dsn import Dsn
from advlock._inspect._window import Window
from advlock.errors import LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    from advlock import Key, Locks
    from advlock.inspect import LockTree, Snapshot

# A waiter is in the queue a moment before it has noted since when.
WAITS = """
    SELECT count(*) FROM pg_locks
    WHERE pid = %s AND NOT granted AND waitstart IS NOT NULL"""


def window_to(dsn: str, **options: Any) -> Window:
    """A window to a database."""
    return Window(Dsn(dsn, "the test"), **options)


def tree_of(seen: Snapshot, key: Key | tuple[int, int, int]) -> LockTree:
    """The only tree of a lock."""
    columns = key if isinstance(key, tuple) else (key.classid, key.objid, key.objsubid)
    (tree,) = (t for t in seen.trees if (t.classid, t.objid, t.objsubid) == columns)
    return tree


@dataclass
class Scene:
    """A database, and who opens sessions to it."""

    dsn: str
    connect: Callable[..., Connection[Any]]
    first: Connection[Any] | None = None

    def one(self) -> Connection[Any]:
        """A session that is there once for all examples of a property."""
        self.first = self.first or self.connect()
        return self.first

    def waiting(self, statement: str, **options: Any) -> Connection[Any]:
        """A session that waits in a statement, once it does."""
        session, other = self.connect(**options), self.connect()
        session.pgconn.send_query(statement.encode())
        session.pgconn.flush()
        pid = session.info.backend_pid
        eventually(lambda: other.execute(WAITS, (pid,)).fetchone() != (0,), message="a waiter")
        return session


@contextmanager
def role(superuser_dsn: str, *statements: str) -> Iterator[str]:
    """Make a role without any privilege; yield its DSN.

    Args:
        superuser_dsn: Where, and who may.
        statements: What else to do; `{}` is the role's name.
    """
    name, password = f"Looker {secrets.token_hex(4)}", secrets.token_hex(8)
    identifier = sql.Identifier(name)
    with psycopg.connect(superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, password))
        try:
            for statement in statements:
                session.execute(sql.SQL(statement).format(identifier))  # type: ignore[arg-type]
            yield make_conninfo(superuser_dsn, user=name, password=password)
        finally:
            end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
            session.execute(end, (name,))
            session.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            session.execute(sql.SQL("DROP ROLE {}").format(identifier))


def timed_out(locks: Locks, key: int) -> LockTimeout:
    """Wait for a lock in vain, until the error tells who has it: that may not take long either."""

    def told() -> list[LockTimeout]:
        with pytest.raises(LockTimeout) as caught:
            locks.hold(key, wait=0.2).__enter__()
        return [caught.value] if caught.value.holders else []

    return eventually(told, message="who has it", within=20)[0]


def make_tables(admin: Connection[Any]) -> None:
    """Make the tables of advlock, as `advlock init` does."""
    with window_to(admin.info.dsn) as window:
        assert 2 in window.ask(_schema.prepare())


def record(admin: Connection[Any], key: Key, name: str | None = None) -> None:
    """Write down what a process would about its key; `name` for one that lies."""
    admin.execute(
        "INSERT INTO advlock.lock_name (key, name, scheme, seed) VALUES (%s, %s, %s, %s)",
        (key.value, name or key.name, key.scheme, key.seed),
    )
