"""What the sync client does. Its twin is `_acore.py`."""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from advlock import _observe, _plan
from advlock._all import release_all
from advlock._beside import beside
from advlock._books import Books
from advlock._client import timeout
from advlock._connect import ended_at_once
from advlock._contend import contend
from advlock._grace import for_holders
from advlock._held import Held
from advlock._ledger import FORKED, HELD, QUEUED, RELEASING, Op, Ticket
from advlock._plan import Expired, Refused, SessionLost
from advlock._sessions import Sessions
from advlock._waiter import new_waiter, wait, wake_all
from advlock.errors import DatabaseUnavailable, LockError, LockLost, LockNotHeld

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._holder import Holder
    from advlock._inspect._tree import Snapshot
    from advlock._key import Key, Name
    from advlock._session import Session
    from advlock.errors import LockTimeout

R = TypeVar("R")

_LATER: Final = (
    "a signal handler cannot wait for a release in the middle of a request of the thread that it "
    "interrupts; the lock is released as soon as that is through"
)


class Core(Books):
    """Acquires and releases, for threads; `Locks` adds the verbs."""

    def _reset(self) -> None:
        super()._reset()
        self._sessions = Sessions(self, self._settle, self._session_lost, self._carried)

    def _disown_sessions(self) -> None:
        self._sessions.disown()

    # -- acquiring -------------------------------------------------------------------------------

    def _hold(
        self,
        name: Name,
        *,
        wait: float | None = None,
        shared: bool = False,
        reentrant: bool = False,
        owned: bool = True,
    ) -> Held:
        deadline = None if wait is None else time.monotonic() + wait
        owner = threading.current_thread() if owned else None
        if _observe.on():
            how = {"wait": wait, "shared": shared, "reentrant": reentrant, "owner": owner}
            return _observe.watch((self, name), how, self._hold_by, deadline, name, **how)
        return self._hold_by(
            deadline, name, wait=wait, shared=shared, reentrant=reentrant, owner=owner
        )

    def _hold_by(  # noqa: PLR0913 - one parameter for each of the caller's
        self,
        deadline: float | None,
        name: Name,
        *,
        wait: float | None,
        shared: bool,
        reentrant: bool,
        owner: object,
    ) -> Held:
        self._check_open()
        ticket = None
        try:
            with contextlib.suppress(Expired):
                key = self._key(name, deadline)
                if reentrant and (again := self._hold_again(key, owner, shared=shared)):
                    return again
                ticket = Ticket(key, name, shared=shared, owner=owner)
                if self._enter(ticket, wait) and self._try(ticket, deadline):
                    return Held(self, self._believed(ticket))
                if contend(self, ticket, deadline):
                    return Held(self, self._believed(ticket))
            self._abandon(ticket)
        except BaseException:
            try:
                self._abandon(ticket)
            finally:  # it may have been interrupted
                self._abandon(ticket)
            raise
        raise self._timed_out(name, wait or 0.0)

    @_observe.asks
    def _attempt(
        self, name: Name, *, shared: bool = False, reentrant: bool = False, owned: bool = True
    ) -> Held | None:
        owner = threading.current_thread() if owned else None
        self._check_open()
        key = self._key(name, None)
        if reentrant and (again := self._hold_again(key, owner, shared=shared)):
            return again
        ticket = Ticket(key, name, shared=shared, owner=owner)
        try:
            if not self._enter_soon(ticket):
                return None
            if self._try(ticket, None):
                return Held(self, self._believed(ticket))
            self._abandon(ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        return None

    def _hold_again(self, key: Key, owner: object, *, shared: bool) -> Held | None:
        counted: Ticket | None = None
        try:
            with self._mutex:
                if (ticket := self._ledger.find_held(key, owner)) is None:
                    return None
                if not ticket.session.vouches():
                    raise self._lost(ticket)
                if ticket.shared and not shared:
                    raise self._refuse_upgrade(ticket)
                again = Held.__new__(Held)
                again._client, again._ticket = self, ticket
                counted, ticket.depth = ticket, ticket.depth + 1
            # Not a call: nothing may interrupt between this and the caller.
            again._open, counted = True, None
            return again
        finally:
            if counted is not None:
                counted.depth -= 1

    def _enter_soon(self, ticket: Ticket) -> bool:
        """Enter at once, or after the round trip of those who are leaving: it is our own haste."""
        with self._mutex:
            if self._ledger.enter(ticket, queue=False):
                return True
            if self._ledger.leaving(ticket.key) is None:
                return False
            ticket.waker = new_waiter()
            self._ledger.enter(ticket, queue=True)
        wait(ticket.waker, time.monotonic() + self._grace)
        if ticket.state is QUEUED:
            self._abandon(ticket)
            return False
        return True

    def _enter(self, ticket: Ticket, wait: float | None) -> bool:
        with self._mutex:
            if self._ledger.enter(ticket, queue=False):
                return True
            own = wait is None and ticket.owner is not None
            if own and self._ledger.find_held(ticket.key, ticket.owner):
                raise self._waits_for_itself(ticket, "thread")
            ticket.waker = new_waiter()
            return self._ledger.enter(ticket, queue=True)

    def _try(self, ticket: Ticket, deadline: float | None) -> bool:
        """Try once, on the shared session; on a new one if that turns out to be gone."""
        for attempt in (1, 2):
            session = self._sessions.shared or self._sessions.connect(deadline)
            op = self._ledger.try_op(ticket, session)
            try:
                return session.ask(op, self._at_least(deadline, time.monotonic()))
            except SessionLost as error:
                self._pooler_may_differ = True
                if attempt == 2:  # noqa: PLR2004
                    raise ended_at_once(error) from None
        raise AssertionError

    # -- releasing -------------------------------------------------------------------------------

    def _let_go_all(self, held: list[Held]) -> list[LockError]:
        if len(held) > 1:
            return release_all(self, held)
        for one in held:
            try:
                self._let_go(one)
            except LockError as error:
                return [error]
            except BaseException:
                # Interrupted: the traceback keeps it alive, so no finalizer would free it.
                if one._open:  # else it was given back, and an outer hold may go on
                    one._open = False
                    self._drop(one._ticket)
                raise
        return []

    def _let_go(self, held: Held) -> None:
        if not held._open:
            msg = f"{held!r} is not held any more"
            raise LockNotHeld(msg)
        self._let_no_handler_wait(held)
        self._release(held._ticket)
        held._open = False
        if held._ticket.watched is not None:
            _observe.let_go(self, held._ticket)

    def _leave(self, held: Held) -> Op | None:
        """Begin to release; None where that is no matter of the server's (yet)."""
        if not held._open:
            msg = f"{held!r} is not held any more"
            raise LockNotHeld(msg)
        self._let_no_handler_wait(held)
        op = None
        if self._is_last(held._ticket):
            op = self._ledger.release_op(held._ticket)
            held._ticket.state = RELEASING
        held._open = False
        return op

    def _let_no_handler_wait(self, held: Held) -> None:
        ticket = held._ticket
        if ticket.state is HELD and self._in_a_handler(ticket.session):
            held._open = False
            self._drop(ticket)
            raise LockError(_LATER)

    def _is_last(self, ticket: Ticket) -> bool:
        """Whether releasing means the server, and not one of several holds of one lock."""
        if ticket.state is FORKED:
            return False
        if ticket.depth > 1:
            ticket.depth -= 1
            return False
        self._check_held(ticket)
        return True

    def _release(self, ticket: Ticket) -> None:
        """Release for certain: afterwards the lock is free for everybody."""
        if not self._is_last(ticket):
            return
        session: Session = ticket.session
        op = self._ledger.release_op(ticket)
        try:
            ticket.state = RELEASING
            released = session.ask(op, None)
            if released:
                self._sessions.retire(session)
        except SessionLost:
            raise self._lost(ticket) from None
        except BaseException:
            self._see_through(op)
            raise
        if not released:
            raise self._lost(ticket)

    def _see_through(self, op: Op) -> None:
        """Have `op` asked by somebody else; a session for this lock alone may as well end."""
        session: Session = op.session
        if session.lost is None and session is not self._sessions.shared:
            session.close("interrupted while releasing")
        else:
            session.put(op)

    def _abandon(self, ticket: Ticket | None) -> None:
        """Give up a ticket in whatever state it is; nobody waits for what the server says.

        Called again after an interruption, it goes on from there.
        """
        if ticket is None:
            return
        with self._mutex:
            woken = self._ledger.withdraw(ticket)
            op = ticket.op
            if ticket.state is HELD or ticket.state is RELEASING:
                op = self._ledger.release_op(ticket)
                ticket.state = RELEASING
        wake_all(woken)
        if op is not None:
            self._see_through(op)
        self._sessions.dismiss(ticket)
        if ticket.watched is not None:
            _observe.released(self, ticket)

    def _drop(self, ticket: Ticket) -> None:
        """Release a ticket whose handle was garbage-collected, wherever that happened."""
        if ticket.depth > 1:  # an outer hold has it still, and believes in it
            ticket.depth -= 1
            return
        ticket.withdrawn = True  # its owner does not hold it any more, though the server may
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            _thread.start_new_thread(self._release_quietly, (ticket,))

    def _release_quietly(self, ticket: Ticket) -> None:
        with contextlib.suppress(LockLost, LockNotHeld):
            self._release(ticket)
        _observe.dropped(self, ticket)

    # -- questions -------------------------------------------------------------------------------

    def _key(self, name: Name, deadline: float | None) -> Key:
        key = self._ascii_key(name)
        if key is None:
            self._sessions.connect(deadline)
            key = self._ascii_key(name)
        assert key is not None
        return key

    def _ask_holders(self, key: Key, deadline: float | None) -> list[Holder]:
        sessions = self._sessions
        session = sessions.shared or sessions.connect(deadline)
        try:
            return session.fetch(_plan.holders(key, briefly=True), deadline)
        except Refused as refusal:
            raise _plan.server_error(refusal) from None
        except SessionLost as error:
            msg = f"the session ended while it was asked: {error}; try again"
            raise DatabaseUnavailable(msg) from None

    def _inspect(self, names: Iterable[Name], *, all_databases: bool) -> Snapshot:
        session = self._sessions.shared or self._sessions.connect(None)
        with self._mutex:
            used = [ticket.key for ticket in self._ledger.tickets()]
        plan = self._looking(names, used, all_databases=all_databases)
        try:
            return self._beside(session, plan)
        except Refused as refusal:
            raise _plan.server_error(refusal) from None
        except SessionLost as error:
            msg = f"the session ended while it was asked: {error}; try again"
            raise DatabaseUnavailable(msg) from None

    def _beside(
        self, session: Session, plan: _plan.SessionPlan[R], deadline: float | None = None
    ) -> R:
        """Drive `plan` on a session of ours, or beside it where a pooler wants it so."""
        return beside(session, self._conninfo(), self._dsn, plan, deadline)

    def _timed_out(self, name: Name, wait: float) -> LockTimeout:
        key = self._key_if_any(name)
        holders: list[Holder] = []
        if key is not None and self._sessions.shared is not None:
            with contextlib.suppress(Expired, LockError):
                holders = self._ask_holders(key, time.monotonic() + for_holders(wait, self._grace))
        late = timeout(name, key, wait, holders, pinned=self._pinned)
        return _observe.timed_out(self, late)

    def _token(self, ticket: Ticket) -> int:
        if ticket.token is None:
            self._check_no_handler(ticket.session)
            self._check_held(ticket)
            try:
                token = self._beside(ticket.session, _plan.token())
            except SessionLost:
                raise self._lost(ticket) from None
            except Refused as refusal:
                raise _plan.judge_failed_token(refusal) from None
            with self._mutex:  # two threads may ask at once: the first answer is the hold's token
                ticket.token = ticket.token or token
        return ticket.token
