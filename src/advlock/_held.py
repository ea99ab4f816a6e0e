"""What a client hands out: the hold on a lock, and the ways to enter one."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from advlock import _label, _observe
from advlock._ledger import FORKED, HELD, LOST
from advlock.errors import ConfigError, LockError, LockNotHeld

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from advlock._key import Key, Name
    from advlock._ledger import Ticket
    from advlock._locks import Locks

log = logging.getLogger("advlock")
P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H")


class BaseHeld:
    """What a hold knows about itself, in both worlds."""

    __slots__ = ("__weakref__", "_client", "_open", "_ticket")

    tells = True  # whether its loss is news to whoever holds it

    def __init__(self, client: Any, ticket: Ticket) -> None:
        self._client = client
        self._ticket = ticket
        self._open = True

    def __repr__(self) -> str:
        """Show the name, the key and the state."""
        ticket = self._ticket
        state = ticket.state.value if self._open else "released"
        if self._open and ticket.state is HELD and not ticket.session.vouches():
            state = LOST.value  # whoever talks to the server is yet to book it
        return f"<advlock.{type(self).__name__} {ticket.name!r} {self.key} [{state}]>"

    def __del__(self) -> None:
        # Reached with the lock still held only if an exception fell between the grant and the
        # `with` body, or if a handle was dropped. The client releases it, from a thread or loop
        # of its own: a finalizer may run anywhere, also inside the client.
        if getattr(self, "_open", False) and self._ticket.state is HELD:
            self._client._drop(self._ticket)
            warnings.warn(f"{self!r} was never released", ResourceWarning, stacklevel=2)

    def _parts(self) -> list[BaseHeld]:
        """List what is released together."""
        return [self]

    @property
    def name(self) -> Name:
        """The name as it was asked for."""
        return self._ticket.name  # type: ignore[return-value]

    @property
    def key(self) -> Key:
        """What the server locked for that name."""
        return self._ticket.key

    @property
    def since(self) -> datetime:
        """When the lock was granted, by this host's clock, in UTC."""
        return _label.moment(self._ticket.since)

    @property
    def lost(self) -> bool:
        """Whether the lock must not be believed in any more. Never waits for the server.

        Looks at the socket and at the clock. False means that the server confirmed the session
        within the client's time of trust, so it cannot have given the lock to anybody else, but
        for a server that was restarted, replaced or told to end the session while the network
        between us was down. Once True it stays True. May be asked anywhere, also by a signal
        handler in the middle of another call; the rest of a client may not, and then says so.
        """
        ticket = self._ticket
        if ticket.state is HELD:
            # A client that is being closed lets go first, and hears of it later.
            session, closed = ticket.session, self._client._closed
            return closed or not (session.vouches() and session.looks_alive())
        return ticket.state in (LOST, FORKED)

    def check(self) -> None:
        """Raise if the lock is known to be lost; a good last step before a side effect.

        Raises:
            LockLost: the session ended, so somebody else may hold the lock.
            LockNotHeld: it was released.
        """
        if self.lost:
            raise self._client._lost(self._ticket)
        if self._ticket.state is not HELD:
            msg = f"{self.name!r} is not held any more"
            raise LockNotHeld(msg)

    def on_lost(self, callback: Callable[[Self], object]) -> None:
        """Have `callback(held)` called, once, when the lock is lost; at once if it already is.

        `Locks` calls it from a thread of its own, `AsyncLocks` from its event loop, where it must
        not wait. What it raises is logged.
        """
        ticket = self._ticket
        if ticket.on_lost is None:
            ticket.on_lost = []
        # Weakly: a hold that is dropped must be released, though somebody wants news of it.
        ticket.on_lost.append(functools.partial(_tell, callback, weakref.ref(self)))
        if ticket.state is LOST:
            _call_back(ticket)


def _tell(callback: Callable[[Any], object], held: weakref.ref[BaseHeld]) -> None:
    if (one := held()) is not None:
        callback(one)


def _call_back(ticket: Ticket) -> None:
    # `list.pop` is atomic: of two threads that find out, only one calls.
    with contextlib.suppress(IndexError):
        while ticket.on_lost:
            callback = ticket.on_lost.pop(0)
            try:
                callback()
            except (Exception, SystemExit):
                log.exception(
                    "an on_lost callback failed", extra={"event": "lock.lost.callback_failed"}
                )


def tell_lost(client: Any, tickets: list[Ticket], call: Callable[..., object]) -> None:
    """Tell the holders of `tickets` that they are lost.

    Args:
        client: Whose they were. If it was closed, it has ended the session itself.
        tickets: What was lost. It is empty afterwards: of two that tell, each ticket is told once.
        call: Has a function called, each time apart from everything else: no holder's callback
            keeps the news from another.
    """
    while True:
        try:
            ticket = tickets.pop(0)
        except IndexError:
            return
        if client._closed:
            _observe.released(client, ticket, by="close")
        elif ticket.key.seed >= 0:  # below, a semaphore's slot goes with it
            _observe.lost(client, ticket, ticket.session.why)
        if ticket.on_lost:
            call(_call_back, ticket)


class Held(BaseHeld):
    """A lock that this process holds, as far as it knows."""

    __slots__ = ()
    __module__ = "advlock"

    def token(self) -> int:
        """Return this hold's fencing token: greater than that of every earlier holder.

        A positive integer that fits a bigint. It is drawn on first use and then remembered,
        because a transaction id a hold would be a wraparound a day. Write it with what the lock
        protects, and refuse smaller ones: `UPDATE … SET fence = :token WHERE fence < :token`.

        Raises:
            LockLost: the lock was lost before a token was drawn.
            LockNotHeld: it was released before a token was drawn.
            LockError: the database's sequence of tokens is there, but not for this role.
        """
        token: int = self._client._token(self._ticket)
        return token


class Entry(Generic[H]):
    """One way into a lock: a context manager to enter once at a time, and a decorator."""

    __slots__ = ("_client", "_free", "_held", "_name", "_reentrant", "_shared", "_wait")

    def __init__(
        self,
        client: Any,
        name: Any,
        *,
        wait: float | None = None,
        shared: bool = False,
        reentrant: bool = False,
    ) -> None:
        self._client = client
        self._name = name
        self._wait = wait
        self._shared = shared
        self._reentrant = reentrant
        self._held: H | None = None
        # `list.pop` is the atomic test-and-set: two threads may not be inside one Entry.
        self._free = [True]

    def _claim(self) -> None:
        try:
            self._free.pop()
        except IndexError:
            msg = (
                f"this lock context for {self._name!r} is already entered; call hold() or "
                f"attempt() again for each use (a decorated function does so by itself)"
            )
            raise RuntimeError(msg) from None

    def _again(self) -> Self:
        return type(self)(
            self._client,
            self._name,
            wait=self._wait,
            shared=self._shared,
            reentrant=self._reentrant,
        )


class _SyncEntry(Entry[H]):
    __slots__ = ()

    _client: Locks

    def _enter(self) -> H:
        raise NotImplementedError

    def __enter__(self) -> H:
        self._claim()
        try:
            held = self._held = self._enter()
        except BaseException:
            self._free.append(True)
            raise
        return held

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        self._free.append(True)
        for error in self._client._let_go_all(each(held)):
            body = join_errors(body, error)
        if kind is None and body is not None:
            raise body

    def _around(self, function: Callable[P, R]) -> Callable[P, Any]:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            msg = f"{function!r} is async: decorate it with AsyncLocks' hold or attempt"
            raise ConfigError(msg)
        refuse_generator(function)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
            with self._again() as held:
                return None if held is None else function(*args, **kwargs)

        return wrapper


class Hold(_SyncEntry[Held]):
    """`Locks.hold`: enters when granted."""

    __slots__ = ()

    def _enter(self) -> Held:
        return self._client._hold(
            self._name, wait=self._wait, shared=self._shared, reentrant=self._reentrant
        )

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Hold the lock around each call of `function`."""
        return self._around(function)


class Attempt(_SyncEntry["Held | None"]):
    """`Locks.attempt`: enters at once, with a `Held` or None."""

    __slots__ = ()

    def _enter(self) -> Held | None:
        return self._client._attempt(self._name, shared=self._shared, reentrant=self._reentrant)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Hold the lock around each call of `function`; skip it, with None, where it is busy."""
        return self._around(function)


class HoldAll(_SyncEntry["list[Held]"]):
    """`Locks.hold_all`: enters when every lock is granted."""

    __slots__ = ()

    def _enter(self) -> list[Held]:
        from advlock._all import hold_all  # noqa: PLC0415 - it is made of what is here

        return hold_all(self._client, self._name, wait=self._wait)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Hold the locks around each call of `function`."""
        return self._around(function)


def each(held: Any) -> list[Any]:
    if held is None:
        return []
    return held[::-1] if isinstance(held, list) else held._parts()


def join_errors(body: BaseException | None, error: LockError) -> BaseException:
    """Keep the body's own exception on top; what went wrong at the release is a note to it."""
    if body is None:
        return error
    body.add_note(f"advlock, while releasing: {error}")
    return body


def refuse_generator(function: Callable[..., object]) -> None:
    """Refuse what would hold the lock only while the generator is made, not while it runs."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = f"{function!r} is a generator: use `with locks.hold(…):` inside it instead"
        raise ConfigError(msg)
