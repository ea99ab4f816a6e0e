"""Transaction-level locks as plans: what to say in the caller's transaction, on whatever driver.

A plan yields a statement with its parameters and gets rows, or the driver's own error thrown in. It
tells errors apart by their SQLSTATE, which every driver has, each in a place of its own.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from advlock import _client, _plan, _sql
from advlock._plan import Refused
from advlock.errors import UnsafeServer

if TYPE_CHECKING:
    from collections.abc import Generator

    from advlock._key import Key, Name

    XactPlan = Generator[tuple[str, tuple[Any, ...]], list[tuple[Any, ...]], "R"]

R = TypeVar("R")

_LOCK_NOT_AVAILABLE = "55P03"
_OUT_OF_MEMORY = "53200"  # of the lock table, too
_LONGEST = 2**31 - 1  # what `lock_timeout` takes, in milliseconds: 24 days


def try_lock(key: Key, *, shared: bool) -> XactPlan[bool]:
    """Take it if it is free; tell whether it is ours.

    Raises:
        UnsafeServer: the server is a read replica.
    """
    rows = yield _sql.XACT_TRY[shared, key.pair], _arguments(key)
    ours, in_recovery = rows[0]
    if in_recovery:
        raise replica()
    return bool(ours)


def wait(key: Key, name: Name, seconds: float | None, *, shared: bool) -> XactPlan[None]:
    """Wait inside a savepoint, and put `lock_timeout` back whatever happens.

    Rolling back to a savepoint takes its `set_config` back with it; releasing one leaves it to the
    transaction, so there the old value is set again.
    """
    if (yield from try_lock(key, shared=shared)):
        return
    yield _sql.SAVEPOINT, ()
    try:
        rows = yield _sql.LOCK_TIMEOUT, ()
        before = rows[0][0]
        yield _sql.SET_LOCK_TIMEOUT, (f"{_milliseconds(seconds)}ms",)
        yield _sql.XACT_WAIT[shared, key.pair], _arguments(key)
        yield _sql.SET_LOCK_TIMEOUT, (before,)
    except GeneratorExit:  # the connection is no more
        raise
    except BaseException as error:
        yield _sql.ROLLBACK_TO_SAVEPOINT, ()
        if sqlstate(error) != _LOCK_NOT_AVAILABLE:
            yield _sql.RELEASE_SAVEPOINT, ()
            raise
        from advlock._inspect import _one  # noqa: PLC0415 - most locks are free

        rows = yield _sql.HOLDERS, (key.value, 2 if key.pair else 1)
        # A simple statement has the last word: it lets go of the snapshot.
        yield _sql.RELEASE_SAVEPOINT, ()
        texts = [tuple(None if v is None else str(v) for v in row) for row in rows]
        holders = _one.read(key, texts)
        raise _client.timeout(name, key, seconds or 0.0, holders) from None
    yield _sql.RELEASE_SAVEPOINT, ()


def _milliseconds(seconds: float | None) -> int:
    """Return a `lock_timeout`; 0, for none, also for what is longer than it can say."""
    if seconds is None or seconds * 1000 > _LONGEST:
        return 0
    return max(1, round(seconds * 1000))


def _arguments(key: Key) -> tuple[int, ...]:
    parts = key.parts
    return parts if isinstance(parts, tuple) else (parts,)


# -- errors ----------------------------------------------------------------------------------------


def replica() -> UnsafeServer:
    """Say why no lock is taken there."""
    return UnsafeServer(
        "this connection is to a read replica: it grants advisory locks of its own, whatever the "
        "primary has granted. Use a connection to the primary",
        reason="replica",
    )


def translated(error: BaseException) -> BaseException:
    """Return the error to throw into a plan: ours, where the server has no room for locks."""
    if sqlstate(error) != _OUT_OF_MEMORY:
        return error
    ours = _plan.server_error(Refused(_OUT_OF_MEMORY, said(error)))
    ours.__cause__ = error
    return ours


def sqlstate(error: BaseException) -> str | None:
    """Return the server's code for what it refused, from any driver's error; None for others."""
    error = getattr(error, "orig", None) or error  # SQLAlchemy has the driver's inside its own
    found = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return found or _fields(error).get("C")


def said(error: BaseException) -> str:
    """Return the server's own words, in one line."""
    error = getattr(error, "orig", None) or error
    lines = str(_fields(error).get("M") or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _fields(error: BaseException) -> dict[str, str]:
    """Return the fields of the server's message, which pg8000 hands out as they came."""
    first = error.args[0] if error.args else None
    return first if isinstance(first, dict) else {}


# -- statements ------------------------------------------------------------------------------------


@cache
def numbered(sql: str) -> str:
    """Return a statement with `$1` where it has psycopg's `%s`."""
    parts = sql.split("%s")
    return "".join(f"${n}{part}" if n else part for n, part in enumerate(parts))
