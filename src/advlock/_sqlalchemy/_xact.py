"""Transaction-level locks in a session's or a connection's own transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from advlock import _xact_plan
from advlock._client import wait_seconds
from advlock._key import Key
from advlock._sqlalchemy._runner import drive, encoding, within

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sqlalchemy import Connection

    from advlock._client import Seconds
    from advlock._key import Name
    from advlock._sqlalchemy._kinds import Async, Sync


@overload
def xact_lock(session: Sync, name: Name, *, wait: Seconds = None, shared: bool = False) -> None: ...
@overload
def xact_lock(
    session: Async, name: Name, *, wait: Seconds = None, shared: bool = False
) -> Awaitable[None]: ...
def xact_lock(
    session: Sync | Async, name: Name, *, wait: Seconds = None, shared: bool = False
) -> Awaitable[None] | None:
    """Lock `name` until the transaction of a session or connection ends; awaitable for async ones.

    It is released by COMMIT or ROLLBACK, and by nothing else; taken within `begin_nested()`, also
    by a rollback to there. Nothing is flushed and nothing expires: what was loaded before is as old
    as it was, so lock first, then load. After a timeout the transaction is usable, and the
    `lock_timeout` is what it was.

    Args:
        session: A `Session`, `scoped_session` or `Connection`, or one of their async kinds, with an
            engine for PostgreSQL. Where it has no transaction yet, one begins.
        name: A string, a 64-bit integer, or a pair of 32-bit integers.
        wait: How long to wait, in seconds or as `"30s"`; None for ever. While it waits, the
            transaction holds back VACUUM, as any open transaction does.
        shared: Share it with other shared holders.

    Raises:
        LockTimeout: it was not free in time; it says who holds it.
        ConfigError: the connection is in AUTOCOMMIT, or for another database than PostgreSQL.
        UnsafeServer: the server is a read replica.
    """
    seconds = wait_seconds(wait)

    def lock(_: Sync, conn: Connection) -> None:
        drive(conn, _xact_plan.wait(_key(conn, name), name, seconds, shared=shared))

    outcome: Awaitable[None] | None = within(session, "xact_lock", lock)
    return outcome


@overload
def try_xact_lock(session: Sync, name: Name, *, shared: bool = False) -> bool: ...
@overload
def try_xact_lock(session: Async, name: Name, *, shared: bool = False) -> Awaitable[bool]: ...
def try_xact_lock(
    session: Sync | Async, name: Name, *, shared: bool = False
) -> bool | Awaitable[bool]:
    """Lock `name` until the transaction ends, if it is free; tell whether it is ours.

    Parameters and errors are those of `xact_lock`.
    """

    def lock(_: Sync, conn: Connection) -> bool:
        return drive(conn, _xact_plan.try_lock(_key(conn, name), shared=shared))

    outcome: bool | Awaitable[bool] = within(session, "try_xact_lock", lock)
    return outcome


xact_lock.__module__ = try_xact_lock.__module__ = "advlock.sqlalchemy"


def _key(conn: Connection, name: Any) -> Key:
    ascii_only = not isinstance(name, str) or name.isascii()
    return Key.of(name, encoding="utf-8" if ascii_only else encoding(conn))
