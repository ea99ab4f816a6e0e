"""Transaction-level locks in asyncpg's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advlock import _xact_plan
from advlock._asyncpg._runner import check, drive
from advlock._client import wait_seconds
from advlock._key import Key, pg_encoding

if TYPE_CHECKING:
    from advlock._asyncpg._runner import AnyConnection
    from advlock._client import Seconds
    from advlock._key import Name


async def xact_lock(
    conn: AnyConnection, name: Name, *, wait: Seconds = None, shared: bool = False
) -> None:
    """Lock `name` until the transaction of an asyncpg connection ends.

    It is released by COMMIT or ROLLBACK, and by nothing else; taken in a nested
    `conn.transaction()`, also by a rollback of that one. After a timeout the transaction is usable,
    and the `lock_timeout` is what it was.

    Args:
        conn: A connection in a transaction (`async with conn.transaction():`); that of a pool, too.
        name: A string, a 64-bit integer, or a pair of 32-bit integers.
        wait: How long to wait, in seconds or as `"30s"`; None for ever. A `command_timeout` of the
            connection ends the wait as well, as asyncpg's own TimeoutError. While it waits, the
            transaction holds back VACUUM, as any open transaction does.
        shared: Share it with other shared holders.

    Raises:
        LockTimeout: it was not free in time; it says who holds it.
        ConfigError: the connection is in no transaction.
        UnsafeServer: the server is a read replica.
    """
    check(conn, "xact_lock")
    await drive(conn, _xact_plan.wait(_key(conn, name), name, wait_seconds(wait), shared=shared))


async def try_xact_lock(conn: AnyConnection, name: Name, *, shared: bool = False) -> bool:
    """Lock `name` until the transaction ends, if it is free; tell whether it is ours.

    Parameters and errors are those of `xact_lock`.
    """
    check(conn, "try_xact_lock")
    return await drive(conn, _xact_plan.try_lock(_key(conn, name), shared=shared))


xact_lock.__module__ = try_xact_lock.__module__ = "advlock.asyncpg"


def _key(conn: AnyConnection, name: Name) -> Key:
    return Key.of(name, encoding=pg_encoding(conn.get_settings().server_encoding))
