"""One session that carries one lock: what `advlock run` holds, and lets its child inherit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

from advlock import _connect, _dsn, _plan
from advlock._client import GRACE
from advlock._connecting import Connecting
from advlock._key import Key, pg_encoding
from advlock._ledger import Ticket
from advlock._plan import Expired, Refused, SessionLost, Waited
from advlock._session import Session
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from typing import Self

    from advlock._holder import Holder
    from advlock._wire import Wire

R = TypeVar("R")


class SoloSession:
    """A dedicated session, used by one thread.

    An exception that a signal handler raises may end any of its calls; discard it then, and the
    server frees what it held or waited for.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._session = Session(wire)
        self._encoding = pg_encoding(wire.parameter("server_encoding"))

    @classmethod
    def open(cls, dsn: _dsn.Dsn, *, application_name: str, deadline: float | None) -> Self:
        """Connect.

        Args:
            dsn: Where to.
            application_name: How the session signs; see `advlock._label`.
            deadline: When to give up, in `time.monotonic` seconds; None for libpq's own limits.

        Raises:
            DatabaseUnavailable: no connection, or not by `deadline`.
            UnsafeServer: mutual exclusion cannot hold there.
            ConfigError: the address cannot be read.
        """
        conninfo = _connect.conninfo(dsn.conninfo, application_name)
        attempt = Connecting(conninfo, dsn, lambda _: None)
        try:
            attempt.wait(deadline)
        except Expired:
            raise _connect.unavailable(TimeoutError("timeout expired"), dsn) from None
        if attempt.error is not None:
            raise attempt.error
        assert attempt.wire is not None
        return cls(attempt.wire)

    def key(self, name: str) -> Key:
        """Make the key of `name` in the server's encoding."""
        return Key.of(name, encoding=self._encoding)

    def slot(self, name: str, n: int) -> Key:
        """Make the key of slot `n` of the semaphore `name`."""
        return Key.slot(name, n, encoding=self._encoding)

    def try_lock(self, key: Key, *, shared: bool) -> bool:
        """Take the lock if it is free."""
        return self._ask(_plan.ask_one(key, shared=shared, release=False))

    def unlock(self, key: Key, *, shared: bool) -> bool:
        """Release the lock; when it returns, the lock is free for everybody."""
        return self._ask(_plan.ask_one(key, shared=shared, release=True))

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
            limit = None if deadline is None else deadline + GRACE
            try:
                return self._fetch(_plan.wait_for(ticket, left), limit, patient=True)
            except Expired:
                return False
            except Refused as refusal:
                if _plan.judge_failed_wait(refusal) is not Waited.IMPOSSIBLE:
                    self._gone(f"waiting failed: {refusal.message}", refusal)
            pause = next(pauses)
            time.sleep(pause if left is None else min(pause, left))
            if self.try_lock(key, shared=shared):
                return True

    def holders(self, key: Key) -> list[Holder]:
        """Ask who holds the lock and who waits for it."""
        return self._ask(_plan.holders(key))

    def set_application_name(self, name: str) -> None:
        """Sign anew."""
        self._ask(_plan.set_application_name(name))

    def token(self) -> int:
        """Draw a fencing token; see `Held.token`."""
        return self._ask(_plan.token())

    def alive(self) -> bool:
        """Look at the socket, without waiting: False once the server has hung up."""
        return self._session.looks_alive()

    def fileno(self) -> int:
        """Return the socket's descriptor; a process that inherits it keeps the lock."""
        return self._wire.fd

    def discard(self) -> None:
        """Close our end at once, without a word to the server. Idempotent, never waits."""
        self._session.lost = self._session.lost or "discarded"
        self._wire.abandon()

    def close(self) -> None:
        """Say goodbye and close; the server frees the lock."""
        self._session.close("done")

    def _ask(self, plan: _plan.SessionPlan[R]) -> R:
        limit = time.monotonic() + _connect.PATIENCE
        try:
            return self._fetch(plan, limit)
        except Expired as error:
            self._gone(f"the server did not answer for {_connect.PATIENCE:.0f} s", error)
        except Refused as refusal:
            self._gone(refusal.message, refusal)

    def _fetch(
        self, plan: _plan.SessionPlan[R], limit: float | None, *, patient: bool = False
    ) -> R:
        try:
            return self._session.fetch(plan, limit, patient=patient)
        except SessionLost as error:
            self._gone(str(error), error)

    def _gone(self, why: str, cause: BaseException) -> NoReturn:
        self.discard()
        msg = f"the session with the database ended: {why}; try again"
        raise DatabaseUnavailable(msg) from cause
