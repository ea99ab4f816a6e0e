"""The async client. Its twin is `_locks.py`: the same verbs, the same parameters."""

from __future__ import annotations

import asyncio
import contextlib
import time
import warnings
from typing import TYPE_CHECKING

from advlock import _plan
from advlock._aheld import AsyncAttempt, AsyncHeld, AsyncHold, AsyncHoldAll
from advlock._asession import AsyncSession, by
from advlock._asessions import AsyncSessions
from advlock._client import GRACE, Client, timeout, wait_seconds
from advlock._contend import acontend
from advlock._held import tell_lost
from advlock._ledger import FORKED, HELD, LOST, RELEASING, Op, Ticket
from advlock._lock import AsyncLock
from advlock._plan import Refused
from advlock._session import Expired, SessionLost
from advlock.errors import ConfigError, DatabaseUnavailable, LockError, LockLost, LockNotHeld

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._key import Key, Name


class AsyncLocks(Client):
    """A client for tasks of one event loop; parameters and errors are those of `Locks`."""

    __module__ = "advlock"

    def _reset(self) -> None:
        self._sessions: AsyncSessions | None = None

    def _disown_sessions(self) -> None:
        if self._sessions is not None:
            self._sessions.disown()

    def _bind(self) -> AsyncSessions:
        """Return the sessions, which belong to the running loop."""
        sessions = self._sessions
        loop = asyncio.get_running_loop()
        if sessions is not None and sessions.loop is loop:
            return sessions
        if sessions is not None and not sessions.loop.is_closed():
            msg = "this AsyncLocks belongs to another running event loop; make one for each loop"
            raise ConfigError(msg)
        if sessions is not None:
            sessions.end("its event loop was closed")
        self._sessions = AsyncSessions(self, loop, self._settle, self._session_lost)
        return self._sessions

    # -- the verbs -------------------------------------------------------------------------------

    def hold(
        self, name: Name, *, wait: Seconds = None, shared: bool = False, reentrant: bool = False
    ) -> AsyncHold:
        """Hold a lock: an async context manager that enters when granted, and a decorator.

        Parameters and errors are those of `Locks.hold`; `reentrant` goes by task.
        """
        return AsyncHold(self, name, wait=wait_seconds(wait), shared=shared, reentrant=reentrant)

    def attempt(self, name: Name, *, shared: bool = False, reentrant: bool = False) -> AsyncAttempt:
        """Take a lock only if it is free now: enters at once, with an `AsyncHeld` or None."""
        return AsyncAttempt(self, name, shared=shared, reentrant=reentrant)

    def hold_all(self, names: Iterable[Name], *, wait: Seconds = None) -> AsyncHoldAll:
        """Hold several locks or none; enters with a list, in the order of `names`."""
        return AsyncHoldAll(self, tuple(names), wait=wait_seconds(wait))

    def lock(self, name: Name, *, shared: bool = False) -> AsyncLock:
        """Return a drop-in for `asyncio.Lock` whose other holders may be on other machines."""
        return AsyncLock(self, name, shared=shared)

    async def holders(self, name: Name) -> list[Holder]:
        """Ask the server who holds a lock, and who waits for it in the order of the queue."""
        self._check_open()
        return await self._ask_holders(await self._key(name, None), None)

    async def close(self) -> None:
        """Release every lock and close every session. Idempotent."""
        self._closed = True
        waiting = [t.waker for t in self._ledger.tickets() if t.waker is not None]
        if self._sessions is not None:
            await self._sessions.close(lambda session: bool(self._ledger.held_by(session)))
        for waker in waiting:
            _wake(waker)

    async def __aenter__(self) -> Self:
        """Return the client; it connects on first use."""
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    def __del__(self) -> None:
        sessions = getattr(self, "_sessions", None)
        if sessions is not None and not self._closed and sessions.open:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)
            if sessions.loop.is_closed():
                sessions.end("the client was dropped")
            else:
                sessions.loop.call_soon_threadsafe(sessions.end, "the client was dropped")

    # -- acquiring -------------------------------------------------------------------------------

    async def _hold(
        self,
        name: Name,
        *,
        wait: float | None = None,
        shared: bool = False,
        reentrant: bool = False,
        owned: bool = True,
    ) -> AsyncHeld:
        sessions = self._bind()
        deadline = None if wait is None else sessions.loop.time() + wait
        owner = asyncio.current_task() if owned else None
        self._check_open()
        key = ticket = None
        try:
            key = await self._key(name, deadline)
            if reentrant and (again := self._hold_again(key, owner, shared=shared)):
                return again
            ticket = Ticket(key, name, shared=shared, owner=owner)
            if self._enter(ticket, wait) and await self._try(ticket, deadline):
                return AsyncHeld(self, ticket)
            if await acontend(self, ticket, deadline):
                return AsyncHeld(self, ticket)
        except Expired:
            pass
        except BaseException:
            self._abandon(ticket)
            raise
        self._abandon(ticket)
        raise timeout(name, key, wait or 0.0, await self._holders_soon(key))

    async def _attempt(
        self, name: Name, *, shared: bool = False, reentrant: bool = False, owned: bool = True
    ) -> AsyncHeld | None:
        self._bind()
        owner = asyncio.current_task() if owned else None
        self._check_open()
        key = await self._key(name, None)
        if reentrant and (again := self._hold_again(key, owner, shared=shared)):
            return again
        ticket = Ticket(key, name, shared=shared, owner=owner)
        try:
            if not self._ledger.enter(ticket, queue=False):
                return None
            if await self._try(ticket, None):
                return AsyncHeld(self, ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        self._abandon(ticket)
        return None

    async def _hold_all(self, names: tuple[Name, ...], *, wait: float | None) -> list[AsyncHeld]:
        loop = self._bind().loop
        deadline = None if wait is None else loop.time() + wait
        keys = [await self._key(name, deadline) for name in names]
        held: dict[Key, AsyncHeld] = {}
        try:
            for key, name in sorted(dict(zip(keys, names, strict=True)).items()):
                left = None if deadline is None else max(0.0, deadline - loop.time())
                held[key] = await self._hold(name, wait=left)
        except BaseException:
            for one in reversed(held.values()):
                with contextlib.suppress(LockError):
                    self._let_go_soon(one)
            raise
        return [held[key] for key in dict.fromkeys(keys)]

    def _hold_again(self, key: Key, owner: object, *, shared: bool) -> AsyncHeld | None:
        ticket = self._ledger.find_held(key, owner)
        if ticket is None:
            return None
        if ticket.shared and not shared:
            raise self._refuse_upgrade(ticket)
        ticket.depth += 1
        return AsyncHeld(self, ticket)

    def _enter(self, ticket: Ticket, wait: float | None) -> bool:
        if self._ledger.enter(ticket, queue=False):
            return True
        own = wait is None and ticket.owner is not None
        if own and self._ledger.find_held(ticket.key, ticket.owner):
            raise self._waits_for_itself(ticket, "task")
        ticket.waker = self._bind().loop.create_future()
        return self._ledger.enter(ticket, queue=True)

    async def _try(self, ticket: Ticket, deadline: float | None) -> bool:
        """Try once, on the shared session; on a new one if that turns out to be gone."""
        for attempt in (1, 2):
            sessions = self._bind()
            session = sessions.shared or await sessions.connect(deadline)
            future = session.ask(self._ledger.try_op(ticket))
            try:
                return await future if deadline is None else await by(deadline, future)
            except SessionLost as error:
                if attempt == 2:  # noqa: PLR2004
                    msg = f"the server ended a new session at once: {error}; try again"
                    raise DatabaseUnavailable(msg) from None
        raise AssertionError

    # -- releasing -------------------------------------------------------------------------------

    async def _let_go(self, held: AsyncHeld) -> None:
        future = self._let_go_soon(held)
        if future is not None and not await self._confirmed(future, held._ticket):
            raise self._lost(held._ticket)

    async def _confirmed(self, future: Future[bool], ticket: Ticket) -> bool:
        try:
            return await future
        except SessionLost:
            raise self._lost(ticket) from None

    def _let_go_soon(self, held: AsyncHeld) -> Future[bool] | None:
        if not held._open:
            msg = f"{held!r} is not held any more"
            raise LockNotHeld(msg)
        held._open = False
        return self._release(held._ticket)

    def _release(self, ticket: Ticket) -> Future[bool] | None:
        """Send the release; when its future is done, the lock is free for everybody."""
        if ticket.state is FORKED:
            return None
        if ticket.depth > 1:
            ticket.depth -= 1
            return None
        if ticket.state is LOST:
            raise self._lost(ticket)
        if ticket.state is not HELD:
            msg = f"{ticket.name!r} is not held any more"
            raise LockNotHeld(msg)
        ticket.state = RELEASING
        session: AsyncSession = ticket.session
        return session.ask(self._ledger.release_op(ticket))

    def _abandon(self, ticket: Ticket | None) -> None:
        """Give up a ticket in whatever state it is; nobody waits for what the server says."""
        if ticket is None:
            return
        _wake_all(self._ledger.withdraw(ticket))
        if ticket.state is HELD:
            self._release(ticket)

    def _drop(self, ticket: Ticket) -> None:
        """Release a ticket whose handle was garbage-collected, wherever that happened."""
        loop = self._sessions.loop if self._sessions is not None else None
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._release_quietly, ticket)

    def _release_quietly(self, ticket: Ticket) -> None:
        with contextlib.suppress(LockLost, LockNotHeld):
            self._release(ticket)

    # -- what sessions report --------------------------------------------------------------------

    def _settle(self, op: Op, session: AsyncSession, verdict: bool | Exception) -> None:  # noqa: FBT001
        ticket = op.ticket
        if isinstance(verdict, Exception):
            woken = self._ledger.unanswered(op)
        else:
            woken = self._ledger.settle(op, session, answer=verdict)
        _wake_all(woken)
        if ticket.state is HELD:
            ticket.since = time.time()
            if ticket.withdrawn:
                self._release(ticket)
        elif op.releases and self._sessions is not None and session is not self._sessions.shared:
            session._loop.call_soon(self._sessions.retire, session)

    def _book(self, ticket: Ticket, session: AsyncSession) -> None:
        self._ledger.grant(ticket, session)
        ticket.since = time.time()

    def _session_lost(self, session: AsyncSession, unanswered: list[Op]) -> None:
        for op in unanswered:
            _wake_all(self._ledger.unanswered(op))
        lost, woken = self._ledger.forget(session)
        _wake_all(woken)
        if not self._closed:
            tell_lost(lost)

    # -- questions -------------------------------------------------------------------------------

    async def _key(self, name: Name, deadline: float | None) -> Key:
        key = self._ascii_key(name)
        if key is None:
            await self._bind().connect(deadline)
            key = self._ascii_key(name)
        assert key is not None
        return key

    async def _ask_holders(self, key: Key, deadline: float | None) -> list[Holder]:
        sessions = self._bind()
        session = sessions.shared or await sessions.connect(deadline)
        return await by(deadline, session.fetch(_plan.holders(key)))

    async def _holders_soon(self, key: Key | None) -> list[Holder]:
        sessions = self._bind()
        if key is not None and sessions.shared is not None:
            with contextlib.suppress(Expired, SessionLost, Refused, DatabaseUnavailable):
                return await self._ask_holders(key, sessions.loop.time() + GRACE)
        return []

    async def _token(self, ticket: Ticket) -> int:
        if ticket.token is None:
            if ticket.state is not HELD:
                raise self._lost(ticket)
            try:
                token = await ticket.session.fetch(_plan.token())
            except SessionLost:
                raise self._lost(ticket) from None
            # Two tasks may ask at once: the first answer is the hold's token.
            ticket.token = ticket.token or token
        return ticket.token


def _wake(waker: Future[None]) -> None:
    if not waker.done():
        waker.set_result(None)


def _wake_all(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        _wake(ticket.waker)
