"""The books of the sync client, under its mutex, and what its sessions report for them.

The mutex knows who has it: a signal handler may find its own thread in the midst of the books. It
may look there (`Held.lost`), and nothing else; what it finds, another thread writes down.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from advlock._client import Client
from advlock._engine import INTERRUPTED
from advlock._held import tell_lost
from advlock._ledger import HELD, RELEASING
from advlock._waiter import apart, wake_all
from advlock.errors import LockError

if TYPE_CHECKING:
    from advlock._ledger import Op, Ticket
    from advlock._session import Session
    from advlock._sessions import Sessions


class Books(Client):
    """What is written down when the server has answered, or will not any more."""

    _sessions: Sessions

    def _reset(self) -> None:
        self._mutex: Any = threading.RLock()  # entered once at a time all the same

    def _check_open(self) -> None:
        super()._check_open()
        self._check_no_handler(self._sessions.shared)

    def _check_no_handler(self, session: Session | None) -> None:
        if self._in_a_handler(session):
            raise LockError(INTERRUPTED)

    def _in_a_handler(self, session: Session | None) -> bool:
        """Whether our own thread, interrupted, has what we would wait for."""
        books, sessions = self._mutex, self._sessions._mutex
        if books._is_owned() or sessions._is_owned():
            return True
        return session is not None and session.nests()

    def _check_held(self, ticket: Ticket) -> None:
        if ticket.state is HELD and ticket.session.lost is not None:
            self._book_loss(ticket.session, [])  # who is to do that is not through yet
        super()._check_held(ticket)

    def _settle(self, op: Op, session: Session, verdict: bool | Exception) -> None:  # noqa: FBT001
        ticket = op.ticket
        with self._mutex:
            if isinstance(verdict, Exception):
                woken = self._ledger.unanswered(op)
            else:
                if verdict and not op.releases:
                    ticket.since = time.time()
                woken = self._ledger.settle(op, session, answer=verdict)
            unwanted = ticket.withdrawn and ticket.state is HELD
            if unwanted:
                ticket.state = RELEASING
        if woken:
            wake_all(woken)
        if unwanted:
            session.put(self._ledger.release_op(ticket))

    def _book(self, ticket: Ticket, session: Session) -> None:
        with self._mutex:
            self._ledger.grant(ticket, session)
            ticket.since = time.time()

    def _session_lost(self, session: Session, unanswered: list[Op]) -> None:
        if not self._mutex._is_owned():
            self._book_loss(session, unanswered)
            return
        with contextlib.suppress(RuntimeError):  # no thread to be had: then with the release
            _thread.start_new_thread(self._book_loss, (session, unanswered))

    def _book_loss(self, session: Session, unanswered: list[Op]) -> None:
        """Book the end of a session; called again after an interruption, it goes on from there."""
        with self._mutex:
            noted = {*session.casualties}
            new = [t for t in self._ledger.carried(session) if t not in noted]
            session.casualties += new
            woken = [t for op in unanswered for t in self._ledger.unanswered(op)]
            woken += self._ledger.lose([*noted, *new])
        wake_all(woken)
        if session.casualties and (new or not session.telling):
            # We may be the watcher, and the log and callbacks are somebody else's code.
            apart(tell_lost, self, session.casualties, apart)
            session.telling = True

    def _carried(self, session: Session) -> list[Ticket]:
        with self._mutex:
            return self._ledger.carried(session)
