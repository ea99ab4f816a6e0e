"""A fencing token for a lock: from its own session, or beside it where that is pinned.

A transaction that pins a session must not draw: a sequence now and then needs a transaction id, and
VACUUM would be held back for as long as the lock is held (tests/postgres/test_snapshots.py).
So the token comes from a connection of its own, from the same server; and the session with the
lock is asked once more, because only what is drawn while the lock is held is worth anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from advlock import _pin, _plan
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


def draw(session: Session, conninfo: str, dsn: Dsn) -> int:
    """Draw a token for a lock on `session`.

    Raises:
        SessionLost: the session is gone, and the lock with it.
        Refused: the server gives this role none.
        DatabaseUnavailable: no connection to draw it on.
    """
    if not session.wire.pinned:
        return session.fetch(_plan.token(), None)
    try:
        wire = Wire(psycopg.Connection.connect(conninfo, autocommit=True))
    except (psycopg.Error, OSError) as error:
        raise unavailable(error, dsn) from None
    try:
        token = Session(wire, Pulse(session.pulse.bounds)).fetch(_beside(session), None)
    except Moved:
        session.close(_pin.MOVED)
        raise
    except (SessionLost, Expired) as error:
        raise _no_token(error) from None
    finally:
        wire.close()
    session.fetch(_pin.confirm(), None)
    return token


async def adraw(session: AsyncSession, conninfo: str, dsn: Dsn) -> int:
    """Draw a token for a lock on `session`; raises what `draw` does."""
    if not session.wire.pinned:
        return await session.fetch(_plan.token())
    try:
        wire = Wire(await psycopg.AsyncConnection.connect(conninfo, autocommit=True))
    except (psycopg.Error, OSError) as error:
        raise unavailable(error, dsn) from None
    aside = AsyncSession(wire, session.loop, session.pulse.bounds)
    try:
        token = await aside.fetch(_beside(session))
    except Moved:
        session.distrust(_pin.MOVED)
        raise
    except SessionLost as error:
        raise _no_token(error) from None
    finally:
        aside.end("the token is drawn")
    await session.fetch(_pin.confirm())
    return token


def _beside(session: Session | AsyncSession) -> _plan.SessionPlan[int]:
    wire: Any = session.wire
    return _pin.aside(_plan.token(), session.pulse.bounds, wire.server)


def _no_token(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"no fencing token: the connection that it was to be drawn on ended ({error}); try again. "
        f"The lock is still held"
    )
