"""Who holds one lock and who waits for it, from the answer of `_sql.HOLDERS`. Pure.

A question about one key, for messages and for `Locks.holders`; `_read` reads those of all keys.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from advlock._inspect import _stuck
from advlock._inspect._naming import Namer
from advlock._inspect._session_row import SessionRow, of_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._holder import Holder, Waiter
    from advlock._key import Key

_TRUE: Final = ("t", "True")  # as libpq has it, and as str() of what psycopg made of it
_MORE: Final = 4  # columns that are not the session's
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def read(key: Key, rows: Iterable[tuple[str | None, ...]]) -> list[Holder]:
    """Read the rows: holders first, then the queue.

    Args:
        key: What was asked about.
        rows: The answer, as text.
    """
    namer = Namer()
    holders: dict[tuple[str | None, ...], Holder] = {}
    waiters: list[Waiter] = []
    for row in rows:
        granted, mode, waitstart, at = row[-_MORE:]
        session, shared, now = of_row(row[:-_MORE]), mode in _TRUE, float(at or 0)
        if granted not in _TRUE:
            since = None if waitstart is None else float(waitstart)
            flags = _stuck.of_waiter(session, since, now)
            waiters.append(
                session.waiter(shared=shared, since=session.since_of_wait(since), flags=flags)
            )
        elif shared is False or row[:1] not in holders:
            # A session that holds it in both modes has two rows; what counts is the stronger one.
            holders[row[:1] if session.pid else row] = _holder(session, key, namer, now, shared)
    return [*holders.values(), *sorted(waiters, key=in_queue)]


def in_queue(waiter: Waiter) -> tuple[bool, datetime]:
    """Sort waiters by when they came; those of whom that is not known come last."""
    return (waiter.since is None, waiter.since or LONG_AGO)


def _holder(session: SessionRow, key: Key, namer: Namer, now: float, shared: bool) -> Holder:  # noqa: FBT001
    flags = _stuck.of_holder(session, now)
    if not session.pid:
        session.state, flags = "prepared transaction", (_stuck.PREPARED,)
    return session.holder(shared=shared, since=namer.since(session, key), flags=flags)
