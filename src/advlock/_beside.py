"""Statements that are no locks: on the session with the lock, or beside it where that is pinned.

A transaction that pins a session must write nothing: with a transaction id VACUUM would be held
back for as long as the lock is held (tests/postgres/test_snapshots.py), and what it wrote would be
there for nobody else. So such statements go over a connection of their own, to the same server; and
the session with the lock is asked once more, because only what is done while the lock is held is
worth anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from advlock import _pin
from advlock._asession import AsyncSession
from advlock._connect import unavailable
from advlock._liveness import Pulse
from advlock._pin import Moved
from advlock._plan import Expired, SessionLost
from advlock._session import Session
from advlock._wire import Wire
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from advlock._dsn import Dsn
    from advlock._plan import SessionPlan

R = TypeVar("R")


def beside(
    session: Session,
    conninfo: str,
    dsn: Dsn,
    plan: SessionPlan[R],
    deadline: float | None = None,
) -> R:
    """Drive `plan` for a lock on `session`.

    Raises:
        Expired: `deadline` passed; what was sent may still be carried out.
        SessionLost: the session is gone, and the lock with it.
        Refused: what the server refused and the plan did not expect.
        DatabaseUnavailable: no connection to do it on.
    """
    if not session.wire.pinned:
        return session.fetch(plan, deadline)
    try:
        wire = Wire(psycopg.Connection.connect(conninfo, autocommit=True))
    except (psycopg.Error, OSError) as error:
        raise unavailable(error, dsn) from None
    try:
        aside = Session(wire, Pulse(session.pulse.bounds))
        verdict = aside.fetch(_aside(session, plan), deadline)
    except Moved:
        session.close(_pin.MOVED)
        raise
    except (SessionLost, Expired) as error:
        raise _ended(error) from None
    finally:
        wire.close()
    session.fetch(_pin.confirm(), deadline)
    return verdict


async def abeside(session: AsyncSession, conninfo: str, dsn: Dsn, plan: SessionPlan[R]) -> R:
    """Drive `plan` for a lock on `session`; raises what `beside` does."""
    if not session.wire.pinned:
        return await session.fetch(plan)
    try:
        wire = Wire(await psycopg.AsyncConnection.connect(conninfo, autocommit=True))
    except (psycopg.Error, OSError) as error:
        raise unavailable(error, dsn) from None
    aside = AsyncSession(wire, session.loop, session.pulse.bounds)
    try:
        verdict = await aside.fetch(_aside(session, plan))
    except Moved:
        session.distrust(_pin.MOVED)
        raise
    except SessionLost as error:
        raise _ended(error) from None
    finally:
        aside.end("done")
    await session.fetch(_pin.confirm())
    return verdict


def _aside(session: Session | AsyncSession, plan: SessionPlan[R]) -> SessionPlan[R]:
    wire: Any = session.wire
    return _pin.aside(plan, session.pulse.bounds, wire.server)


def _ended(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the connection beside that of the lock ended ({error}); try again. The lock is still held"
    )
