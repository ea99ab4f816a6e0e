"""`Locks.once`: a context manager and a decorator. Its twin is `_aentry.py`."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from advlock import _observe, _schema
from advlock._held import Held, join_errors, refuse_generator
from advlock._ledger import FORKED
from advlock._once import _here, _plan
from advlock._once._base import BaseOnce, Entered, session_ended
from advlock._once._done import Done, Run
from advlock._once._here import Grip, Missing
from advlock._once._todo import Todo
from advlock._plan import Expired, Refused, SessionLost
from advlock._xact import _drive
from advlock.errors import ConfigError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from advlock._locks import Locks
    from advlock._plan import SessionPlan

P = ParamSpec("P")
R = TypeVar("R")


class Once(BaseOnce):
    """`Locks.once`: enters with a `Todo`, or with a `Done` that is false."""

    __slots__ = ()

    _client: Locks

    def __enter__(self) -> Todo | Done:
        """Do it, or wait until it is done."""
        self._claim()
        try:
            entered = self._begin_here() if self._connection is not None else self._begin()
        except BaseException:
            self._free.append(True)
            raise
        if isinstance(entered, Done):
            self._free.append(True)
            return entered
        self._entered = entered
        return Todo(entered.held)

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Record that it is done, unless the body raised; and give the lock back."""
        entered = self._leave()
        if entered is None:
            return
        if isinstance(entered.held, Grip):
            if kind is None:
                _here.check(self._connection, awaited=False)
                _drive(self._connection, _here.finish(entered.run))
            return
        recorded = False
        try:
            if kind is None:
                self._record(entered)
                recorded = True
        finally:
            errors = self._client._let_go_all([entered.held])
        if not recorded:  # what was recorded stays so, whatever became of the lock
            for error in errors:
                join_errors(body, error)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Do `function` once: a call waits until it is done, and returns None if others did it."""
        if inspect.iscoroutinefunction(function):
            msg = f"{function!r} is async: decorate it with AsyncLocks' once"
            raise ConfigError(msg)
        refuse_generator(function)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
            with Once(
                self._client, self._want, wait=self._wait, connection=self._connection
            ) as todo:
                return function(*args, **kwargs) if todo else None

        return wrapper

    # -- on a session of ours ----------------------------------------------------------------------

    def _begin(self) -> Entered | Done:
        client, want = self._client, self._want
        client._check_open()
        deadline = None if self._wait is None else time.monotonic() + self._wait
        done = self._look(deadline)
        if done is not None:
            return done
        held = _observe.watch(
            (client, want.lock),
            {},
            client._hold_by,
            deadline,
            want.lock,
            wait=self._wait,
            shared=False,
            reentrant=False,
            owner=threading.current_thread(),
        )
        try:
            begun = self._ask(held, _plan.begin(self._name, want.per, held.key))
            if isinstance(begun, Run):
                held._ticket.token = begun.token
                return Entered(held, begun)
        except BaseException:
            client._let_go_all([held])
            raise
        for error in client._let_go_all([held]):
            raise error
        return begun

    def _look(self, deadline: float | None) -> Done | None:
        """Ask before the lock is asked for: mostly it was done long ago."""
        client, want = self._client, self._want
        soon = client._at_least(deadline, time.monotonic() + _plan.A_LOOK)
        try:
            client._key(want.lock, soon)  # a name that cannot be one is refused here
            session = client._sessions.shared or client._sessions.connect(soon)
            return session.fetch(_plan.look(self._name, want.per), soon)
        except Expired:
            raise client._timed_out(want.lock, self._wait or 0.0) from None
        except Refused as refusal:
            raise _plan.refused(refusal) from None
        except SessionLost:
            return None  # whoever has the lock looks again

    def _ask(self, held: Held, plan: SessionPlan[R]) -> R:
        try:
            return self._client._beside(held._ticket.session, plan)
        except SessionLost:
            raise self._client._lost(held._ticket) from None
        except Refused as refusal:
            raise _plan.refused(refusal) from None

    def _record(self, entered: Entered) -> None:
        held, name = entered.held, self._name
        ticket = held._ticket
        if ticket.state is FORKED:
            return  # it is the parent's
        if held.lost:
            raise _plan.unrecorded(name, self._client._lost(ticket))
        try:
            recorded = self._client._beside(ticket.session, _plan.mark(entered.run))
        except SessionLost as error:
            raise _plan.in_doubt(name, error) from None
        except DatabaseUnavailable as error:
            raise _plan.in_doubt(name, error) from error
        except Refused as refusal:
            raise _plan.unrecorded(name, _plan.refused(refusal)) from None
        if not recorded:
            raise _plan.overtaken(name)

    # -- in the caller's transaction ---------------------------------------------------------------

    def _begin_here(self) -> Entered | Done:
        client, want, connection = self._client, self._want, self._connection
        client._check_open()
        _here.check(connection, awaited=False)
        key = _here.key_of(client, want, connection)
        try:
            begun = _drive(connection, _here.begin(self._name, want, key, self._wait))
        except Missing:
            self._make_table()
            try:
                begun = _drive(connection, _here.begin(self._name, want, key, self._wait))
            except Missing:
                raise self._absent() from None
        if isinstance(begun, Done):
            return begun
        return Entered(Grip(connection, want, key, begun), begun)

    def _make_table(self) -> None:
        """Make it where the client is connected: the caller's transaction is no place for that."""
        sessions = self._client._sessions
        session = sessions.shared or sessions.connect(None)
        try:
            self._client._beside(session, _schema.prepare(_schema.ONCE))
        except Refused as refusal:
            raise _plan.refused(refusal) from None
        except SessionLost as error:
            raise session_ended(error) from None
