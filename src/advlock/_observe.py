"""What is told of locks: to the log, and to whoever listens.

The rules of this file:

1. Nobody listens: then a hold pays for one look into a dictionary (`on`), and a release for a
   comparison with None.
2. One vocabulary. The facts of an event are what its log record has as attributes, and what a
   listener gets; docs/observe.md lists them.
3. What a listener or a handler of the log raises is logged, once, and never reaches a lock.
4. Of a hold that is told there is one beginning and one end; a hold that is entered again by its
   own thread or task is the same hold.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from advlock._ledger import FORKED, GONE, LOST
from advlock.errors import LockTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from advlock._client import Client
    from advlock._ledger import Ticket

    Facts: TypeAlias = dict[str, Any]
    Listener: TypeAlias = Callable[[Facts], object]

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("advlock")
DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING
_listeners: tuple[Listener, ...] = ()
_complained: set[int] = set()
# What `isEnabledFor` remembers until a level changes, which empties it: asking it costs a tenth of
# the call (3.11). Where there is no such dictionary, the call is made.
_levels: Final[dict[int, bool]] = getattr(log, "_cache", {})


def on() -> bool:
    """Whether anybody wants to know how locks come and go."""
    return bool(_listeners) or (_levels.get(DEBUG, True) and log.isEnabledFor(DEBUG))


def listen(listener: Listener) -> None:
    """Have `listener` called with the facts of each event, wherever that happens; a second: once.

    It is called in the thread or task of whoever uses the lock, and must not wait.
    """
    global _listeners  # noqa: PLW0603 - read without a lock, so it is replaced as a whole
    if listener not in _listeners:
        _listeners = (*_listeners, listener)


def unlisten(listener: Listener) -> None:
    """Call it no more."""
    global _listeners  # noqa: PLW0603
    _listeners = tuple(each for each in _listeners if each != listener)
    _complained.discard(id(listener))


def tell(
    level: int,
    facts: Facts,
    message: str,
    *args: object,
    to: logging.Logger = log,
    exc_info: BaseException | None = None,
) -> None:
    """Log an event, and tell it to all who listen. `facts["event"]` is its name."""
    try:
        if to.isEnabledFor(level):
            to.log(level, message, *args, extra=facts, exc_info=exc_info)
    except Exception as error:  # noqa: BLE001 - a filter of somebody's
        _complain(to, error)
    for listener in _listeners:
        try:
            listener(facts)
        except Exception as error:  # noqa: BLE001 - whatever it is, the lock goes on
            _complain(listener, error)


def _complain(about: object, error: Exception) -> None:
    if id(about) not in _complained:
        _complained.add(id(about))
        with contextlib.suppress(Exception):
            facts = {"event": "listener.failed"}
            log.error("%r failed; this is said once", about, exc_info=error, extra=facts)


def _safely(function: Callable[P, None]) -> Callable[P, None]:
    """Have what goes wrong in the telling itself told, too, and nothing else."""

    @functools.wraps(function)
    def safely(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the lock goes on
            _complain(function, error)

    return safely


# -- asking ----------------------------------------------------------------------------------------


class _Asking:
    """One request for locks, from its beginning to what came of it."""

    __slots__ = ("_began", "_client", "_name", "_patient", "_shared", "_whose")

    def __init__(self, of: tuple[Any, ...], how: dict[str, Any]) -> None:
        whose, what = of[:2]
        self._whose = whose
        self._client: Client = getattr(whose, "_client", whose)
        self._name = what if self._client is whose else whose._name
        self._shared = bool(how.get("shared"))
        # A leader is asked for its lead with the seconds that it may take.
        self._patient = bool(how.get("patient", self._client is not whose and what is not None))
        self._began = time.monotonic()

    @_safely
    def ended(self, got: Any) -> None:
        """Tell what came of it: holds, or nothing."""
        waited = time.monotonic() - self._began
        if got is None and getattr(self._whose, "closed", False):
            return self.failed(GeneratorExit())  # a leader that was closed
        if got is None and self._patient:
            return None  # `timed_out` tells that
        if got is None:
            facts = self._facts("lock.busy", waited, self._name, self._shared)
            return tell(DEBUG, facts, "lock %r is busy", self._name)
        for held in got if isinstance(got, list) else (got,):
            ticket: Any = getattr(held, "_ticket", held)  # a leader's is no hold yet
            if ticket.depth == 1:
                ticket.watched = (time.monotonic(), _backend_pid(self._client, ticket))
                facts = _facts(self._client, ticket, "lock.acquired", wait_ms=_ms(waited))
                tell(DEBUG, facts, "lock %r acquired after %.1f ms", ticket.name, facts["wait_ms"])
        return None

    @_safely
    def failed(self, error: BaseException) -> None:
        """Tell that it was not even answered, or not in time."""
        waited = time.monotonic() - self._began
        if isinstance(error, LockTimeout):
            return  # `timed_out` tells that
        what = {"error": type(error).__name__}
        for name, shared in self._each():
            if isinstance(error, Exception):
                facts = self._facts("lock.failed", waited, name, shared) | what
                tell(DEBUG, facts, "lock %r could not be asked for: %s", name, error)
            else:
                facts = self._facts("lock.cancelled", waited, name, shared) | what
                tell(DEBUG, facts, "nobody waits for lock %r any more", name)

    def _each(self) -> list[tuple[Any, bool]]:
        """List what was asked for, and whether to share it; several things by `hold_all`."""
        several = self._name
        if not hasattr(several, "alone"):
            return [(several, self._shared)]
        return [(each, False) for each in several.alone] + [(each, True) for each in several.shared]

    def _facts(self, event: str, waited: float, name: Any, shared: bool) -> Facts:  # noqa: FBT001
        key = self._client._key_if_any(name)
        facts = {
            "event": event,
            "lock": name,
            "key": None if key is None else key_text(key),
            "shared": shared,
            "wait_ms": _ms(waited),
            "server": _host(self._client._dsn.conninfo),
        }
        return facts | template(self._client, name)


def asks(function: Callable[P, R]) -> Callable[P, R]:
    """Tell what comes of a function that asks for locks: of a client, a semaphore or a leader.

    Its first parameter is whose lock it is, its second, of a client's, the name; it returns what
    holds the lock, or None where it is busy.
    """
    if inspect.iscoroutinefunction(function):
        return _async_asks(function)  # type: ignore[no-any-return]

    @functools.wraps(function)
    def asking(*args: P.args, **kwargs: P.kwargs) -> R:
        return watch(args, kwargs, function, *args, **kwargs)

    return asking


def _async_asks(function: Any) -> Any:
    # Not a coroutine of its own: every level of them costs.
    @functools.wraps(function)
    def asking(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        made: Awaitable[Any] = function(*args, **kwargs)
        return awatch(args, kwargs, made) if on() else made

    return asking


def watch(
    of: tuple[Any, ...], how: dict[str, Any], function: Callable[..., R], *args: Any, **kwargs: Any
) -> R:
    """Call a function that asks for a lock, and tell what comes of it.

    Args:
        of: Whose lock it is, and its name.
        how: What it may say of `shared`.
        function: The function.
        args: Its arguments.
        kwargs: Its named arguments.
    """
    if not on():
        return function(*args, **kwargs)
    asking = _Asking(of, how)
    got: Any = None
    try:
        got = function(*args, **kwargs)
        asking.ended(got)
    except BaseException as error:
        if got is not None:
            _drop(asking._client, got)
        asking.failed(error)
        raise
    return got  # type: ignore[no-any-return]


async def awatch(of: tuple[Any, ...], how: dict[str, Any], asked: Awaitable[R]) -> R:
    """Await what asks for a lock, and tell what comes of it; as `watch`."""
    asking = _Asking(of, how)
    try:
        got = await asked
    except BaseException as error:
        asking.failed(error)
        raise
    asking.ended(got)
    return got


def _drop(client: Any, got: Any) -> None:
    """Release what nobody will hear of: a signal came while it was told."""
    for held in got if isinstance(got, list) else (got,):
        if not hasattr(held, "_parts"):  # a leader's ticket
            client._drop(held)
            continue
        for part in held._parts():
            part._open = False
            client._drop(part._ticket)


@_safely
def waits(client: Client, ticket: Ticket) -> None:
    """Tell that a lock was not free at once; of a semaphore's queue its semaphore tells."""
    if on() and ticket.key.seed >= 0:
        facts = _facts(client, ticket, "lock.waiting")
        tell(DEBUG, facts, "waiting for lock %r", ticket.name)


def timed_out(client: Client, error: LockTimeout) -> LockTimeout:
    """Tell that a wait was not long enough, whether anybody is told of anything else or not."""
    _timed_out(client, error)
    return error


@_safely
def _timed_out(client: Client, error: LockTimeout) -> None:
    holders = [one for one in error.holders if not one.waiting]
    facts = {
        "event": "lock.timeout",
        "lock": error.name,
        "key": None if error.key is None else key_text(error.key),
        "wait_ms": _ms(error.wait or 0.0),
        "holder": str(holders[0]) if holders else None,
        "holder_pid": holders[0].pid if holders else None,
        "server": _host(client._dsn.conninfo),
    }
    tell(INFO, facts | template(client, error.name), "%s", error)


# -- the end of a hold -----------------------------------------------------------------------------


@_safely
def released(client: Client, ticket: Ticket, *, by: str = "holder") -> None:
    """Tell that a hold that was told has ended well; of any other nothing is told."""
    if ticket.watched is not None and ticket.key.seed >= 0:
        held_ms = _ms(time.monotonic() - ticket.watched[0])
        facts = _facts(client, ticket, "lock.released", held_ms=held_ms) | {"by": by}
        ticket.watched = None
        tell(DEBUG, facts, "lock %r released after %.1f ms", ticket.name, facts["held_ms"])


def let_go(client: Client, ticket: Ticket) -> None:
    """Tell the same of a ticket that may be held still, or be another process's."""
    if ticket.watched is not None and ticket.state is GONE:
        released(client, ticket, by="finalizer" if ticket.withdrawn else "holder")


def dropped(client: Client, ticket: Ticket) -> None:
    """Tell the same of a hold that nobody has in hand any more."""
    if ticket.depth == 1 and ticket.state not in (LOST, FORKED):
        released(client, ticket, by="finalizer")


@_safely
def lost(client: Client, ticket: Ticket, why: str) -> None:
    """Tell that a lock was lost; nobody loses what he has given up already."""
    if ticket.withdrawn:
        return released(client, ticket)
    held_ms = _ms(max(0.0, time.time() - ticket.since))
    facts = _facts(client, ticket, "lock.lost", held_ms=held_ms) | {"reason": reason(why)}
    ticket.watched = None
    return tell(WARNING, facts, "lock %r was lost: %s", ticket.name, why)


def ended(why: str | None) -> None:
    """Tell that a session is over."""
    tell(DEBUG, {"event": "session.ended"}, "session ended: %s", why)


_REASONS: Final = {
    "terminating connection": "terminated",
    "no word from": "silence",
    "no server connection": "silence",
    "another server": "moved",
    "did not hold": "not-held",
    "took the server session away": "pooler",
}


def reason(why: str) -> str:
    """Put a reason into one of a few words, which metrics can count by."""
    for part, word in _REASONS.items():
        if part in why:
            return word
    return "connection"


# -- the facts -------------------------------------------------------------------------------------


def _facts(client: Client, ticket: Ticket, event: str, **more: float) -> Facts:
    return (
        {
            "event": event,
            "lock": ticket.name,
            "key": key_text(ticket.key),
            "shared": ticket.shared,
            "backend_pid": ticket.watched[1] if ticket.watched is not None else None,
            "server": _host(client._dsn.conninfo),
        }
        | more
        | template(client, ticket.name)
    )


def _backend_pid(client: Client, ticket: Ticket) -> int | None:
    if client._pooler is not None:  # which makes the number up
        return None
    pid: int = ticket.session.wire.pgconn.backend_pid
    return pid


@functools.lru_cache(maxsize=16)
def _host(conninfo: str) -> str | None:
    """Where the server is, as far as the address says so; libpq's variables are left out."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - the driver is there by now

    host = conninfo_to_dict(conninfo).get("host")
    return str(host) if host else None


def template(client: Client, name: object) -> Facts:
    """Which template of the registry a name is made from, if it is."""
    if client._names is not None and isinstance(name, str):
        entry = client._names.registry.find(name)
        if entry is not None and entry.name != name and "{" in entry.name:
            return {"template": entry.name}
    return {}


def key_text(key: Any) -> str:
    parts = key.parts
    return ",".join(map(str, parts if isinstance(parts, tuple) else [parts]))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
