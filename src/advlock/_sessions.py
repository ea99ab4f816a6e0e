"""The sessions of the sync client: one that is shared, and a few that wait for one lock each."""

from __future__ import annotations

import _thread
import contextlib
import copy
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from advlock import _plan, _watch
from advlock._backoff import Backoff
from advlock._client import POOL_STAYS_FULL, Client
from advlock._connecting import Connecting
from advlock._plan import Expired, Refused, SessionLost
from advlock._recording import look_in
from advlock._session import Session
from advlock._waiter import apart
from advlock.errors import DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._core import Core
    from advlock._ledger import Op, Ticket

# How long a server may take to confirm what close() releases, in seconds.
_GOODBYE: Final = 1.0


class Sessions:
    """Opens, lends and closes a client's sessions, within its budget."""

    def __init__(
        self,
        client: Core,
        settle: Callable[[Op, Session, bool | Exception], Any],
        when_lost: Callable[[Session, list[Op]], Any],
        carried: Callable[[Session], Sequence[object]],
    ) -> None:
        self.shared: Session | None = None
        self._client = client
        self._settle = settle
        self._when_lost = when_lost
        self._carried = carried
        self._mutex: Any = threading.RLock()  # entered once at a time; see `_books.py`
        self._connecting: Connecting | None = None
        self._backoff = Backoff()
        self._dedicated: set[Session | Connecting] = set()
        self._spares: list[Session] = []
        self._contenders: set[Ticket] = set()
        self._leases: dict[Ticket, Session | Connecting] = {}

    @property
    def open(self) -> bool:
        """Whether any session is."""
        return self.shared is not None or bool(self._dedicated)

    # -- the shared session ----------------------------------------------------------------------

    def connect(self, deadline: float | None) -> Session:
        """Return the shared session; everybody who needs it waits for one attempt.

        Raises:
            Expired: `deadline` passed first; there is always time for a server that is near.
            DatabaseUnavailable, UnsafeServer: the attempt failed.
        """
        deadline = self._client._at_least(deadline, time.monotonic())
        while (shared := self.shared) is None:
            with self._mutex:
                Client._check_open(self._client)  # and not whether the mutex is ours: it is
                pause = self._backoff.pause(time.monotonic())
                if self._connecting is None and not pause and self.shared is None:
                    self._connecting = self._start(self._connected)
                attempt = self._connecting
            if attempt is not None:
                attempt.wait(deadline)
                if attempt.error is not None:
                    raise copy.copy(attempt.error)
            elif pause:
                _sleep(pause, deadline)
        return shared

    def _start(self, done: Callable[[Connecting], Any]) -> Connecting:
        client = self._client
        pooler = client._pooler_still(connected=self.shared is not None)
        return Connecting(client._conninfo, client._dsn, client._bounds, done, pooler)

    def _connected(self, attempt: Connecting) -> None:
        with self._mutex:
            if self._connecting is attempt:
                self._connecting = None
                self.shared = self._adopt(attempt)
                if self.shared is not None:
                    self.shared.errand = partial(look_in, self._client)
                self._backoff.note(time.monotonic(), failed=attempt.error is not None)
        _close_unused(attempt)

    def _adopt(self, attempt: Connecting) -> Session | None:
        """With the mutex: make a session of what came of an attempt, if we can use it."""
        client, made = self._client, attempt.connected
        if made is None or client._closed:
            return None
        try:
            moved = client._meet(made, attempt.pulse)
        except DatabaseUnavailable as error:
            attempt.error = error
            return None
        if moved:
            self._leave_behind()
        session = Session(made.wire, attempt.pulse, self._settle, self._lost, self._carried)
        _watch.watch(session)
        attempt.session = session
        return session

    def _leave_behind(self) -> None:
        """With the mutex: give up the sessions on a server that was replaced."""
        why = "the database moved to another server"
        for session in (self.shared, *self._dedicated):
            if isinstance(session, Session):
                session.distrust(why)
                _thread.start_new_thread(session.close, (why,))

    # -- sessions that wait ----------------------------------------------------------------------

    def lease(self, ticket: Ticket, deadline: float | None) -> Session | None:
        """Lend a session to wait on; None where the budget, or the server, has none left.

        `dismiss` takes it back, unless it carries the ticket's lock by then.

        Raises:
            Expired: `deadline` passed first.
            UnsafeServer: the server is not what it was.
        """
        with self._mutex:
            if self._spares:
                session = self._leases[ticket] = self._spares[-1]
                self._spares.pop()
                return session
            full = time.monotonic() < self._client._full_until
            if full or len(self._dedicated) + 1 >= self._client.max_connections:
                return None
            attempt = self._leases[ticket] = self._start(self._leased)
            self._dedicated.add(attempt)
        if not self._await_leased(attempt, deadline):
            with self._mutex:
                self._dedicated.discard(attempt)  # what comes of it is closed
            return None
        if attempt.error is None or isinstance(attempt.error, DatabaseUnavailable):
            with self._mutex:
                if attempt.session is None:
                    self._leases.pop(ticket, None)
                else:
                    self._leases[ticket] = attempt.session
            return attempt.session
        raise copy.copy(attempt.error)

    def _await_leased(self, attempt: Connecting, deadline: float | None) -> bool:
        """Wait for the attempt; False if a pooler has nothing to give for too long."""
        soon = self._client._soon(time.monotonic(), deadline)
        try:
            attempt.wait(deadline if soon is None else soon)
        except Expired:
            if soon is None:
                raise
            self._client._full_until = time.monotonic() + POOL_STAYS_FULL
            return attempt.session is not None
        return True

    def _leased(self, attempt: Connecting) -> None:
        with self._mutex:
            wanted = attempt in self._dedicated
            self._dedicated.discard(attempt)
            if attempt.connected is not None and attempt.connected.wire.pinned:
                wanted = False  # nobody waits on one of those
            session = self._adopt(attempt) if wanted else None
            if session is not None:
                self._dedicated.add(session)
        _close_unused(attempt)

    def retire(self, session: Session) -> None:
        """Take a session back: kept while somebody here may wait on it, else closed."""
        if session is self.shared:
            return
        with self._mutex:
            for ticket in [t for t, leased in self._leases.items() if leased is session]:
                del self._leases[ticket]
            keep = bool(self._contenders) and session.lost is None
            if keep and session not in self._spares:
                self._spares.append(session)
        if not keep:
            session.close("nobody waits any more")

    def enlist(self, ticket: Ticket) -> None:
        """Note one more who contends for a lock."""
        with self._mutex:
            self._contenders.add(ticket)

    def dismiss(self, ticket: Ticket) -> None:
        """Note one less; with the last one the spare sessions go. May be called again."""
        unneeded: list[Session] = []
        with self._mutex:
            self._contenders.discard(ticket)
            leased = self._leases.pop(ticket, None)
            if isinstance(leased, Connecting):
                self._dedicated.discard(leased)
                leased = leased.session
            if leased is not None and ticket.session is not leased:
                unneeded.append(leased)
            if not self._contenders:
                unneeded += self._spares
                self._spares = []
        for session in unneeded:
            session.close("nobody waits any more")

    # -- the end ---------------------------------------------------------------------------------

    def _lost(self, session: Session, unanswered: list[Op]) -> None:
        if self._mutex._is_owned():  # a signal handler that looks interrupts who has it
            if self.shared is session:
                self.shared = None
            apart(self._strike, session)
        else:
            self._strike(session)
        self._when_lost(session, unanswered)

    def _strike(self, session: Session) -> None:
        with self._mutex:
            if self.shared is session:
                self.shared = None
            self._dedicated.discard(session)
            if session in self._spares:
                self._spares.remove(session)

    def close(self, holds: Callable[[Session], Sequence[object]]) -> None:
        """Close every session; those that `holds` names release their locks for certain first."""
        with self._mutex:
            everything = (self.shared, self._connecting, *self._dedicated)
        for attempt in everything:
            if isinstance(attempt, Connecting):
                attempt.give_up(LockError("the client was closed; make a new one"))
        sessions = [one for one in everything if isinstance(one, Session)]
        limit = time.monotonic() + _GOODBYE
        for session in sessions:
            if holds(session) and not session.nests():
                patience = max(limit, time.monotonic() + _GOODBYE / 10)
                with contextlib.suppress(SessionLost, Expired, Refused):
                    session.fetch(_plan.unlock_all(), patience)
        for session in sessions:  # all at once, or a silent server would be waited for each time
            session.doom("the client was closed")
        for session in sessions:
            session.close("the client was closed")

    def hear_out(self) -> None:
        """Take over heartbeats that are under way, for a client that nobody watches any more."""
        for session in (self.shared, *self._dedicated):
            if isinstance(session, Session):
                session.hear_out()

    def disown(self) -> None:
        """In a forked child: let go of the parent's sessions without a word to the server."""
        for session in (self.shared, *self._dedicated):
            if isinstance(session, Session):
                session.disown()


def _close_unused(attempt: Connecting) -> None:
    if attempt.session is None and attempt.connected is not None:
        attempt.connected.wire.close()


def _sleep(seconds: float, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left < seconds:
        time.sleep(max(0.0, left))
        raise Expired
    time.sleep(seconds)
