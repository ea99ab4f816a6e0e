"""Rows that are ours until the caller's transaction ends: `FOR UPDATE SKIP LOCKED`.

Where the thing to exclude each other from *is* a row, its own lock is the better one: nothing to
name, no table of locks to fill, and it goes with the transaction that changes the row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypeVar, overload

import psycopg
from psycopg import pq, sql
from psycopg.rows import dict_row

from advlock import _claim_sql
from advlock.errors import ConfigError, UnsafeServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    from psycopg.rows import AsyncRowFactory, RowFactory

    Connection = psycopg.Connection[Any]
    AsyncConnection = psycopg.AsyncConnection[Any]
    Table = str | tuple[str, ...] | sql.Identifier
    Columns = str | Sequence[str] | None
    Params = Sequence[Any] | Mapping[str, Any]

Row = TypeVar("Row")

# Word by word, so that it takes a time in proportion to the text, which may come from anywhere.
_DIRECTION: Final = re.compile(
    r"(?P<column>\S++(?:\s++\S++)*?)"
    r"(?:\s++(?P<way>ASC|DESC))?(?:\s++NULLS\s++(?P<nulls>FIRST|LAST))?",
    re.IGNORECASE,
)
_WORDS: Final = {word: sql.SQL(word) for word in (" ASC", " DESC", " NULLS FIRST", " NULLS LAST")}
_MOST_ROWS: Final = 2**63 - 1  # what LIMIT takes
_KIND: Final = re.compile(r"advlock:relation:([vmf])(?!\w)")  # as in `_claim_sql.CLAIM`
_KINDS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
# What the server says of a relation whose rows it cannot lock, by the function that says so: the
# words are in the server's language, and the codes are those of many other mistakes.
_NO_ROWS_TO_LOCK: Final = ("CheckSelectLocking", "CheckValidRowMarkRel")


@overload
def claim(
    conn: Connection,
    table: Table,
    *,
    where: LiteralString | None = None,
    params: Params = (),
    order_by: Columns = None,
    limit: int = 1,
) -> list[dict[str, Any]]: ...
@overload
def claim(
    conn: Connection,
    table: Table,
    *,
    where: LiteralString | None = None,
    params: Params = (),
    order_by: Columns = None,
    limit: int = 1,
    row_factory: RowFactory[Row],
) -> list[Row]: ...
@overload
def claim(
    conn: AsyncConnection,
    table: Table,
    *,
    where: LiteralString | None = None,
    params: Params = (),
    order_by: Columns = None,
    limit: int = 1,
) -> Awaitable[list[dict[str, Any]]]: ...
@overload
def claim(
    conn: AsyncConnection,
    table: Table,
    *,
    where: LiteralString | None = None,
    params: Params = (),
    order_by: Columns = None,
    limit: int = 1,
    row_factory: AsyncRowFactory[Row],
) -> Awaitable[list[Row]]: ...
def claim(  # noqa: PLR0913 - all but two have a default
    conn: Connection | AsyncConnection,
    table: Table,
    *,
    where: LiteralString | None = None,
    params: Params = (),
    order_by: Columns = None,
    limit: int = 1,
    row_factory: Any = None,
) -> Any:
    """Lock rows that nobody else has locked, and return them; awaitable when `conn` is async.

    It waits for no row. Until the caller's transaction ends, or is rolled back to a savepoint
    before the claim, no other claim returns these rows and nobody else changes them; change or
    delete them before that, or they can be claimed again. Fewer than `limit` may mean that the rest
    is locked, not that there is none.

    Args:
        conn: A psycopg connection, in a transaction or not in autocommit mode.
        table: Its exact name; `"app.job"` is `job` in the schema `app`. A tuple of names, or a
            `psycopg.sql.Identifier`, is not taken apart.
        where: Which rows, as SQL about the row alone: a literal, so that no input becomes SQL.
        params: For the `%s` or `%(name)s` in `where`; if there are any, `%` is written `%%`.
        order_by: Columns, such as `"priority DESC NULLS LAST, id"`; or a sequence of such texts.
        limit: How many rows at most.
        row_factory: What makes the rows, as in psycopg; None for dicts.

    Raises:
        ConfigError: no transaction would be there to hold the locks, the table is a view or the
            like, or an argument cannot be right.
        UnsafeServer: the server is a read replica.
    """
    _check_kind(conn)
    factory = row_factory or dict_row
    parts = _parts(_identifier(table), where, _order(order_by), limit)
    query, values = _query(conn, parts, params)
    if isinstance(conn, psycopg.AsyncConnection):
        return _aclaim(conn, query, values, factory)
    return _claim(conn, query, values, factory)


claim.__module__ = "advlock"


# -- the caller's connection -----------------------------------------------------------------------
#
# Never prepared: a prepared `SELECT *` fails when a migration has added a column. And with values
# apart from the text, so that the server takes one statement and no more.
#
# In a pipeline, what was sent before may be a COMMIT of the caller's own, of which psycopg knows
# only when it has the answer; until then it begins no transaction, and the rows would be locked no
# longer when the pipeline is synchronized. Entering a pipeline within one waits for the answers.


def _claim(conn: Connection, query: sql.Composed, values: Any, factory: Any) -> Any:
    _check_transaction(conn)
    if conn.pgconn.pipeline_status:
        with conn.pipeline():
            pass
    with psycopg.Cursor(conn, row_factory=factory) as cursor, _clearer(conn):
        cursor.execute(query, values, prepare=False)
        return cursor.fetchall()


async def _aclaim(conn: AsyncConnection, query: sql.Composed, values: Any, factory: Any) -> Any:
    _check_transaction(conn)
    if conn.pgconn.pipeline_status:
        async with conn.pipeline():
            pass
    async with psycopg.AsyncCursor(conn, row_factory=factory) as cursor:
        with _clearer(conn):
            await cursor.execute(query, values, prepare=False)
            return await cursor.fetchall()


@contextmanager
def _clearer(conn: Connection | AsyncConnection) -> Iterator[None]:
    """Say what to do where the server's own words leave it open."""
    try:
        yield
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.WrongObjectType) as error:
        if error.diag.source_function not in _NO_ROWS_TO_LOCK:
            raise
        raise ConfigError(_only_tables(f"the server says: {error.diag.message_primary}")) from error
    except psycopg.errors.InvalidTextRepresentation as error:
        kind = _KIND.search(error.diag.message_primary or "")
        if kind is None:
            raise
        raise ConfigError(_only_tables(f"this is {_KINDS[kind[1]]}")) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        # Not before the server says so: PgBouncer tells its clients for ever what a server was when
        # it first saw it, also when that has become the primary since.
        if conn.info.parameter_status("in_hot_standby") != "on":
            error.add_note("advlock: rows are locked in a transaction that may write")
            raise
        msg = (
            "this connection is to a read replica, which locks no rows. "
            "Use a connection to the primary"
        )
        raise UnsafeServer(msg, reason="replica") from error
    except psycopg.errors.InsufficientPrivilege as error:
        error.add_note("advlock: to claim rows, a role needs SELECT and UPDATE on the table")
        raise


def _only_tables(why: str) -> str:
    return (
        f"rows are claimed from a table, where each can be locked; {why}. Name the table behind it"
    )


# -- checks ----------------------------------------------------------------------------------------


def _check_kind(conn: object) -> None:
    if not isinstance(conn, psycopg.Connection | psycopg.AsyncConnection):
        kind = type(conn)
        msg = (
            "claim needs a psycopg connection (psycopg.Connection or psycopg.AsyncConnection), "
            f"not {kind.__module__}.{kind.__qualname__}"
        )
        raise ConfigError(msg)


def _check_transaction(conn: Connection | AsyncConnection) -> None:
    if not conn.autocommit:
        return
    status = conn.info.transaction_status
    if status == pq.TransactionStatus.IDLE:
        msg = (
            "this connection is in autocommit mode and in no transaction, so the rows would be "
            "locked no longer when claim returns. "
            "Wrap the work: `with conn.transaction():`, then claim inside it"
        )
        raise ConfigError(msg)
    if status == pq.TransactionStatus.ACTIVE and conn.pgconn.pipeline_status:
        msg = (
            "this connection is in autocommit mode, and in a pipeline nobody knows yet whether a "
            "transaction has begun. Call `pipeline.sync()` before claim, or claim outside of it"
        )
        raise ConfigError(msg)


# -- arguments -------------------------------------------------------------------------------------


def _parts(
    table: sql.Identifier, where: LiteralString | None, order: sql.Composable, limit: int
) -> dict[str, sql.Composable]:
    if where is not None and not isinstance(where, str):
        msg = f"where is a literal string with %s for values, not {type(where).__name__}"
        raise ConfigError(msg)
    if where is not None and not where.strip():
        msg = "where is empty; leave it out, or give None, to claim from all rows"
        raise ConfigError(msg)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MOST_ROWS:
        msg = f"limit is a number of rows, from 1 to 2**63 - 1, not {limit!r}"
        raise ConfigError(msg)
    condition = sql.SQL(_claim_sql.EVERY_ROW if where is None else where)
    return {"table": table, "where": condition, "order": order, "limit": sql.Literal(limit)}


def _query(
    conn: Connection | AsyncConnection, parts: dict[str, sql.Composable], params: Params
) -> tuple[sql.Composed, Params]:
    """Put the statement together, and its values.

    Where the caller gives none, the name of the table is one, so that there always are some; and
    the caller's `%` is doubled then, since psycopg looks for `%s`. In our names it is doubled
    always.
    """

    def doubled(part: sql.Composable) -> sql.SQL:
        return sql.SQL(part.as_string(conn).replace("%", "%%"))

    name = parts["table"].as_string(conn)
    parts |= {"table": doubled(parts["table"]), "order": doubled(parts["order"])}
    if params:
        parts["name"] = doubled(sql.Literal(name))
    else:
        parts |= {"name": sql.SQL("%s"), "where": doubled(parts["where"])}
    return sql.SQL(_claim_sql.CLAIM).format(**parts), params or [name]


def _identifier(table: Table) -> sql.Identifier:
    if isinstance(table, sql.Identifier):
        return table
    parts = table.split(".") if isinstance(table, str) else table
    if not isinstance(parts, Sequence) or not parts or not all(map(_is_name, parts)):
        msg = (
            'table is a name such as "job" or "app.job", a tuple of names such as ("app", "job"), '
            f"or a psycopg.sql.Identifier, not {table!r}"
        )
        raise ConfigError(msg)
    return sql.Identifier(*parts)


def _is_name(part: object) -> bool:
    return isinstance(part, str) and bool(part.strip()) and "\0" not in part


def _order(order_by: Columns) -> sql.Composable:
    if order_by is None:
        return sql.SQL("")
    columns = order_by.split(",") if isinstance(order_by, str) else order_by
    if not isinstance(columns, Sequence) or not columns:
        raise ConfigError(_no_column(order_by))
    return sql.SQL("ORDER BY ") + sql.SQL(", ").join(map(_column, columns))


def _column(text: str) -> sql.Composable:
    found = _DIRECTION.fullmatch(text.strip()) if _is_name(text) else None
    if found is None:
        raise ConfigError(_no_column(text))
    column: sql.Composable = sql.Identifier(found["column"])
    if found["way"]:
        column += _WORDS[f" {found['way'].upper()}"]
    if found["nulls"]:
        column += _WORDS[f" NULLS {found['nulls'].upper()}"]
    return column


def _no_column(given: object) -> str:
    return (
        'order_by is a column such as "created_at" or "priority DESC", several of them with commas '
        f"in between, or a sequence of such texts, not {given!r}"
    )
