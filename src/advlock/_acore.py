"""What the async client does. Its twin is `_core.py`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

from advlock import _observe, _plan
from advlock._aheld import AsyncHeld
from advlock._aloop import by
from advlock._asessions import AsyncSessions
from advlock._beside import abeside
from advlock._client import Client, timeout
from advlock._connect import ended_at_once
from advlock._contend import acontend
from advlock._grace import GRACE, for_holders
from advlock._held import tell_lost
from advlock._ledger import FORKED, HELD, RELEASING, Ledger, Op, Ticket
from advlock._plan import Expired, Refused, SessionLost
from advlock.errors import ConfigError, DatabaseUnavailable, LockError, LockLost, LockNotHeld

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Awaitable, Callable, Iterable

    from advlock._asession import AsyncSession
    from advlock._holder import Holder
    from advlock._inspect._tree import Snapshot
    from advlock._key import Key, Name
    from advlock.errors import LockTimeout

R = TypeVar("R")


class AsyncCore(Client):
    """Acquires and releases, for tasks of one loop; `AsyncLocks` adds the verbs."""

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
            self._ledger = Ledger(self.max_locks)  # whoever waited there will not be back
        self._sessions = AsyncSessions(
            self, loop, self._settle, self._session_lost, self._ledger.carried
        )
        return self._sessions

    # -- acquiring -------------------------------------------------------------------------------

    def _hold(
        self,
        name: Name,
        *,
        wait: float | None = None,
        shared: bool = False,
        reentrant: bool = False,
        owned: bool = True,
    ) -> Awaitable[AsyncHeld]:
        loop = self._bind().loop
        deadline = None if wait is None else loop.time() + wait
        owner = asyncio.current_task(loop) if owned else None
        held = self._hold_by(
            deadline, name, wait=wait, shared=shared, reentrant=reentrant, owner=owner
        )
        return _observe.awatch((self, name), {"shared": shared}, held) if _observe.on() else held

    async def _hold_by(  # noqa: PLR0913 - one parameter for each of the caller's
        self,
        deadline: float | None,
        name: Name,
        *,
        wait: float | None,
        shared: bool,
        reentrant: bool,
        owner: object,
    ) -> AsyncHeld:
        self._check_open()
        ticket = None
        try:
            key = self._ascii_key(name) or await self._key(name, deadline)
            if reentrant and (again := self._hold_again(key, owner, shared=shared)):
                return again
            ticket = Ticket(key, name, shared=shared, owner=owner)
            if wait is not None and wait < GRACE:
                await self._let_leave(key)
            if self._enter(ticket, wait) and await self._try(ticket, deadline):
                return AsyncHeld(self, self._believed(ticket))
            if await acontend(self, ticket, deadline):
                return AsyncHeld(self, self._believed(ticket))
            self._abandon(ticket)
        except Expired:
            self._abandon(ticket)
        except BaseException:
            self._abandon(ticket)
            raise
        raise await self._timed_out(name, wait or 0.0)

    @_observe.asks
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
            await self._let_leave(key)
            if not self._ledger.enter(ticket, queue=False):
                return None
            if await self._try(ticket, None):
                return AsyncHeld(self, self._believed(ticket))
        except BaseException:
            self._abandon(ticket)
            raise
        self._abandon(ticket)
        return None

    def _hold_again(self, key: Key, owner: object, *, shared: bool) -> AsyncHeld | None:
        ticket = self._ledger.find_held(key, owner)
        if ticket is None:
            return None
        if not ticket.session.vouches():
            raise self._lost(ticket)
        if ticket.shared and not shared:
            raise self._refuse_upgrade(ticket)
        ticket.depth += 1
        return AsyncHeld(self, ticket)

    async def _let_leave(self, key: Key) -> None:
        """Wait for the round trip of a release that was only sent: `release(); acquire(False)`."""
        op = self._ledger.leaving(key)
        if op is not None and op.waiter is not None:
            await asyncio.wait([op.waiter], timeout=self._grace)

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
            sessions = self._sessions or self._bind()
            session = sessions.shared or await sessions.connect(deadline)
            future = session.ask(self._ledger.try_op(ticket, session))
            soon = self._at_least(deadline, sessions.loop.time())
            try:
                return await future if soon is None else await by(soon, future)
            except SessionLost as error:
                self._pooler_may_differ = True
                if attempt == 2:  # noqa: PLR2004
                    raise ended_at_once(error) from None
        raise AssertionError

    # -- releasing -------------------------------------------------------------------------------

    async def _let_go_all(self, held: list[AsyncHeld]) -> list[LockError]:
        # All are sent before any is awaited: a cancellation then leaves none behind, and one round
        # trip does for all.
        errors: list[LockError] = []
        sent: list[tuple[AsyncHeld, Future[bool]]] = []
        for one in held:
            try:
                future = self._let_go_soon(one)
            except LockError as error:
                errors += [error] if one.tells else []
            else:
                if future is not None:
                    sent.append((one, future))
        for one, future in sent:
            try:
                released = await future
            except SessionLost:
                released = False
            if not released and one.tells:
                errors.append(self._lost(one._ticket))
        return errors

    async def _let_go(self, held: AsyncHeld) -> None:
        future = self._let_go_soon(held)
        if future is None:
            return
        try:
            if await future:
                return
        except SessionLost:
            pass  # the same to the caller: somebody else may hold the lock by now
        raise self._lost(held._ticket)

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
        self._check_held(ticket)
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
        if ticket.depth > 1:  # an outer hold has it still, and believes in it
            ticket.depth -= 1
            return
        ticket.withdrawn = True  # its owner does not hold it any more, though the server may
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
        if woken:
            _wake_all(woken)
        if ticket.state is HELD:
            ticket.since = time.time()
            if ticket.withdrawn:
                self._release(ticket)
        elif op.releases:
            if ticket.watched is not None:
                _observe.let_go(self, ticket)
            if self._sessions is not None and session is not self._sessions.shared:
                session.loop.call_soon(self._sessions.retire, session)

    def _book(self, ticket: Ticket, session: AsyncSession) -> None:
        self._ledger.grant(ticket, session)
        ticket.since = time.time()
        session.look_after()  # its timer may have fired since the answer, and seen nothing to do

    def _session_lost(self, session: AsyncSession, unanswered: list[Op]) -> None:
        lost = self._ledger.carried(session)
        for op in unanswered:
            _wake_all(self._ledger.unanswered(op))
        _wake_all(self._ledger.lose(lost))
        tell_lost(self, lost, self._call_soon)

    def _call_soon(self, function: Callable[..., object], *args: object) -> None:
        loop = self._sessions.loop if self._sessions is not None else None
        if loop is None or loop.is_closed():
            function(*args)
        else:
            loop.call_soon(function, *args)

    # -- questions -------------------------------------------------------------------------------

    def _note(self, key: Key) -> None:
        super()._note(key)
        if self._sessions is not None:
            self._sessions.recorder.arm()

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
        try:
            return await by(deadline, session.fetch(_plan.holders(key, briefly=True)))
        except Refused as refusal:
            raise _plan.server_error(refusal) from None
        except SessionLost as error:
            msg = f"the session ended while it was asked: {error}; try again"
            raise DatabaseUnavailable(msg) from None

    async def _inspect(self, names: Iterable[Name], *, all_databases: bool) -> Snapshot:
        sessions = self._bind()
        session = sessions.shared or await sessions.connect(None)
        used = [ticket.key for ticket in self._ledger.tickets()]
        plan = self._looking(names, used, all_databases=all_databases)
        try:
            return await self._beside(session, plan)
        except Refused as refusal:
            raise _plan.server_error(refusal) from None
        except SessionLost as error:
            msg = f"the session ended while it was asked: {error}; try again"
            raise DatabaseUnavailable(msg) from None

    async def _beside(self, session: AsyncSession, plan: _plan.SessionPlan[R]) -> R:
        """Drive `plan` on a session of ours, or beside it where a pooler wants it so."""
        return await abeside(session, self._conninfo(), self._dsn, plan)

    async def _timed_out(self, name: Name, wait: float) -> LockTimeout:
        key = self._key_if_any(name)
        holders: list[Holder] = []
        sessions = self._bind()
        if key is not None and sessions.shared is not None:
            with contextlib.suppress(Expired, LockError):
                limit = sessions.loop.time() + for_holders(wait, self._grace)
                holders = await self._ask_holders(key, limit)
        late = timeout(name, key, wait, holders, pinned=self._pinned)
        return _observe.timed_out(self, late)

    async def _token(self, ticket: Ticket) -> int:
        if ticket.token is None:
            self._check_held(ticket)
            try:
                token = await self._beside(ticket.session, _plan.token())
            except SessionLost:
                raise self._lost(ticket) from None
            except Refused as refusal:
                raise _plan.judge_failed_token(refusal) from None
            # Two tasks may ask at once: the first answer is the hold's token.
            ticket.token = ticket.token or token
        return ticket.token


def wake(waker: Future[None] | None) -> None:
    """Wake the task that waits on this future; a second call does nothing."""
    if waker is not None and not waker.done() and not waker.get_loop().is_closed():
        waker.set_result(None)


def _wake_all(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        wake(ticket.waker)
