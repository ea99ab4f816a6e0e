"""`once(…, connection=…)`: in the caller's transaction, so that work and record commit together.

The lock is one of the transaction's, taken in a savepoint: if it turns out that it was done while
we waited, returning to that gives the lock back at once. The record is written in the transaction,
too; whoever waits for the lock gets it when that has ended, and then either sees the record or
does it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from advlock import _plan, _schema_sql, _xact, _xact_plan
from advlock import _sql as sql_of_locks
from advlock._key import Key, pg_encoding
from advlock._once import _sql
from advlock._once._done import Done, Run
from advlock._once._plan import (
    MISSING,
    Want,
    claimed,
    elsewhere,
    judge,
    other_key,
    overtaken,
    refused,
)
from advlock._plan import Refused
from advlock.errors import ConfigError, LockError, LockLost

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeVar

    from advlock._client import Client
    from advlock._xact import AsyncConnection, Connection
    from advlock._xact_plan import XactPlan

    R = TypeVar("R")

_ISOLATION = "read committed"


class Missing(Exception):  # noqa: N818 - an answer, not a failure
    """There is no table yet, and the caller's transaction is no place to make it."""


class Grip:
    """The lock of a transaction, as `Todo` needs to know it."""

    def __init__(
        self, connection: Connection | AsyncConnection, want: Want, key: Key, run: Run
    ) -> None:
        self.name, self.key, self.run = want.lock, key, run
        self.connection = connection

    @property
    def lost(self) -> bool:
        """Whether the connection is closed."""
        return bool(self.connection.closed)

    def check(self) -> None:
        """Raise `LockLost` if it is."""
        if self.lost:
            msg = f"the connection with the transaction of {self.name!r} is closed; nothing stays"
            raise LockLost(msg, name=self.name, key=self.key)

    def token(self) -> Any:
        """Return the token; awaitable for an async connection."""
        if isinstance(self.connection, psycopg.AsyncConnection):
            return _ready(self.run.token)
        return self.run.token


async def _ready(token: int) -> int:
    return token


def check(connection: Any, *, awaited: bool) -> None:
    """Refuse a connection that will not do.

    Raises:
        ConfigError: it is not one of psycopg's of this world, or in no transaction.
        UnsafeServer: it is one to a read replica.
    """
    kind = psycopg.AsyncConnection if awaited else psycopg.Connection
    if not isinstance(connection, kind):
        client = "AsyncLocks" if awaited else "Locks"
        msg = (
            f"connection must be a psycopg.{kind.__name__} for {client}, "
            f"not a {type(connection).__name__}"
        )
        raise ConfigError(msg)
    _xact._check_server(connection)
    if connection.autocommit and connection.info.transaction_status == pq.TransactionStatus.IDLE:
        msg = (
            "this connection is in autocommit mode and in no transaction, so work and record would "
            "not commit together. Wrap both: `with conn.transaction():`, then `with "
            "locks.once(…, connection=conn) as todo:` inside it"
        )
        raise ConfigError(msg)


def key_of(client: Client, want: Want, connection: Any) -> Key:
    """Make the key of the lock, as the server spells it where `connection` leads to."""
    encoding = pg_encoding(connection.info.parameter_status("server_encoding") or "UTF8")
    if client._names is not None:
        key = client._names.key(want.lock, encoding)
        assert key is not None
        return key
    return Key.of(want.lock, namespace=client.namespace, encoding=encoding, scheme=client.keys)


# -- plans -----------------------------------------------------------------------------------------


def begin(name: str, want: Want, key: Key, seconds: float | None) -> XactPlan[Run | Done]:
    """Begin in the caller's transaction, or tell that it was done.

    Raises:
        Missing: there is no table. The transaction is as it was.
    """
    yield sql_of_locks.SAVEPOINT, ()
    try:
        begun = yield from _begin(name, want, key, seconds)
    except psycopg.Error as error:
        yield from _go_back()
        raise _meaning(error) from error
    except BaseException:
        yield from _go_back()
        raise
    if isinstance(begun, Done):
        yield from _go_back()  # and the lock is free
    else:
        yield sql_of_locks.RELEASE_SAVEPOINT, ()
    return begun


def _begin(name: str, want: Want, key: Key, seconds: float | None) -> XactPlan[Run | Done]:
    done = judge(name, want.per, (yield from _look(name)))
    if done is not None:
        return done
    yield from _xact_plan.wait(key, want.lock, seconds, shared=False)
    row = yield from _look(name)
    done = judge(name, want.per, row)
    if done is not None:
        return done
    other = other_key(row, key)
    if other is not None and (yield _sql.HELD, (other,)) == [(True,)]:
        raise elsewhere(name, key, other)
    run = Run(name, (yield from _draw()), str(uuid.uuid4()))
    yield _sql.STILL_HERE, ()
    yield _sql.TRIGGERS, ()
    if not (yield _sql.CLAIM, claimed(run, want.per, key, row)):
        raise overtaken(name)
    return run


def finish(run: Run) -> XactPlan[None]:
    """Record, in the caller's transaction, that it is done."""
    yield _sql.ENDURE, ()
    if not (yield _sql.MARK, (run.name, run.run_id)):
        raise LockLost(
            f"{run.name!r} is not recorded as done: the transaction in which that began has ended "
            f"inside the block, so it is undone, or somebody else has begun to do it since. Commit "
            f"or roll back after the block",
            name=run.name,
        )


def _look(name: str) -> XactPlan[list[str | None]]:
    yield _schema_sql.TRUSTED, ()
    ((*row, isolation),) = yield _sql.LOOK, (name,)
    if isolation != _ISOLATION:
        msg = (
            f"this transaction is {isolation}: it cannot see what others have done while it "
            f"waited. Use READ COMMITTED for it: conn.isolation_level = "
            f"psycopg.IsolationLevel.READ_COMMITTED, before it begins"
        )
        raise ConfigError(msg)
    return [None if value is None else str(value) for value in row]


def _draw() -> XactPlan[int]:
    (row,) = yield sql_of_locks.DRAW_TOKEN, (False,)
    timeline, sound, number = row[:3]
    if sound is False:
        raise LockError(
            "no fencing token: advlock.fence is not as it should be; see advlock doctor"
        )
    return (int(timeline or "0", 16) << _plan._TIMELINE_SHIFT) | int(number or 0)


def _go_back() -> Generator[tuple[str, tuple[Any, ...]], Any, None]:
    yield sql_of_locks.ROLLBACK_TO_SAVEPOINT, ()
    yield sql_of_locks.RELEASE_SAVEPOINT, ()


def _meaning(error: psycopg.Error) -> Exception:
    if error.sqlstate in MISSING:
        return Missing()
    if error.sqlstate is None:
        return error
    return refused(Refused(error.sqlstate, error.diag.message_primary or str(error)))
