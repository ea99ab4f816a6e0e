"""One session that carries one lock: what `advlock run` holds, and lets its child inherit."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from advlock import _connect, _dsn, _plan
from advlock._beside import beside
from advlock._clock import now
from advlock._connecting import Connecting
from advlock._grace import at_least, for_holders, grace
from advlock._key import Key, pg_encoding
from advlock._ledger import Ticket
from advlock._liveness import Bounds, Pulse
from advlock._plan import Expired, Refused, SessionLost, Waited
from advlock._recording import record_one
from advlock._semaphore import _plan as _slots
from advlock._semaphore._keys import Keys
from advlock._session import Session
from advlock._signing import Signature
from advlock.errors import DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from typing import Self

    from advlock._connecting import Connected
    from advlock._holder import Holder
    from advlock._registry._names import Names
    from advlock._semaphore._plan import Take, View

R = TypeVar("R")

# Who reads what a command says is in no hurry, in seconds.
_READERS_PATIENCE: Final = 1.0
# How long a goodbye waits for the answer to a heartbeat, in seconds.
_MOMENT: Final = 0.1
# How long the command's end may go unnoticed because its lock's name is recorded.
_A_WHILE: Final = 0.5


class SoloSession:
    """A dedicated session, used by one thread.

    An exception that a signal handler raises may end any of its calls; discard it then, and the
    server frees what it held or waited for.
    """

    names: Names | None = None  # what a registry says, where there is one

    def __init__(self, connected: Connected, pulse: Pulse, conninfo: str, dsn: _dsn.Dsn) -> None:
        self._wire = wire = connected.wire
        self._pooled = connected.pooler is not None
        self._bounds = pulse.bounds
        self._conninfo, self._dsn = conninfo, dsn
        self._grace = grace(pulse.round_trip)
        self._holds = False
        # It matters from the beginning, but for one that is pinned only while it locks.
        self._session = Session(
            wire, pulse, carried=lambda _: [self] if self._holds or not wire.pinned else []
        )
        self._looked = now()
        self._pause = self._again = 0.0
        self._ended: socket.socket | None = None
        self._encoding = pg_encoding(wire.parameter("server_encoding"))

    def _carried(self) -> list[Self]:
        return [self] if self._holds or not self._wire.pinned else []

    @classmethod
    def open(
        cls,
        dsn: _dsn.Dsn,
        *,
        application_name: str,
        deadline: float | None,
        bounds: Bounds | None = None,
    ) -> Self:
        """Connect.

        Args:
            dsn: Where to.
            application_name: How the session signs; see `advlock._label`.
            deadline: When to give up, in `time.monotonic` seconds; None for libpq's own limits.
            bounds: The times after which the server lets go, and we stop believing.

        Raises:
            DatabaseUnavailable: no connection, or not by `deadline`.
            UnsafeServer: mutual exclusion cannot hold there.
            ConfigError: the address cannot be read.
        """
        bounds = bounds or Bounds(inherited=True)
        conninfo = _connect.conninfo(dsn.conninfo, application_name, bounds)
        attempt = Connecting(conninfo, dsn, bounds, lambda _: None)
        try:
            attempt.wait(deadline)
        except Expired:
            raise _connect.unavailable(TimeoutError("timeout expired"), dsn) from None
        if attempt.error is not None:
            raise attempt.error
        assert attempt.connected is not None
        return cls(attempt.connected, attempt.pulse, conninfo, dsn)

    def key(self, name: str) -> Key:
        """Make the key of `name` in the server's encoding."""
        key = self.names.key(name, self._encoding) if self.names else None
        return key or Key.of(name, encoding=self._encoding)

    def slot(self, name: str, n: int) -> Key:
        """Make the key of slot `n` of the semaphore `name`."""
        if self.names is not None:
            return self.names.slot(name, n, encoding=self._encoding)
        return Key.slot(name, n, encoding=self._encoding)

    def slots(self, name: str, slots: int) -> Keys:
        """Make the keys of the semaphore `name`."""
        return Keys(slots, lambda n: self.slot(name, n), self._encoding)

    def look(self, keys: Keys, deadline: float | None) -> View:
        """Look at a semaphore; raises what `try_lock` does."""
        return self._ask(_slots.look(keys), at_least(deadline, time.monotonic(), self._grace))

    def take_slot(self, keys: Keys, step: Take, deadline: float | None) -> bool:
        """Take a slot if it is free and all agree; raises what `try_lock` does."""
        plan = _slots.take(keys, step.slot, first=step.first)
        taken = self._ask(plan, at_least(deadline, time.monotonic(), self._grace))
        self._holds = taken or step.first
        if self._wire.pinned and not self._holds:
            self._ask(_plan.unlock_all())
        return taken

    def leave_queue(self, keys: Keys) -> None:
        """Let the next one look for a slot."""
        self._ask(_slots.leave_queue(keys))

    def try_lock(self, key: Key, *, shared: bool, deadline: float | None = None) -> bool:
        """Take the lock if it is free.

        Raises:
            DatabaseUnavailable: the session ended, or gave no answer by `deadline`.
            TooManyLocks: the server's lock table is full.
        """
        plan = _plan.ask_one(key, shared=shared, release=False)
        self._holds = self._ask(plan, at_least(deadline, time.monotonic(), self._grace))
        if self._wire.pinned and not self._holds:
            self._ask(_plan.unlock_all())  # a waiter keeps no session of the pooler's
        return self._holds

    def unlock(self, key: Key, *, shared: bool) -> bool:
        """Release the lock; when it returns, the lock is free for everybody."""
        released = self._ask(_plan.ask_one(key, shared=shared, release=True))
        self._holds = False
        return released

    def wait_lock(self, key: Key, *, shared: bool, deadline: float | None) -> bool:
        """Wait for the lock; False once `deadline` (`time.monotonic` seconds) has passed.

        Raises:
            DatabaseUnavailable: the session ended while it waited.
            TooManyLocks: the server's lock table is full.
        """
        ticket = Ticket(key, key.name, shared=shared, owner=None)
        pauses = _plan.pauses()
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if not self._wire.pinned:
                try:
                    return self._wait_there(ticket, left, deadline)
                except Refused as refusal:
                    if _plan.judge_failed_wait(refusal) is not Waited.IMPOSSIBLE:
                        self.discard()
                        raise _meaning(refusal) from refusal
            pause = next(pauses)
            time.sleep(pause if left is None else min(pause, left))
            if self.try_lock(key, shared=shared, deadline=deadline):
                return True

    def _wait_there(self, ticket: Ticket, left: float | None, deadline: float | None) -> bool:
        limit = None if deadline is None else deadline + self._grace
        try:
            sign = Signature(ticket)
            plan = _plan.wait_for(ticket, left, self._bounds, pooled=self._pooled, sign=sign)
            self._holds = self._drive(plan, limit)
        except Expired:
            return False
        return self._holds

    def holders(self, key: Key, *, deadline: float | None = None) -> list[Holder]:
        """Ask who holds the lock and who waits for it."""
        enough = for_holders(_READERS_PATIENCE, self._grace)
        return self._ask(_plan.holders(key), at_least(deadline, time.monotonic(), enough))

    def set_application_name(self, name: str) -> None:
        """Sign anew."""
        self._ask(_plan.set_application_name(name, pinned=self._wire.pinned))

    def record(self, key: Key) -> None:
        """Record what the lock is called, where the database has a place for that.

        Quick, or given up: a lock and its command are worth more than its name.
        """
        record_one(self._session, key, time.monotonic() + _A_WHILE)

    def token(self) -> int:
        """Draw a fencing token; see `Held.token`.

        Raises:
            DatabaseUnavailable: the session ended.
            LockError: the server gives this role none.
        """
        try:
            return self.beside(_plan.token())
        except Refused as refusal:
            self.discard()
            not_allowed = refusal.sqlstate == _plan._NOT_ALLOWED
            raise (_plan.judge_failed_token if not_allowed else _meaning)(refusal) from refusal

    def beside(self, plan: _plan.SessionPlan[R], deadline: float | None = None) -> R:
        """Drive a plan that locks nothing, as a part of what is done under the lock.

        Raises:
            DatabaseUnavailable: the session ended, or gave no answer by `deadline`.
            Refused: what the server refused and the plan did not expect.
        """
        self._session.hear_out()
        try:
            return beside(self._session, self._conninfo, self._dsn, plan, deadline)
        except Expired as error:
            self._gone("the server did not answer in time", error)
        except SessionLost as error:
            self._gone(self.why, error)

    def alive(self) -> bool:
        """Look after the session, without waiting: False once it is lost.

        To be called when the socket has something to say, and at `look_again` at the latest.
        Silence counts only while somebody looked: after Ctrl-Z, or a suspended machine, the server
        is asked first, because nobody but it knows whether it has let go meanwhile.
        """
        if self.lost:  # nobody may have looked since it ended, as while a name was recorded
            return False
        if now() - self._looked > self._pause + self._bounds.heartbeat:
            self._session.pulse.forgive(now())
        self._pause = self._session.tend()
        self._looked, self._again = now(), time.monotonic() + self._pause
        return self._session.lost is None

    @property
    def lost(self) -> bool:
        """Whether it was found lost; nothing is to be heard of it any more."""
        return self._session.lost is not None

    def look_again(self) -> float:
        """Return when `alive` is to be called next, in `time.monotonic` seconds."""
        return 0.0 if self.lost else self._again

    @property
    def why(self) -> str:
        """Why the session is lost, in a few words."""
        return self._session.why

    def fileno(self) -> int:
        """Return the socket's descriptor; a process that inherits it keeps the lock.

        That of a lost session is closed, and its number may be another's: then one that has ended.
        """
        if not self.lost:
            return self._wire.fd
        if self._ended is None:
            self._ended, other = socket.socketpair()
            other.close()
        return self._ended.fileno()

    def leave(self) -> None:
        """Do as `discard`, after the answer to a heartbeat if it comes soon.

        A socket that is closed over an unread answer is reset, and the server's log says so.
        """
        if self._session.listening:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            if poll.poll(_MOMENT * 1000):
                self.alive()
        self.discard()

    def discard(self) -> None:
        """Close our end at once, without a word to the server. Idempotent, never waits."""
        self._session.lost = self._session.lost or "discarded"
        self._wire.abandon()

    def close(self) -> None:
        """Say goodbye and close; the server frees the lock."""
        self._session.close("done")

    def _ask(self, plan: _plan.SessionPlan[R], deadline: float | None = None) -> R:
        try:
            return self._drive(plan, deadline)
        except Expired as error:
            self._gone("the server did not answer in time", error)
        except Refused as refusal:
            self.discard()
            raise _meaning(refusal) from refusal

    def _drive(self, plan: _plan.SessionPlan[R], deadline: float | None) -> R:
        self._session.hear_out()
        try:
            return self._session.fetch(plan, deadline)
        except SessionLost as error:
            self._gone(self.why, error)

    def _gone(self, why: str, cause: BaseException) -> NoReturn:
        self.discard()
        msg = f"the session with the database ended: {why}; try again"
        raise DatabaseUnavailable(msg) from cause


def _meaning(refusal: Refused) -> LockError:
    """Say whether another try can help: only then it is a `DatabaseUnavailable`."""
    if refusal.sqlstate[:2] in _plan.PASSING:
        return _plan.server_error(refusal)
    return LockError(
        f"the server refused ({refusal.sqlstate}: {refusal.message})", sqlstate=refusal.sqlstate
    )
