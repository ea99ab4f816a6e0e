"""Transaction-level locks, in the caller's own transaction on the caller's own connection.

Released by the caller's COMMIT or ROLLBACK, and by nothing else, so work and lock end together.
Here a failed wait never leaves the lock behind, as a session-level one may (docs/why.md, 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import psycopg
from psycopg import pq
from psycopg.rows import tuple_row

from advlock._client import wait_seconds
from advlock._key import Key, pg_encoding
from advlock._xact_plan import translated, try_lock
from advlock._xact_plan import wait as wait_for
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from advlock._client import Seconds
    from advlock._key import Name
    from advlock._xact_plan import XactPlan

    Connection = psycopg.Connection[Any]
    AsyncConnection = psycopg.AsyncConnection[Any]

R = TypeVar("R")

_OTHERS = ("asyncpg", "django", "sqlalchemy")


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
        ConfigError: no transaction would be there to hold the lock, or the connection is in
            pipeline mode.
        UnsafeServer: the server is a read replica.
    """
    plan = wait_for(_key(conn, name), name, wait_seconds(wait), shared=shared)
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
    outcome: bool | Awaitable[bool] = _run(conn, try_lock(_key(conn, name), shared=shared))
    return outcome


xact_lock.__module__ = try_xact_lock.__module__ = "advlock"


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
            except BaseException as error:
                if conn.closed:  # nothing is left to be put in order
                    raise
                statement = plan.throw(translated(error))
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
            except BaseException as error:
                if conn.closed:  # nothing is left to be put in order
                    raise
                statement = plan.throw(translated(error))
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


def _check_server(conn: Connection | AsyncConnection) -> None:
    if not isinstance(conn, psycopg.Connection | psycopg.AsyncConnection):
        package = type(conn).__module__.partition(".")[0]
        other = f"; for {package} there is advlock.{package}" if package in _OTHERS else ""
        msg = (
            f"xact_lock needs a psycopg connection (Connection or AsyncConnection), "
            f"not {type(conn).__name__}{other}"
        )
        raise ConfigError(msg)
    # Whether it is a replica, the plans ask the server: PgBouncer tells its clients for ever what a
    # server was when it first saw it (tests/conformance/test_xact.py).


def _check_transaction(conn: Connection | AsyncConnection) -> None:
    if conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        # What a wait does after an error would be skipped there, until the next sync.
        msg = (
            "this connection is in pipeline mode, where a wait cannot end and the transaction go "
            "on. Call xact_lock before `with conn.pipeline():`, in the same transaction"
        )
        raise ConfigError(msg)
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
