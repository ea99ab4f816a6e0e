"""Connecting, for the async client. Its twin is `_connecting.py`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg

from advlock._aloop import by, in_a_thread
from advlock._clock import now
from advlock._connect import PATIENCE, forks, unavailable
from advlock._connecting import Connected
from advlock._lent import LentWire
from advlock._pinned import NO_CONNECTION, PinnedWire
from advlock._plan import Expired, SessionLost
from advlock._pooling import probe
from advlock._set_up import looks_direct, set_up
from advlock._wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._asession import AsyncSession
    from advlock._dsn import Dsn
    from advlock._plan import SessionPlan
    from advlock._pooling import Verdict
    from advlock._set_up import Greeting


async def connect(
    conninfo: str, dsn: Dsn, make: Callable[[Wire], AsyncSession], pooler: Verdict | None = None
) -> tuple[AsyncSession, Connected]:
    """Connect and set up.

    Args:
        conninfo: Where to, for libpq.
        dsn: The same, for messages.
        make: Makes the session of a connection.
        pooler: What was found of the pooler that may stand in between.

    Raises:
        DatabaseUnavailable: no connection; the message says why and what to check.
        UnsafeServer: mutual exclusion cannot hold there.
    """
    while True:
        while (before := forks()) % 2:  # noqa: ASYNC110 - it is over in a thousandth
            await asyncio.sleep(0.001)
        began = now()
        session = make(Wire(await _open(conninfo, dsn)))
        took = now() - began
        connected = await _set_up(session, conninfo, dsn, pooler)
        if connected.pooler is None:  # else it may have ended at the pooler
            session.pulse.measure(took)
        if forks() == before:
            return session, connected
        # A child has a copy of the socket: see `_connecting.connect`.
        session.end("the process forked meanwhile")


async def _open(conninfo: str, dsn: Dsn) -> psycopg.AsyncConnection[Any]:
    try:
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except (psycopg.Error, OSError) as error:
        raise unavailable(error, dsn) from None


async def _set_up(
    session: AsyncSession, conninfo: str, dsn: Dsn, pooler: Verdict | None
) -> Connected:
    startup_pid = session.wire.pgconn.backend_pid
    if not looks_direct(startup_pid):
        session.wire.silence = NO_CONNECTION
    try:
        greeting = await _greet(session, set_up(startup_pid, session.pulse.bounds))
        session.pulse.measure(now() - session.pulse.confirmed)
        if greeting.backend_pid == startup_pid:
            return Connected(session.wire, greeting.server)
        session.pulse.bounds = session.pulse.bounds.behind_a_pooler()
        # Not on the loop: it waits, once for each client, and shares its code with the sync side.
        if pooler is None:
            pooler = (await in_a_thread(probe, conninfo)).checked(conninfo)
        if session.lost is not None:
            raise SessionLost(session.lost)  # noqa: TRY301
        if not pooler.pins:
            plan = set_up(greeting.backend_pid, session.pulse.bounds)
            if await _greet(session, plan) == greeting:
                session.pulse.measure(now() - session.pulse.confirmed)
                session.wire = LentWire(session.wire.connection, greeting.backend_pid)
                return Connected(session.wire, greeting.server, pooler)
        session.wire = PinnedWire(session.wire.connection, session.pulse.bounds, greeting.server)
        return Connected(session.wire, greeting.server, pooler)
    except (SessionLost, Expired, psycopg.Error, OSError) as error:
        session.end("the set-up failed")
        raise unavailable(error, dsn) from None
    except BaseException:
        session.end("the set-up failed")
        raise


async def _greet(session: AsyncSession, plan: SessionPlan[Greeting]) -> Greeting:
    return await by(asyncio.get_running_loop().time() + PATIENCE, session.fetch(plan))
