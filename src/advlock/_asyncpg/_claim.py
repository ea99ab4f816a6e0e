"""Rows that are ours until the transaction ends: `_claim.py` for asyncpg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, LiteralString

from asyncpg import PostgresError
from psycopg import sql

from advlock import _claim, _claim_sql, _claim_words
from advlock._asyncpg._runner import check, says_standby
from advlock._xact_plan import said, sqlstate
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from asyncpg import Record

    from advlock._asyncpg._runner import AnyConnection
    from advlock._claim import Columns


async def claim(  # noqa: PLR0913 - all but two have a default
    conn: AnyConnection,
    table: str | tuple[str, ...],
    *,
    where: LiteralString | None = None,
    params: Sequence[Any] = (),
    order_by: Columns = None,
    limit: int = 1,
) -> list[Record]:
    """Lock rows that nobody else has locked, and return them, as asyncpg's records.

    It waits for no row. Until the transaction ends, no other claim returns these rows and nobody
    else changes them; change or delete them before it does, or they can be claimed again. Fewer
    than `limit` may mean that the rest is locked, not that there is none.

    Args:
        conn: A connection in a transaction (`async with conn.transaction():`); that of a pool, too.
        table: Its exact name; `"app.job"` is `job` in the schema `app`. A tuple of names is not
            taken apart.
        where: Which rows, as SQL about the row alone: a literal, so that no input becomes SQL.
        params: For the `$1` and `$2` in `where`.
        order_by: Columns, such as `"priority DESC NULLS LAST, id"`; or a sequence of such texts.
        limit: How many rows at most.

    Raises:
        ConfigError: the connection is in no transaction, the table is a view or the like, or an
            argument cannot be right.
        UnsafeServer: the server is a read replica.
    """
    check(conn, "claim")
    if isinstance(params, str) or not isinstance(params, Sequence):
        msg = f"params is a sequence of values for $1, $2 … in where, not {params!r}"
        raise ConfigError(msg)
    parts = _claim._parts(_claim._identifier(table), where, _claim._order(order_by), limit)
    name = sql.Literal(parts["table"].as_string(None))
    query = sql.SQL(_claim_sql.CLAIM).format(**parts | {"name": name})
    return await _fetch(conn, query.as_string(None), params)


claim.__module__ = "advlock.asyncpg"


async def _fetch(conn: AnyConnection, query: str, params: Sequence[Any]) -> list[Record]:
    try:
        # Not kept: a prepared `SELECT *` fails when a migration has added a column. And without a
        # name: behind a pooler that of another client's may be there already.
        statement = await conn.prepare(query, name="")
        return await statement.fetch(*params)
    except PostgresError as error:
        ours = _claim_words.clearer(error, sqlstate(error), said(error), says_standby(conn))
        if ours is None:
            raise
        raise ours from error
