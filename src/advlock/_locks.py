"""The sync client. Its twin is `_alocks.py`: the same verbs, the same parameters."""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
import warnings
from typing import TYPE_CHECKING

from advlock import _plan
from advlock._client import GRACE, Client, timeout, wait_seconds
from advlock._contend import contend
from advlock._held import Attempt, Held, Hold, HoldAll, tell_lost
from advlock._ledger import FORKED, HELD, LOST, RELEASING, Op, Ticket
from advlock._lock import Lock
from advlock._plan import Refused
from advlock._session import Expired, Session, SessionLost
from advlock._sessions import Sessions
from advlock._waiter import new_waiter, wake
from advlock.errors import DatabaseUnavailable, LockError, LockLost, LockNotHeld

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._key import Key, Name


class Locks(Client):
    """A client for threads: owns its server sessions, and any number of locks on them.

    Thread-safe. Connects on first use. After a fork the child starts without locks.

    Args:
        dsn: `postgresql://…` or libpq's `host=… dbname=…`. Without it: `ADVLOCK_DSN`,
            `advlock.toml` or `[tool.advlock]`, `DATABASE_URL`, then libpq's own variables.
        namespace: Put before every string name, with a colon.
        keys: How strings become keys: `hashtextextended` (64 bits) or `hashtext` (32 bits, what
            existing deployments may use).
        max_connections: The most server sessions at a time. The first carries every lock that
            was free when asked for; the others wait for one lock each, and carry it when granted.
        max_locks: The most locks at a time; it protects the server's lock table, which all its
            sessions share.
        application_name: What `pg_stat_activity` shows; by default `advlock HOST:PID`.

    Raises:
        ConfigError: a setting cannot be right, or there is no address.
    """

    __module__ = "advlock"

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._sessions = Sessions(self, self._settle, self._session_lost)

    def _disown_sessions(self) -> None:
        self._sessions.disown()

    # -- the verbs -------------------------------------------------------------------------------

    def hold(
        self, name: Name, *, wait: Seconds = None, shared: bool = False, reentrant: bool = False
    ) -> Hold:
        """Hold a lock: a context manager that enters when granted, and a decorator.

        Args:
            name: A string, a 64-bit integer, or a pair of 32-bit integers.
            wait: How long to wait, in seconds or as `"30s"`; None for ever. Covers everything:
                connecting, our own threads ahead in the queue, and the server.
            shared: Share it with other shared holders.
            reentrant: Enter at once where this thread already holds it.

        Raises:
            LockTimeout: on entering, when it was not free in time; it says who holds it.
            LockLost: on leaving, when the lock was lost meanwhile.
            DatabaseUnavailable: on entering, when there is no session.
            UnsafeServer: on entering, when mutual exclusion cannot hold there.
        """
        return Hold(self, name, wait=wait_seconds(wait), shared=shared, reentrant=reentrant)

    def attempt(self, name: Name, *, shared: bool = False, reentrant: bool = False) -> Attempt:
        """Take a lock only if it is free now: enters at once, with a `Held` or None.

        As a decorator it skips the call, which then returns None, when the lock is not free.
        Parameters and errors are those of `hold`.
        """
        return Attempt(self, name, shared=shared, reentrant=reentrant)

    def hold_all(self, names: Iterable[Name], *, wait: Seconds = None) -> HoldAll:
        """Hold several locks or none; enters with a list of `Held`, in the order of `names`.

        They are taken in one canonical order whatever the order of `names`, so that two callers
        cannot wait for each other. Parameters and errors are those of `hold`.
        """
        return HoldAll(self, tuple(names), wait=wait_seconds(wait))

    def lock(self, name: Name, *, shared: bool = False) -> Lock:
        """Return a drop-in for `threading.Lock` whose other holders may be on other machines."""
        return Lock(self, name, shared=shared)

    def holders(self, name: Name) -> list[Holder]:
        """Ask the server who holds a lock, and who waits for it in the order of the queue."""
        self._check_open()
        return self._ask_holders(self._key(name, None), None)

    def close(self) -> None:
        """Release every lock and close every session. Idempotent."""
        with self._mutex:
            self._closed = True
            waiting = [t.waker for t in self._ledger.tickets() if t.waker is not None]
        self._sessions.close(lambda session: bool(self._ledger.held_by(session)))
        for waker in waiting:
            wake(waker)

    def __enter__(self) -> Self:
        """Return the client; it connects on first use."""
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._sessions.open:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)
            self.close()

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
        owner = threading.get_ident() if owned else None
        self._check_open()
        key = ticket = None
        try:
            key = self._key(name, deadline)
            if reentrant and (again := self._hold_again(key, owner, shared=shared)):
                return again
            ticket = Ticket(key, name, shared=shared, owner=owner)
            if self._enter(ticket, wait) and self._try(ticket, deadline):
                return Held(self, ticket)
            if contend(self, ticket, deadline):
                return Held(self, ticket)
        except Expired:
            pass
        except BaseException:
            self._abandon(ticket)
            raise
        self._abandon(ticket)
        raise timeout(name, key, wait or 0.0, self._holders_soon(key))

    def _attempt(
        self, name: Name, *, shared: bool = False, reentrant: bool = False, owned: bool = True
    ) -> Held | None:
        owner = threading.get_ident() if owned else None
        self._check_open()
        key = self._key(name, None)
        if reentrant and (again := self._hold_again(key, owner, shared=shared)):
            return again
        ticket = Ticket(key, name, shared=shared, owner=owner)
        try:
            with self._mutex:
                if not self._ledger.enter(ticket, queue=False):
                    return None
            if self._try(ticket, None):
                return Held(self, ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        self._abandon(ticket)
        return None

    def _hold_all(self, names: tuple[Name, ...], *, wait: float | None) -> list[Held]:
        deadline = None if wait is None else time.monotonic() + wait
        keys = [self._key(name, deadline) for name in names]
        held: dict[Key, Held] = {}
        try:
            for key, name in sorted(dict(zip(keys, names, strict=True)).items()):
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                held[key] = self._hold(name, wait=left)
        except BaseException:
            for one in reversed(held.values()):
                with contextlib.suppress(LockError):
                    self._let_go(one)
            raise
        return [held[key] for key in dict.fromkeys(keys)]

    def _hold_again(self, key: Key, owner: object, *, shared: bool) -> Held | None:
        with self._mutex:
            ticket = self._ledger.find_held(key, owner)
            if ticket is not None:
                if ticket.shared and not shared:
                    raise self._refuse_upgrade(ticket)
                ticket.depth += 1
        return Held(self, ticket) if ticket is not None else None

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
            op = self._ledger.try_op(ticket)
            try:
                return session.ask(op, deadline)
            except SessionLost as error:
                if attempt == 2:  # noqa: PLR2004
                    msg = f"the server ended a new session at once: {error}; try again"
                    raise DatabaseUnavailable(msg) from None
        raise AssertionError

    # -- releasing -------------------------------------------------------------------------------

    def _let_go(self, held: Held) -> None:
        if not held._open:
            msg = f"{held!r} is not held any more"
            raise LockNotHeld(msg)
        self._release(held._ticket)
        held._open = False

    def _release(self, ticket: Ticket) -> None:
        """Release for certain: afterwards the lock is free for everybody."""
        if ticket.state is FORKED:
            return
        if ticket.depth > 1:
            ticket.depth -= 1
            return
        if ticket.state is LOST:
            raise self._lost(ticket)
        if ticket.state is not HELD:
            msg = f"{ticket.name!r} is not held any more"
            raise LockNotHeld(msg)
        session: Session = ticket.session
        op = self._ledger.release_op(ticket)
        try:
            ticket.state = RELEASING
            released = session.ask(op, None)
        except SessionLost:
            raise self._lost(ticket) from None
        except BaseException:
            # Somebody else sees it through; a session that carries this lock alone may as well go.
            if session is self._sessions.shared:
                session.put(op)
            else:
                session.close("interrupted while releasing")
            raise
        if not released:
            raise self._lost(ticket)
        self._sessions.retire(session)

    def _abandon(self, ticket: Ticket | None) -> None:
        """Give up a ticket in whatever state it is; nobody waits for what the server says."""
        if ticket is None:
            return
        with self._mutex:
            woken = self._ledger.withdraw(ticket)
            held = ticket.state is HELD
            op = self._ledger.release_op(ticket) if held else None
        _wake_all(woken)
        if op is not None:
            ticket.session.put(op)

    def _drop(self, ticket: Ticket) -> None:
        """Release a ticket whose handle was garbage-collected, wherever that happened."""
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
            _thread.start_new_thread(self._release_quietly, (ticket,))

    def _release_quietly(self, ticket: Ticket) -> None:
        with contextlib.suppress(LockLost):
            self._release(ticket)

    # -- what sessions report --------------------------------------------------------------------

    def _settle(self, op: Op, session: Session, verdict: bool | Exception) -> None:  # noqa: FBT001
        ticket = op.ticket
        with self._mutex:
            if isinstance(verdict, Exception):
                woken = self._ledger.unanswered(op)
            else:
                woken = self._ledger.settle(op, session, answer=verdict)
            granted = ticket.state is HELD
            if granted:
                ticket.since = time.time()
        if woken:
            _wake_all(woken)
        if granted and ticket.withdrawn:
            session.put(self._ledger.release_op(ticket))

    def _book(self, ticket: Ticket, session: Session) -> None:
        with self._mutex:
            self._ledger.grant(ticket, session)
            ticket.since = time.time()

    def _session_lost(self, session: Session, unanswered: list[Op]) -> None:
        with self._mutex:
            woken = [t for op in unanswered for t in self._ledger.unanswered(op)]
            lost, more = self._ledger.forget(session)
        _wake_all(woken)
        _wake_all(more)
        if not self._closed:
            tell_lost(lost)

    # -- questions -------------------------------------------------------------------------------

    def _key(self, name: Name, deadline: float | None) -> Key:
        key = self._ascii_key(name)
        if key is None:
            self._sessions.connect(deadline)
            key = self._ascii_key(name)
        assert key is not None
        return key

    def _ask_holders(self, key: Key, deadline: float | None) -> list[Holder]:
        session = self._sessions.shared or self._sessions.connect(deadline)
        return session.fetch(_plan.holders(key), deadline)

    def _holders_soon(self, key: Key | None) -> list[Holder]:
        if key is not None and self._sessions.shared is not None:
            with contextlib.suppress(Expired, SessionLost, Refused, DatabaseUnavailable):
                return self._ask_holders(key, time.monotonic() + GRACE)
        return []

    def _token(self, ticket: Ticket) -> int:
        if ticket.token is None:
            if ticket.state is not HELD:
                raise self._lost(ticket)
            try:
                ticket.token = ticket.session.fetch(_plan.token(), None)
            except SessionLost:
                raise self._lost(ticket) from None
        return ticket.token


def _wake_all(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        wake(ticket.waker)
