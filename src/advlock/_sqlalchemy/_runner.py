"""A plan on a SQLAlchemy connection: over its own `execute`, so that events and logs see it all."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import BigInteger, Connection, Integer, String, bindparam, text

from advlock import _sql
from advlock._key import pg_encoding
from advlock._sqlalchemy._kinds import refuse_other_databases, runs_async
from advlock._xact_plan import numbered, translated
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import TextClause

    from advlock._sqlalchemy._kinds import Async, Sync
    from advlock._xact_plan import XactPlan

R = TypeVar("R")

_ENCODING = "advlock: server_encoding"  # a word of ours in `Connection.info`
# Whatever the connection's are: a cursor on the server takes nothing but queries, so that SAVEPOINT
# would be a syntax error there, and the end of the transaction.
_OPTIONS: Final = {"stream_results": False, "yield_per": None}


def within(given: Sync | Async, verb: str, work: Callable[[Sync, Connection], R]) -> Any:
    """Do something in the caller's transaction; awaitable for an async kind.

    Args:
        given: What the caller has.
        verb: What to call it in messages.
        work: Gets it, or what is sync beneath it, and the connection that its transaction is on.
            A session that has none gets one, and begins, as with any statement.

    Raises:
        ConfigError: it is no PostgreSQL, or no transaction would be there.
    """

    def do(sync: Sync) -> R:
        conn = sync if isinstance(sync, Connection) else sync.connection()
        refuse_other_databases(conn.dialect)
        # Every driver's connection has this, and those of SQLAlchemy's around the async ones, too.
        if getattr(conn.connection.dbapi_connection, "autocommit", False):
            msg = (
                f"this connection is in AUTOCOMMIT, where no transaction is, so what {verb} locks "
                f"would be free at once. Use one with another isolation_level"
            )
            raise ConfigError(msg)
        return work(sync, conn)

    run_sync = runs_async(given, verb)
    return do(given) if run_sync is None else run_sync(do)  # type: ignore[arg-type]


def drive(conn: Connection, plan: XactPlan[R]) -> R:
    """Carry a plan out."""
    try:
        statement = next(plan)
        while True:
            try:
                rows = _rows(conn, *statement)
            except BaseException as error:
                # A cancelled task's connection is no more, and what is left to do there is done:
                # anything else would take the place of the cancellation.
                if conn.closed or conn.invalidated:
                    raise
                statement = plan.throw(translated(error))
            else:
                statement = plan.send(rows)
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict


def encoding(conn: Connection) -> str:
    """Tell how the server spells names; asked once for a connection of the driver's."""
    if _ENCODING not in conn.info:
        ((spelling,),) = _rows(conn, _sql.SERVER_ENCODING, ())
        conn.info[_ENCODING] = pg_encoding(spelling)
    found: str = conn.info[_ENCODING]
    return found


def _rows(conn: Connection, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    kinds = tuple(map(_kind, parameters))
    # asyncpg sends everything over the extended protocol. The others merge the parameters into the
    # text, which then goes as a simple statement, and leaves no snapshot behind in a transaction
    # that idles (tests/postgres/test_snapshots.py).
    statement = _statement(sql, kinds, merged=conn.dialect.driver != "asyncpg")
    values = {f"p{n}": value for n, value in enumerate(parameters, 1)}
    with conn.execute(statement, values, execution_options=_OPTIONS) as result:
        return [tuple(row) for row in result] if result.returns_rows else []


def _kind(value: Any) -> Any:
    """Return SQLAlchemy's type; small numbers are int4, which becomes int8 where that is wanted."""
    if isinstance(value, str):
        return String
    return Integer if -(2**31) <= value < 2**31 else BigInteger


@cache
def _statement(sql: str, kinds: tuple[Any, ...], *, merged: bool) -> TextClause:
    # In brackets: `-1::int8` would be a cast of 1.
    words = re.sub(r"\$(\d)", r"(:p\1)", numbered(sql))
    return text(words).bindparams(
        *(bindparam(f"p{n}", type_=kind, literal_execute=merged) for n, kind in enumerate(kinds, 1))
    )
