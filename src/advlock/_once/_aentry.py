"""`AsyncLocks.once`: a context manager and a decorator. Its twin is `_entry.py`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from advlock import _observe, _schema
from advlock._aloop import by
from advlock._held import join_errors, refuse_generator
from advlock._ledger import FORKED
from advlock._once import _here, _plan
from advlock._once._base import BaseOnce, Entered, session_ended
from advlock._once._done import Done, Run
from advlock._once._here import Grip, Missing
from advlock._once._todo import AsyncTodo
from advlock._plan import Expired, Refused, SessionLost
from advlock._xact import _adrive
from advlock.errors import ConfigError, DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from advlock._aheld import AsyncHeld
    from advlock._alocks import AsyncLocks
    from advlock._plan import SessionPlan

P = ParamSpec("P")
R = TypeVar("R")


class AsyncOnce(BaseOnce):
    """`AsyncLocks.once`: enters with an `AsyncTodo`, or with a `Done` that is false."""

    __slots__ = ()

    _client: AsyncLocks

    async def __aenter__(self) -> AsyncTodo | Done:
        """Do it, or wait until it is done."""
        self._claim()
        try:
            here = self._connection is not None
            entered = await (self._begin_here() if here else self._begin())
        except BaseException:
            self._free.append(True)
            raise
        if isinstance(entered, Done):
            self._free.append(True)
            return entered
        self._entered = entered
        return AsyncTodo(entered.held)

    async def __aexit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Record that it is done, unless the body raised; and give the lock back."""
        entered = self._leave()
        if entered is None:
            return
        if isinstance(entered.held, Grip):
            if kind is None:
                _here.check(self._connection, awaited=True)
                await _adrive(self._connection, _here.finish(entered.run))
            return
        try:
            if kind is None:
                await self._record(entered)
        except BaseException:
            self._let_go_soon(entered.held)
            raise
        for error in await self._client._let_go_all([entered.held]):
            if body is not None:  # what was recorded stays so, whatever became of the lock
                join_errors(body, error)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R | None]]:
        """Do `function` once: a call waits until it is done, and returns None if others did it."""
        refuse_generator(function)
        if not inspect.iscoroutinefunction(function):
            msg = f"{function!r} is not async: decorate it with Locks' once"
            raise ConfigError(msg)

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
            async with AsyncOnce(
                self._client, self._want, wait=self._wait, connection=self._connection
            ) as todo:
                return await function(*args, **kwargs) if todo else None

        return wrapper

    # -- on a session of ours ----------------------------------------------------------------------

    async def _begin(self) -> Entered | Done:
        client, want = self._client, self._want
        client._check_open()
        loop = client._bind().loop
        deadline = None if self._wait is None else loop.time() + self._wait
        done = await self._look(deadline)
        if done is not None:
            return done
        holding = client._hold_by(
            deadline,
            want.lock,
            wait=self._wait,
            shared=False,
            reentrant=False,
            owner=asyncio.current_task(loop),
        )
        watched = _observe.awatch((client, want.lock), {}, holding) if _observe.on() else holding
        held = await watched
        try:
            begun = await self._ask(held, _plan.begin(self._name, want.per, held.key))
            if isinstance(begun, Run):
                held._ticket.token = begun.token
                return Entered(held, begun)
        except BaseException:
            self._let_go_soon(held)
            raise
        for error in await client._let_go_all([held]):
            raise error
        return begun

    def _let_go_soon(self, held: AsyncHeld) -> None:
        """Give the lock back; nobody waits for what the server says."""
        with contextlib.suppress(LockError):
            self._client._let_go_soon(held)

    async def _look(self, deadline: float | None) -> Done | None:
        """Ask before the lock is asked for: mostly it was done long ago."""
        client, want = self._client, self._want
        sessions = client._bind()
        soon = client._at_least(deadline, sessions.loop.time() + _plan.A_LOOK)
        try:
            await client._key(want.lock, soon)  # a name that cannot be one is refused here
            session = sessions.shared or await sessions.connect(soon)
            return await by(soon, session.fetch(_plan.look(self._name, want.per)))
        except Expired:
            raise await client._timed_out(want.lock, self._wait or 0.0) from None
        except Refused as refusal:
            raise _plan.refused(refusal) from None
        except SessionLost:
            return None  # whoever has the lock looks again

    async def _ask(self, held: AsyncHeld, plan: SessionPlan[R]) -> R:
        try:
            return await self._client._beside(held._ticket.session, plan)
        except SessionLost:
            raise self._client._lost(held._ticket) from None
        except Refused as refusal:
            raise _plan.refused(refusal) from None

    async def _record(self, entered: Entered) -> None:
        held, name = entered.held, self._name
        ticket = held._ticket
        if ticket.state is FORKED:
            return  # it is the parent's
        if held.lost:
            raise _plan.unrecorded(name, self._client._lost(ticket))
        try:
            recorded = await self._client._beside(ticket.session, _plan.mark(entered.run))
        except SessionLost as error:
            raise _plan.in_doubt(name, error) from None
        except DatabaseUnavailable as error:
            raise _plan.in_doubt(name, error) from error
        except Refused as refusal:
            raise _plan.unrecorded(name, _plan.refused(refusal)) from None
        if not recorded:
            raise _plan.overtaken(name)

    # -- in the caller's transaction ---------------------------------------------------------------

    async def _begin_here(self) -> Entered | Done:
        client, want, connection = self._client, self._want, self._connection
        client._check_open()
        _here.check(connection, awaited=True)
        key = _here.key_of(client, want, connection)
        try:
            begun = await _adrive(connection, _here.begin(self._name, want, key, self._wait))
        except Missing:
            await self._make_table()
            try:
                begun = await _adrive(connection, _here.begin(self._name, want, key, self._wait))
            except Missing:
                raise self._absent() from None
        if isinstance(begun, Done):
            return begun
        return Entered(Grip(connection, want, key, begun), begun)

    async def _make_table(self) -> None:
        """Make it where the client is connected: the caller's transaction is no place for that."""
        sessions = self._client._bind()
        session = sessions.shared or await sessions.connect(None)
        try:
            await self._client._beside(session, _schema.prepare(_schema.ONCE))
        except Refused as refusal:
            raise _plan.refused(refusal) from None
        except SessionLost as error:
            raise session_ended(error) from None
