"""What is odd about a session that holds a lock or waits for one. Pure.

A server cannot know from outside whether a waiter's client is gone. What is certain: no session of
advlock's waits for longer than half a second at a time, so whoever waits for minutes in one go is
somebody else's, holds back VACUUM meanwhile, and may be a ghost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock import _sql

if TYPE_CHECKING:
    from advlock._inspect._session_row import SessionRow

# Seconds: who holds a lock and does nothing for so long, who waits so long in one go.
IDLE: Final = 600.0
WAITING: Final = 300.0

IN_TRANSACTION: Final = "idle-in-transaction"
PINNED: Final = "pinned"
POOLED: Final = "idle-pooled"
GHOST: Final = "ghost"
VACUUM: Final = "holds-back-vacuum"
PREPARED: Final = "prepared"

# What a session of ours said last that a transaction pins (`_pin.compose`). `xact_lock` in a
# caller's own transaction ends with another one.
_PINNED: Final = (_sql.ROLLBACK_TO_SAVEPOINT, _sql.SAVEPOINT)


def of_holder(session: SessionRow, at: float, *, idle: float = IDLE) -> tuple[str, ...]:
    """Say what is odd about a session that holds a lock.

    Args:
        session: The session.
        at: The server's time, in seconds since 1970.
        idle: For how long it may do nothing, in seconds.
    """
    state = session.state or ""
    if state.startswith("idle in transaction"):
        if session.query in _PINNED:
            return (PINNED,)
        return (IN_TRANSACTION, VACUUM) if session.snapshot else (IN_TRANSACTION,)
    if state == "idle" and session.label is None and session.state_since is not None:
        return (POOLED,) if at - session.state_since > idle else ()
    return ()


def of_waiter(
    session: SessionRow, waitstart: float | None, at: float, *, waiting: float = WAITING
) -> tuple[str, ...]:
    """Say what is odd about a session that waits for a lock.

    Args:
        session: The session.
        waitstart: Since when it waits in one go, in seconds since 1970.
        at: The server's time, likewise.
        waiting: For how long it may, in seconds.
    """
    if waitstart is None or at - waitstart <= waiting:
        return ()
    return (GHOST, VACUUM) if session.snapshot else (GHOST,)
