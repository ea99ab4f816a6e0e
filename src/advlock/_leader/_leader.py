"""Leadership for threads. Its twin is `_aleader.py`."""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from advlock import _observe
from advlock._client import wait_seconds
from advlock._connecting import Connecting
from advlock._contend import contend
from advlock._held import Held, _call_back, join_errors
from advlock._leader._base import CLOSED, LOOK, RESIGNED, SOON, BaseLeader, BaseTerm, leading, leave
from advlock._ledger import FORKED, QUEUED, Ticket
from advlock._plan import Expired
from advlock._waiter import apart, new_waiter, wait, wake, wake_all
from advlock.errors import LockError, LockLost, LockNotHeld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._key import Name
    from advlock._locks import Locks


class Term(BaseTerm, Held):
    """One term as the leader: a `Held` that also ends when the leader resigns."""

    __slots__ = ()
    __module__ = "advlock"

    @property
    def leader(self) -> Leader:
        """Whose term it is."""
        leader: Leader = self._leader
        return leader

    def _end(self, why: str) -> None:
        if self._why is None:
            self._why = why
            apart(_call_back, self._ticket)


class Leader(BaseLeader):
    """One candidate for the lead of `name`, made by `Locks.leader`.

    Leads at most once at a time. Thread-safe: `resign`, `close`, `leading` and `current` are for
    other threads, too. A context manager, which closes it and ends a term that is still open.
    """

    __module__ = "advlock"
    _client: Locks

    def __init__(self, client: Locks, name: Name, *, pause: Seconds = 1.0) -> None:
        super().__init__(client, name, wait_seconds(pause) or 0.0)
        self._ticket: Ticket | None = None  # what it campaigns with
        self._waker = new_waiter()

    # -- the verbs -------------------------------------------------------------------------------

    def terms(self) -> Iterator[Term]:
        """Yield a `Term` each time we lead; campaign in between, and end when we are closed.

        A term is over when the loop comes back for the next one (`continue`, or the end of the
        body), or is left: by `break`, `return` or an exception, which goes on its way. The lock is
        free then. When the lock is lost, or `resign` is called, the body has to notice
        (`term.lost`, `check`, `on_lost`) and come back; then we campaign again.

        Raises:
            DatabaseUnavailable: there is no session, and there never was one. Later the database
                is waited for.
            UnsafeServer: mutual exclusion cannot hold there.
            RuntimeError: this leader campaigns or leads already.
        """
        return _Terms(self)

    def term(self, *, wait: Seconds = None) -> AbstractContextManager[Term]:
        """Lead for the length of a `with` block.

        Args:
            wait: How long to campaign, in seconds or as `"30s"`; None for ever.

        Raises:
            LockTimeout: on entering, when somebody else led for longer than that.
            LockLost: on leaving, when the lock was lost meanwhile.
            LockError: on entering, when the leader was closed.
            DatabaseUnavailable: on entering, as for `terms`.
        """
        return _OneTerm(self, wait_seconds(wait))

    def current(self) -> Holder | None:
        """Ask the server who leads, since when, on which host; None when nobody does."""
        return leading(self._client.holders(self._name))

    def resign(self) -> None:
        """End the present term, if there is one, so that others lead; then campaign again.

        Its body is told as if the lock was lost; nobody else leads before it has come back. The
        next campaign begins `pause` later, at the end of the queue. Never waits; from any thread,
        a signal handler, or the body itself.
        """
        if (term := self._term) is not None:
            term._end(RESIGNED)

    def close(self) -> None:
        """Resign for good: `terms` ends, as soon as its body has come back. As `resign`."""
        self._closed = True
        if (term := self._term) is not None:
            term._end(CLOSED)
        wake(self._waker)
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            _thread.start_new_thread(self._finish_campaign, ())

    def __enter__(self) -> Self:
        """Return the leader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close it; a term that was left open is over when this returns."""
        self.close()
        if (term := self._term) is not None:
            self._end_term(term)
        while self._is_leaving():
            time.sleep(SOON)

    # -- campaigns -------------------------------------------------------------------------------

    def _elect(self, seconds: float | None) -> Term | None:
        """Campaign until we lead; None when we are closed. Whoever is interrupted gives back.

        Raises:
            LockTimeout: not within so many seconds.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        self._campaigning()
        while not self.closed:
            if self._pause(deadline):
                continue
            if (term := self._campaign(seconds, deadline)) is not None:
                if not self.closed:  # or `close` may have seen no term to end
                    return term
                self._end_term(term)
            self._undo()
            if deadline is not None and time.monotonic() >= deadline and not self.closed:
                raise self._client._timed_out(self._name, seconds or 0.0)
        return None

    def _pause(self, deadline: float | None) -> bool:
        """Leave the lead to others, for some of the time that is due; whether it was."""
        now = time.monotonic()
        pause = self._pace.left(now)
        if deadline is not None:
            pause = min(pause, deadline - now)
        if pause > 0:
            wait(self._waker, now + min(pause, LOOK))
        return pause > 0

    def _campaign(self, seconds: float | None, deadline: float | None) -> Term | None:
        """Campaign once; None when that was in vain. What it asked for is `_ticket`, until then."""
        try:
            if self._ask(seconds, deadline) and not self.closed:
                assert self._ticket is not None
                term = Term(self._client, self._ticket, self, time.monotonic())
                self._elected(term)
                self._ticket = None
                return term
        except Expired:
            pass
        except LockError as error:
            self._undo()
            if not self.closed:
                self._trouble(error, time.monotonic())
        return None

    @_observe.asks
    def _ask(self, seconds: float | None, deadline: float | None) -> Ticket | None:
        client = self._client
        client._check_open()
        key = client._key(self._name, deadline)
        ticket = Ticket(key, self._name, shared=False, owner=threading.current_thread())
        self._ticket = ticket
        # Where time is short, a free lock is taken however short it is, as by `hold`.
        asks = client._enter(ticket, seconds) and deadline is not None
        granted = asks and client._try(ticket, deadline)
        if granted or contend(client, ticket, deadline, self._plan(ticket)):
            return client._believed(ticket)
        return None

    def _undo(self) -> None:
        super()._undo()
        if (ticket := self._ticket) is not None:
            self._client._abandon(ticket)
            self._ticket = None

    def _later(self, function: Callable[..., object], *args: object) -> None:
        apart(function, *args)

    def _finish_campaign(self) -> None:
        """Interrupt whatever a campaign waits for; what is under way it finishes by itself."""
        client = self._client
        # In a forked child it is that of a thread which exists in the parent only.
        while (ticket := self._ticket) is not None and ticket.state is not FORKED:
            with client._mutex:
                woken = client._ledger.withdraw(ticket) if ticket.state is QUEUED else ()
            wake_all(woken)
            if ticket.waker is not None:
                wake(ticket.waker)
            attempt = client._sessions._leases.get(ticket)
            if isinstance(attempt, Connecting):
                attempt.give_up(LockError(CLOSED))
            client._sessions.dismiss(ticket)
            time.sleep(SOON)  # it may be about to wait for the next thing

    # -- the end of a term -----------------------------------------------------------------------

    def _end_term(self, term: Term) -> LockError | None:
        """Release; when it returns, others may lead. What is returned says that the lock was lost.

        A term that was ended already is left alone.
        """
        loss: LockError | None = None
        if self._term is term:
            self._leaving = term._ticket
            self._term = None
            try:
                self._client._let_go(term)
            except LockLost as error:
                loss = error
            except LockNotHeld:
                return None  # another thread ends it
            except BaseException:
                self._undo()  # interrupted: somebody else sees it through
                raise
            finally:
                term._open = False
            self._ended(term, time.monotonic(), loss)
        return loss


class _Terms:
    """The iterator of `Leader.terms`; when it is dropped, so is its term."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._me = object()  # in whose name the leader's turn is taken

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Term:
        leader, me = self._leader, self._me
        # An exception that was caught on the way, and is kept somewhere or is garbage in a circle,
        # keeps the frames that called it: the loop's end must be seen all the same.
        del self
        leader._claim(me)
        try:
            if (term := leader._term) is not None:
                leader._end_term(term)
            if (elected := leader._elect(None)) is not None:
                return elected
        except BaseException:
            leader._give_back(me)
            raise
        leader._give_back(me)
        raise StopIteration

    def __del__(self) -> None:
        # Reached with a term by `break`, `return` or an exception in the loop's body.
        leave(self)


class _OneTerm:
    """`Leader.term`: enters when elected."""

    def __init__(self, leader: Leader, seconds: float | None) -> None:
        self._leader = leader
        self._seconds = seconds
        self._me = object()

    def __enter__(self) -> Term:
        leader = self._leader
        if leader._has_turn(self._me):
            leader._refuse()
        leader._claim(self._me)
        try:
            leader._pace.forget()  # it is for loops
            term = leader._elect(self._seconds)
            if term is None:
                leader._no_term()
        except BaseException:
            leader._give_back(self._me)
            raise
        return term

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        leader, loss = self._leader, None
        try:
            if (term := leader._term) is not None:
                loss = leader._end_term(term)
        finally:
            leader._give_back(self._me)
        if loss is not None:
            error = join_errors(body, loss)
            if kind is None:
                raise error

    def __del__(self) -> None:
        # Reached with a term if an exception fell between `__enter__` and the body.
        leave(self)
