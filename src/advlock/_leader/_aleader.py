"""Leadership for tasks. Its twin is `_leader.py`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from advlock import _observe
from advlock._aheld import AsyncHeld, _Guard
from advlock._client import wait_seconds
from advlock._contend import acontend
from advlock._held import _call_back, join_errors
from advlock._leader._base import CLOSED, LOOK, RESIGNED, SOON, BaseLeader, BaseTerm, leading, leave
from advlock._ledger import Ticket
from advlock._plan import Expired
from advlock.errors import LockError, LockLost

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from advlock._alocks import AsyncLocks
    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._key import Name


class AsyncTerm(BaseTerm, AsyncHeld):
    """One term as the leader: an `AsyncHeld` that also ends when the leader resigns."""

    __slots__ = ()
    __module__ = "advlock"

    @property
    def leader(self) -> AsyncLeader:
        """Whose term it is."""
        leader: AsyncLeader = self._leader
        return leader

    def cancel_on_lost(self) -> AbstractAsyncContextManager[AsyncTerm]:
        """Guard a block: it is cancelled when the term is over, and ends then without an error.

        For the body of `async for term in leader.terms()`, so that the loop goes on. Whoever else
        cancels the task is not mistaken for this. A blocking call is not reached.
        """
        return _Scope(self)

    def _end(self, why: str) -> None:
        if self._why is None:
            self._why = why
            self._client._call_soon(_call_back, self._ticket)


class AsyncLeader(BaseLeader):
    """One candidate for the lead of `name`, made by `AsyncLocks.leader`.

    Leads at most once at a time. Task-safe: `resign`, `close`, `leading` and `current` are for
    other tasks, too. A context manager, which closes it and ends a term that is still open.
    """

    __module__ = "advlock"
    _client: AsyncLocks

    def __init__(self, client: AsyncLocks, name: Name, *, pause: Seconds = 1.0) -> None:
        super().__init__(client, name, wait_seconds(pause) or 0.0)
        self._election: Task[AsyncTerm | None] | None = None

    # -- the verbs -------------------------------------------------------------------------------

    def terms(self) -> AsyncIterator[AsyncTerm]:
        """Yield an `AsyncTerm` each time we lead; campaign in between, end when we are closed.

        See `Leader.terms`. `AsyncTerm.cancel_on_lost` stops a body that does not notice by itself.
        """
        return _AsyncTerms(self)

    def term(
        self, *, wait: Seconds = None, cancel_on_lost: bool = False
    ) -> AbstractAsyncContextManager[AsyncTerm]:
        """Lead for the length of an `async with` block.

        Parameters and errors are those of `Leader.term`.

        Args:
            wait: How long to campaign, in seconds or as `"30s"`; None for ever.
            cancel_on_lost: Cancel the block when the term is over. It then raises `LockLost` if
                the lock was lost, and ends without an error if the leader has resigned.
        """
        return _AsyncOneTerm(self, wait_seconds(wait), cancel_on_lost=cancel_on_lost)

    async def current(self) -> Holder | None:
        """Ask the server who leads, since when, on which host; None when nobody does."""
        return leading(await self._client.holders(self._name))

    def resign(self) -> None:
        """End the present term, if there is one, so that others lead; then campaign again.

        See `Leader.resign`. Never waits; from the event loop.
        """
        if (term := self._term) is not None:
            term._end(RESIGNED)

    def close(self) -> None:
        """Resign for good: `terms` ends, as soon as its body has come back. As `resign`."""
        self._closed = True
        if (term := self._term) is not None:
            term._end(CLOSED)
        if self._election is not None:
            self._election.cancel(CLOSED)

    async def __aenter__(self) -> Self:
        """Return the leader."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close it; a term that was left open is over when this returns."""
        self.close()
        if (term := self._term) is not None:
            await self._end_term(term)
        while self._is_leaving():  # noqa: ASYNC110 - it comes from a finalizer, without an event
            await asyncio.sleep(SOON)

    # -- campaigns -------------------------------------------------------------------------------

    async def _elect(self, seconds: float | None) -> AsyncTerm | None:
        """Campaign until we lead; None when we are closed.

        Raises:
            LockTimeout: not within so many seconds.
        """
        if self.closed:
            return None
        # A task of its own, so that `close` can end it without a word to whoever waits here.
        owner = asyncio.current_task()
        election = asyncio.ensure_future(self._run(seconds, owner))
        self._election = election
        try:
            await asyncio.wait([election])
        except asyncio.CancelledError:
            election.cancel()
            election.add_done_callback(self._unwanted)
            raise
        finally:
            self._election = None
        if election.cancelled():
            return None
        term = election.result()
        if term is not None and self.closed:
            await self._end_term(term)
            return None
        return term

    def _unwanted(self, election: Task[AsyncTerm | None]) -> None:
        if election.cancelled() or election.exception() is not None:
            return
        term = election.result()
        if term is not None and self._term is term:
            self._undo()

    async def _run(self, seconds: float | None, owner: object) -> AsyncTerm | None:
        loop = self._client._bind().loop
        deadline = None if seconds is None else loop.time() + seconds
        self._campaigning()
        while not self.closed:
            pause = self._pace.left(time.monotonic())
            if deadline is not None:
                pause = min(pause, deadline - loop.time())
            if pause > 0:
                await asyncio.sleep(min(pause, LOOK))
                continue
            ticket = None
            try:
                ticket = await self._campaign(seconds, deadline, owner)
            except LockError as error:
                if not self.closed:
                    self._trouble(error, time.monotonic())
            if ticket is not None:
                term = AsyncTerm(self._client, ticket, self, time.monotonic())
                try:
                    self._elected(term)
                except BaseException:  # of a logging handler
                    self._undo()
                    raise
                return term
            if deadline is not None and loop.time() >= deadline and not self.closed:
                raise await self._client._timed_out(self._name, seconds or 0.0)
        return None

    @_observe.asks
    async def _campaign(
        self, seconds: float | None, deadline: float | None, owner: object
    ) -> Ticket | None:
        client, ticket = self._client, None
        client._check_open()
        try:
            key = await client._key(self._name, deadline)
            ticket = Ticket(key, self._name, shared=False, owner=owner)
            # Where time is short, a free lock is taken however short it is, as by `hold`.
            asks = client._enter(ticket, seconds) and deadline is not None
            if asks and await client._try(ticket, deadline):
                return client._believed(ticket)
            if await acontend(client, ticket, deadline, self._plan(ticket)):
                return client._believed(ticket)
            client._abandon(ticket)
        except Expired:
            client._abandon(ticket)
        except BaseException:
            client._abandon(ticket)
            raise
        return None

    # -- the end of a term -----------------------------------------------------------------------

    async def _end_term(self, term: AsyncTerm) -> LockError | None:
        """Release; when it returns, others may lead. What is returned says that the lock was lost.

        A term that was ended already is left alone.
        """
        loss: LockError | None = None
        if self._term is term:
            self._leaving = term._ticket
            self._term = None
            try:
                await self._client._let_go(term)
            except LockLost as error:
                loss = error
            finally:  # where the task was cancelled, the release was sent
                self._ended(term, time.monotonic(), loss)
        return loss

    def _later(self, function: Callable[..., object], *args: object) -> None:
        sessions = self._client._sessions
        if sessions is not None and not sessions.loop.is_closed():
            sessions.loop.call_soon_threadsafe(function, *args)


class _AsyncTerms:
    """The iterator of `AsyncLeader.terms`; when it is dropped, so is its term."""

    def __init__(self, leader: AsyncLeader) -> None:
        self._leader = leader
        self._me = object()  # in whose name the leader's turn is taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncTerm:
        leader, me = self._leader, self._me
        leader._claim(me)
        try:
            if (term := leader._term) is not None:
                await leader._end_term(term)
            if (elected := await leader._elect(None)) is not None:
                return elected
        except BaseException:
            leader._give_back(me)
            raise
        finally:
            # As in `_Terms`; not earlier, because of `anext(aiter(…))` nobody else has it.
            del self
        leader._give_back(me)
        raise StopAsyncIteration

    def __del__(self) -> None:
        # Reached with a term by `break`, `return` or an exception in the loop's body.
        leave(self)


class _AsyncOneTerm:
    """`AsyncLeader.term`: enters when elected."""

    def __init__(self, leader: AsyncLeader, seconds: float | None, *, cancel_on_lost: bool) -> None:
        self._leader = leader
        self._seconds = seconds
        self._me = object()
        self._cancel_on_lost = cancel_on_lost
        self._guard: _Guard | None = None

    async def __aenter__(self) -> AsyncTerm:
        leader = self._leader
        if leader._has_turn(self._me):
            leader._refuse()
        leader._claim(self._me)
        try:
            leader._pace.forget()  # it is for loops
            term = await leader._elect(self._seconds)
            if term is None:
                leader._no_term()
        except BaseException:
            leader._give_back(self._me)
            raise
        if self._cancel_on_lost:
            self._guard = _Guard([term])
        return term

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> bool:
        leader, loss = self._leader, None
        guard, self._guard = self._guard, None
        ours = guard is not None and guard.leave(body)
        try:
            if (term := leader._term) is not None:
                loss = await leader._end_term(term)
        finally:
            leader._give_back(self._me)
        if loss is None:
            return ours
        if ours:
            raise loss from body
        error = join_errors(body, loss)
        if kind is None:
            raise error
        return False

    def __del__(self) -> None:
        # Reached with a term if an exception fell between `__aenter__` and the body.
        leave(self)


class _Scope:
    """`AsyncTerm.cancel_on_lost`: its block ends with the term."""

    def __init__(self, term: AsyncTerm) -> None:
        self._term = term
        self._guard: _Guard | None = None

    async def __aenter__(self) -> AsyncTerm:
        self._guard = _Guard([self._term])
        return self._term

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> bool:
        guard, self._guard = self._guard, None
        return guard is not None and guard.leave(body)
