"""Rows that are ours until the transaction ends, asked for with a `Select`: see `_claim.py`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, overload

from sqlalchemy import Connection, Select, String, Table, bindparam, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.selectable import Alias

from advlock import _claim_words
from advlock._claim_sql import IS_A_TABLE
from advlock._sqlalchemy._runner import within
from advlock._xact_plan import said, sqlstate
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping

    from sqlalchemy import TextClause

    from advlock._sqlalchemy._kinds import Async, Sync

_MOST_ROWS: Final = 2**63 - 1  # what LIMIT takes
_READ_ONLY: Final = "25006"
# What the session has already is what it was before others changed it; and all rows come at once.
_OPTIONS: Final = {"populate_existing": True, "yield_per": None}


@overload
def claim(session: Sync, select: Select[Any], *, limit: int | None = None) -> list[Any]: ...
@overload
def claim(
    session: Async, select: Select[Any], *, limit: int | None = None
) -> Awaitable[list[Any]]: ...
def claim(
    session: Sync | Async, select: Select[Any], *, limit: int | None = None
) -> list[Any] | Awaitable[list[Any]]:
    """Lock the rows of a select that nobody else has locked, and return them.

    It is the select with `FOR UPDATE SKIP LOCKED`, in the transaction of the session or connection;
    awaitable for async ones. It waits for no row. Until the transaction ends, no other claim
    returns these rows and nobody else changes them; change or delete them before it does, or they
    can be claimed again. Fewer than `limit` may mean that the rest is locked, not that there is
    none.

    Of a join, the rows of what is selected are locked: of `select(Job).join(Customer)` those of
    `Job`. The session flushes before, as it does before any query (`autoflush`), and attributes
    that were loaded before are loaded again: they are those of the row as it was locked.

    Args:
        session: A `Session`, `scoped_session` or `Connection`, or one of their async kinds, with an
            engine for PostgreSQL. Where it has no transaction yet, one begins.
        select: Entities or columns of tables, with its own `where()` and `order_by()`.
        limit: How many rows at most; None for what the select itself says, or all.

    Returns:
        What is selected; entities, if it is one, otherwise rows.

    Raises:
        ConfigError: the connection is in AUTOCOMMIT, or for another database than PostgreSQL; the
            select is none whose rows can be locked, or has a `with_for_update()`.
        UnsafeServer: the server is a read replica.
    """
    targets = _targets(select)
    asked = _limited(select, limit).with_for_update(skip_locked=True, of=[*targets])

    def lock(sync: Sync, conn: Connection) -> list[Any]:
        return _locked(sync, conn, asked, targets)

    outcome: list[Any] | Awaitable[list[Any]] = within(session, "claim", lock)
    return outcome


claim.__module__ = "advlock.sqlalchemy"


def _limited(select: Select[Any], limit: int | None) -> Select[Any]:
    if limit is None:
        return select
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MOST_ROWS:
        msg = f"limit is a number of rows, from 1 to 2**63 - 1, or None, not {limit!r}"
        raise ConfigError(msg)
    return select.limit(limit)


def _locked(sync: Sync, conn: Connection, select: Select[Any], targets: Iterable[Any]) -> list[Any]:
    schemas = conn.get_execution_options().get("schema_translate_map") or {}
    asked = select.where(*(_is_a_table(table, schemas) for table in _tables(targets)))
    with _clearer(conn):
        if isinstance(sync, Connection):
            return [*sync.execute(asked)]
        result = sync.execute(asked, execution_options=_OPTIONS)
        return [*result.scalars().unique()] if _is_one_entity(select) else [*result]


# -- what is selected ------------------------------------------------------------------------------


def _targets(select: Select[Any]) -> list[Any]:
    """Return what to lock the rows of: entities and tables, in the order they are named.

    Raises:
        ConfigError: that cannot be told.
    """
    if not isinstance(select, Select):
        msg = f"claim takes a select(…), not {type(select).__name__}"
        raise ConfigError(msg)
    if select._for_update_arg is not None:
        msg = "claim says FOR UPDATE SKIP LOCKED itself; leave out the select's with_for_update()"
        raise ConfigError(msg)
    found: dict[int, Any] = {}
    for column in select.column_descriptions:
        target = column.get("entity")
        if target is None:
            expr: Any = column["expr"]
            target = getattr(getattr(expr, "element", expr), "table", None)
        if target is not None:
            found.setdefault(id(target), target)
    if not found:
        msg = "this select has no column of a table, so there is no row to lock"
        raise ConfigError(msg)
    return [*found.values()]


def _tables(targets: Iterable[Any]) -> Iterator[Table]:
    for target in targets:
        mapped = getattr(inspect(target, raiseerr=False), "mapper", None)
        for table in [target] if mapped is None else mapped.tables:
            beneath = table.element if isinstance(table, Alias) else table
            if not isinstance(beneath, Table):
                raise ConfigError(_claim_words.only_tables(f"this is a {type(beneath).__name__}"))
            yield beneath


def _is_a_table(table: Table, schemas: Mapping[str | None, str | None]) -> TextClause:
    parts = (schemas.get(table.schema, table.schema), table.name)
    name = ".".join(_quoted(part) for part in parts if part)
    return text(IS_A_TABLE).bindparams(bindparam("relation", name, String, unique=True))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_one_entity(select: Select[Any]) -> bool:
    columns = select.column_descriptions
    return len(columns) == 1 and columns[0]["expr"] is columns[0].get("entity")


# -- what the server says --------------------------------------------------------------------------


@contextmanager
def _clearer(conn: Connection) -> Iterator[None]:
    """Say what to do where the server's own words leave it open."""
    try:
        yield
    except DBAPIError as error:
        state = sqlstate(error)
        # A connection that was lost cannot be asked: that would be an error of its own.
        standby = state == _READ_ONLY and _standby(conn)
        ours = _claim_words.clearer(error, state, said(error), standby)
        if ours is None:
            raise
        raise ours from error


def _standby(conn: Connection) -> bool:
    """Whether the driver was told that this is a read replica."""
    driver: Any = conn.connection.driver_connection
    if hasattr(driver, "get_settings"):  # asyncpg
        return getattr(driver.get_settings(), "in_hot_standby", "off") == "on"
    if hasattr(driver, "parameter_statuses"):  # pg8000
        return dict(driver.parameter_statuses).get("in_hot_standby") == "on"
    return bool(driver.info.parameter_status("in_hot_standby") == "on")
