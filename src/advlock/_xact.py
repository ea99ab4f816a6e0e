"""Transaction-level locks, in the caller's own transaction on the caller's own connection.

Released by the caller's COMMIT or ROLLBACK, and by nothing else, so work and lock end together.
Here a failed wait never leaves the lock behind, as a session-level one may (docs/why.md, 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from advlock import _client, _plan, _sql
from advlock._client import wait_seconds
from advlock._key import Key, pg_encoding
from advlock._plan import Refused
from advlock.errors import ConfigError, UnsafeServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from advlock._client import Seconds
    from advlock._key import Name

    Connection = psycopg.Connection[Any]
    AsyncConnection = psycopg.AsyncConnection[Any]
    XactPlan = Generator[tuple[str, tuple[Any, ...]], list[tuple[Any, ...]], "R"]

R = TypeVar("R")


@overload
def xact_lock(
    conn: Connection, name: Name, *, wait: Seconds = None, shared: bool = False
) -> None: ...
@overload
def xact_lock(
    conn: AsyncConnection, name: Name, *, wait: Seconds = None, shared: bool = False
) -> Awaitable[None]: ...
def xact_lock(
    conn: Connection | AsyncConnection, name: Name, *, wait: Seconds = None, shared: bool = False
) -> Awaitable[None] | None:
    """Lock `name` until the caller's transaction ends; awaitable when `conn` is async.

    Afterwards the caller's `lock_timeout` is what it was. After a timeout the transaction is
    still usable: nothing but the wait was rolled back.

    Args:
        conn: A psycopg connection. Unless it is in autocommit mode, a transaction begins by
            itself, as with any statement.
        name: A string, a 64-bit integer, or a pair of 32-bit integers.
        wait: How long to wait, in seconds or as `"30s"`; None for ever. While it waits, the
            transaction holds back VACUUM, as any open transaction does.
        shared: Share it with other shared holders.

    Raises:
        LockTimeout: it was not free in time.
        ConfigError: no transaction would be there to hold the lock.
        UnsafeServer: the server is a read replica.
    """
    plan = _wait(_key(conn, name), name, wait_seconds(wait), shared=shared)
    outcome: Awaitable[None] | None = _run(conn, plan)
    return outcome


@overload
def try_xact_lock(conn: Connection, name: Name, *, shared: bool = False) -> bool: ...
@overload
def try_xact_lock(
    conn: AsyncConnection, name: Name, *, shared: bool = False
) -> Awaitable[bool]: ...
def try_xact_lock(
    conn: Connection | AsyncConnection, name: Name, *, shared: bool = False
) -> bool | Awaitable[bool]:
    """Lock `name` until the caller's transaction ends, if it is free; tell whether it is ours.

    Parameters and errors are those of `xact_lock`.
    """
    outcome: bool | Awaitable[bool] = _run(conn, _try(_key(conn, name), shared=shared))
    return outcome


xact_lock.__module__ = try_xact_lock.__module__ = "advlock"


# -- plans -----------------------------------------------------------------------------------------


def _try(key: Key, *, shared: bool) -> XactPlan[bool]:
    rows = yield _sql.XACT_TRY[shared, key.pair], _arguments(key)
    return bool(rows[0][0])


def _wait(key: Key, name: Name, seconds: float | None, *, shared: bool) -> XactPlan[None]:
    """Wait inside a savepoint, and put `lock_timeout` back whatever happens.

    Rolling back to a savepoint takes its `set_config` back with it; releasing one leaves it to the
    transaction, so there the old value is set again.
    """
    if (yield from _try(key, shared=shared)):
        return
    milliseconds = 0 if seconds is None else max(1, round(seconds * 1000))
    yield _sql.SAVEPOINT, ()
    try:
        rows = yield _sql.LOCK_TIMEOUT, ()
        before = rows[0][0]
        yield _sql.SET_LOCK_TIMEOUT, (f"{milliseconds}ms",)
        yield _sql.XACT_WAIT[shared, key.pair], _arguments(key)
        yield _sql.SET_LOCK_TIMEOUT, (before,)
    except psycopg.errors.LockNotAvailable:
        yield _sql.ROLLBACK_TO_SAVEPOINT, ()
        rows = yield _sql.HOLDERS, (key.value, 2 if key.pair else 1)
        # A simple statement has the last word: it lets go of the snapshot.
        yield _sql.RELEASE_SAVEPOINT, ()
        holders = [_plan.holder(*(None if v is None else str(v) for v in row)) for row in rows]
        raise _client.timeout(name, key, seconds or 0.0, holders) from None
    except BaseException:
        yield _sql.ROLLBACK_TO_SAVEPOINT, ()
        yield _sql.RELEASE_SAVEPOINT, ()
        raise
    yield _sql.RELEASE_SAVEPOINT, ()


def _arguments(key: Key) -> tuple[int, ...]:
    parts = key.parts
    return parts if isinstance(parts, tuple) else (parts,)


# -- the caller's connection -----------------------------------------------------------------------


def _run(conn: Connection | AsyncConnection, plan: XactPlan[R]) -> Any:
    if isinstance(conn, psycopg.AsyncConnection):
        return _adrive(conn, plan)
    return _drive(conn, plan)


def _drive(conn: Connection, plan: XactPlan[R]) -> R:
    _check_transaction(conn)
    try:
        statement = next(plan)
        while True:
            try:
                with _cursor(conn, statement[0]) as cursor:
                    cursor.execute(*statement)
                    rows = cursor.fetchall() if cursor.description else []
            except BaseException as error:  # noqa: BLE001 - the plan decides
                statement = plan.throw(_translated(error))
            else:
                statement = plan.send(rows)
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict


async def _adrive(conn: AsyncConnection, plan: XactPlan[R]) -> R:
    _check_transaction(conn)
    try:
        statement = next(plan)
        while True:
            try:
                async with _acursor(conn, statement[0]) as cursor:
                    await cursor.execute(*statement)
                    rows = await cursor.fetchall() if cursor.description else []
            except BaseException as error:  # noqa: BLE001 - the plan decides
                statement = plan.throw(_translated(error))
            else:
                statement = plan.send(rows)
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict


def _cursor(conn: Connection, sql: str) -> psycopg.Cursor[Any]:
    """Make a cursor of our own kind, whatever the connection's factories are.

    Parameters are merged on the client: a statement of the extended protocol would leave its
    snapshot behind in the caller's idle transaction, and hold back VACUUM
    (tests/postgres/test_snapshots.py).
    """
    kind = psycopg.RawCursor if "$1" in sql else psycopg.ClientCursor
    return kind(conn, row_factory=tuple_row)


def _acursor(conn: AsyncConnection, sql: str) -> psycopg.AsyncCursor[Any]:
    kind = psycopg.AsyncRawCursor if "$1" in sql else psycopg.AsyncClientCursor
    return kind(conn, row_factory=tuple_row)


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, psycopg.errors.OutOfMemory):
        translated = _plan.server_error(Refused("53200", str(error).splitlines()[0]))
        translated.__cause__ = error
        return translated
    return error


def _check_server(conn: Connection | AsyncConnection) -> None:
    if not isinstance(conn, psycopg.Connection | psycopg.AsyncConnection):
        msg = (
            f"xact_lock needs a psycopg connection (Connection or AsyncConnection), "
            f"not {type(conn).__name__}"
        )
        raise ConfigError(msg)
    if conn.info.parameter_status("in_hot_standby") == "on":
        msg = (
            "this connection is to a read replica: it grants advisory locks of its own, whatever "
            "the primary has granted. Use a connection to the primary"
        )
        raise UnsafeServer(msg, reason="replica")


def _check_transaction(conn: Connection | AsyncConnection) -> None:
    if conn.autocommit and conn.info.transaction_status == pq.TransactionStatus.IDLE:
        msg = (
            "this connection is in autocommit mode and in no transaction, so the lock would be "
            "gone at once. Wrap the work: `with conn.transaction():`, then xact_lock inside it"
        )
        raise ConfigError(msg)


def _key(conn: Connection | AsyncConnection, name: Name) -> Key:
    _check_server(conn)
    encoding = conn.info.parameter_status("server_encoding") or "UTF8"
    return Key.of(name, encoding=pg_encoding(encoding))
