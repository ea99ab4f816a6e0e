"""Recording what keys are called (`_names.py`), in both worlds: beside whatever the client does.

It takes the turn of the client's own session for two short requests, so it costs no connection;
only where a transaction pins that, what writes goes over one beside it, and rarely.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from advlock import _names
from advlock._aloop import by, weakly
from advlock._clock import now
from advlock._names import Done
from advlock._plan import Expired, Refused, SessionLost
from advlock.errors import LockError

if TYPE_CHECKING:
    from asyncio import Task, TimerHandle

    from advlock._acore import AsyncCore
    from advlock._asession import AsyncSession
    from advlock._asessions import AsyncSessions
    from advlock._client import Client
    from advlock._core import Core
    from advlock._key import Key
    from advlock._ledger import Ticket
    from advlock._names import Entry
    from advlock._session import Session
    from advlock._wire import Wire

log = logging.getLogger("advlock")

# Seconds.
PATIENCE: Final = 1.0
_IDLE: Final = 15.0  # to the next look at whether an idle client was used
_RARELY: Final = 30.0  # where it takes a connection of its own
_MOST_PLACES: Final = 64
_TROUBLE: Final = (Refused, SessionLost, Expired, LockError, OSError)
_done: dict[object, Done] = {}  # by database: one process has one memory, whatever its clients


def done_at(wire: Wire, server: object) -> Done:
    """What this process has recorded where a new session leads to, as the role that it has."""
    pgconn = wire.pgconn
    place = (server, pgconn.host, pgconn.port, pgconn.db, pgconn.user)
    if place not in _done and len(_done) >= _MOST_PLACES:
        _done.clear()
    return _done.setdefault(place, Done())


def _note_all(client: Client, tickets: list[Ticket]) -> None:
    """Note once a day what is in use, or it would be taken for forgotten."""
    client._known.clear()
    for ticket in tickets:
        client._used.note(ticket.key)


class _Flush:
    """One try to record what a client has noted, from the end of the pause to the next."""

    def __init__(self, client: Client) -> None:
        self._used, self._pinned = client._used, client._pinned
        self.entries: list[Entry] = self._used.take(now())
        self.verdict: str | None = "" if self.entries else "yes"

    def end(self, error: BaseException | None) -> None:
        """Book it, also where it came to nothing."""
        if isinstance(error, Refused):
            self.verdict = None  # the server's log has it, so not again soon
        self._used.settle(self.entries, self.verdict, now())
        if self._pinned:
            self._used.rest(now() + _RARELY)
        if error is not None or self.verdict not in (None, "yes"):
            why = error or f"SQLSTATE {self.verdict}"
            log.debug("names were not recorded: %s", why, extra={"event": "names.failed"})


# -- sync ------------------------------------------------------------------------------------------


def look_in(client: Core, session: Session) -> None:
    """Have names recorded in a thread of its own, if it is time; never waits."""
    if client._used.stale(now()):
        with client._mutex:
            tickets = client._ledger.tickets()
        _note_all(client, tickets)
    if client._used.due(now(), session.pulse.confirmed):
        flush = _Flush(client)
        try:
            _thread.start_new_thread(_record, (client, session, flush))
        except RuntimeError as error:  # no thread to be had
            flush.end(error)


def _record(client: Core, session: Session, flush: _Flush) -> None:
    error: BaseException | None = None
    limit = time.monotonic() + PATIENCE
    try:
        if flush.entries and (encoding := session.fetch(_names.look(), limit)):
            plan = _names.write(flush.entries, encoding)
            flush.verdict = client._beside(session, plan, limit)
        elif flush.entries:
            flush.verdict = None
    except _TROUBLE as trouble:
        error = trouble
    finally:
        flush.end(error)


def record_one(session: Session, key: Key, limit: float) -> None:
    """Record the name of the one lock of a session; give up at `limit`, or at any trouble."""
    used = _names.Names()
    if not used.note(key) or session.wire.pinned:
        return
    entries = used.take(now())
    with contextlib.suppress(*_TROUBLE):
        encoding = session.fetch(_names.look(), limit)
        if encoding is not None:
            session.fetch(_names.write(entries, encoding), limit)


# -- async -----------------------------------------------------------------------------------------


class Recorder:
    """Has the names of an async client recorded, by a timer of its loop."""

    def __init__(self, client: AsyncCore, sessions: AsyncSessions) -> None:
        self._client = client
        self._sessions = sessions
        self._timer: TimerHandle | None = None
        self._task: Task[None] | None = None

    def arm(self, least: float = 0.0) -> None:
        """Look in soon, or as soon as that may be; for the loop's own thread."""
        loop = self._sessions.loop
        when = loop.time() + max(_names.SOON, least, self._client._used.pause(now()))
        if self._task is not None or loop.is_closed():
            return
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        # Weakly: the loop must not keep a client alive that everybody else has forgotten.
        self._timer = loop.call_at(when, weakly(self._look_in))

    def _look_in(self) -> None:
        self._timer = None
        client, session = self._client, self._sessions.shared
        if client._closed:
            return
        if client._used.stale(now()):
            _note_all(client, client._ledger.tickets())
        if session is not None and client._used.due(now(), session.pulse.confirmed):
            self._task = self._sessions.loop.create_task(self._record(session))
            self._task.add_done_callback(self._over)
        else:
            self.arm(_IDLE)

    def _over(self, _: Task[None]) -> None:
        # A callback: a task that is cancelled before it has begun runs nothing of its own.
        self._task = None
        if not self._client._closed:
            self.arm()

    async def _record(self, session: AsyncSession) -> None:
        client = self._client
        flush = _Flush(client)
        error: BaseException | None = None
        limit = self._sessions.loop.time() + PATIENCE
        try:
            if flush.entries and (encoding := await by(limit, session.fetch(_names.look()))):
                plan = _names.write(flush.entries, encoding)
                flush.verdict = await by(limit, client._beside(session, plan))
            elif flush.entries:
                flush.verdict = None
        except _TROUBLE as trouble:
            error = trouble
        finally:  # also where somebody cancels all tasks: the names are for a later one
            flush.end(error)

    async def stop(self) -> None:
        """Leave no task behind, for a loop that is going to be closed."""
        if self._timer is not None:
            self._timer.cancel()
        task, loop = self._task, self._sessions.loop
        if task is not None and loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
