"""A plan on a connection of asyncpg's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from asyncpg import Connection
from asyncpg.pool import PoolConnectionProxy

from advlock._xact_plan import numbered, translated
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._xact_plan import XactPlan

    AnyConnection = Connection[Any] | PoolConnectionProxy[Any]

R = TypeVar("R")


def check(conn: object, verb: str) -> None:
    """Refuse what is no connection in a transaction.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(conn, Connection | PoolConnectionProxy):
        kind = type(conn)
        msg = (
            f"advlock.asyncpg.{verb} needs a connection of asyncpg's, or of its pool "
            f"(`async with pool.acquire() as conn:`), not {kind.__module__}.{kind.__qualname__}"
        )
        raise ConfigError(msg)
    if not conn.is_in_transaction():
        msg = (
            f"this connection is in no transaction, so what {verb} locks would be free at once. "
            f"Wrap the work: `async with conn.transaction():`, then {verb} inside it"
        )
        raise ConfigError(msg)


async def drive(conn: AnyConnection, plan: XactPlan[R]) -> R:
    """Carry a plan out."""
    try:
        statement = next(plan)
        while True:
            try:
                rows = await _rows(conn, *statement)
            except BaseException as error:
                if conn.is_closed():  # nothing is left to be put in order
                    raise
                statement = plan.throw(translated(error))
            else:
                statement = plan.send(rows)
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict


async def _rows(conn: AnyConnection, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
    if sql.lstrip().startswith("SELECT"):
        return [tuple(row) for row in await conn.fetch(numbered(sql), *parameters)]
    await conn.execute(sql)  # a simple statement: it lets go of the snapshot of the one before
    return []


def says_standby(conn: AnyConnection) -> bool:
    """Whether the server said that it is a read replica."""
    return getattr(conn.get_settings(), "in_hot_standby", "off") == "on"
