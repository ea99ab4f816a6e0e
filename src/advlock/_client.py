"""What the two clients share: their settings, their books, and the words of their errors."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from advlock import _connect, _dsn, _duration, _recording
from advlock._duration import brief
from advlock._grace import GRACE, at_least, grace
from advlock._key import Key, Scheme, pg_encoding
from advlock._ledger import FORKED, HELD, LOST, Ledger, Ticket
from advlock._liveness import LIVENESS, LONGEST, SHORTEST_LEASE, SHORTEST_LIVENESS, Bounds
from advlock._names import Names as UsedNames
from advlock._plan import Waited, judge_failed_wait
from advlock.errors import (
    ConfigError,
    DatabaseUnavailable,
    LockError,
    LockLost,
    LockNotHeld,
    LockTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import timedelta
    from pathlib import Path
    from typing import TypeAlias

    from advlock._connecting import Connected
    from advlock._holder import Holder
    from advlock._inspect._tree import Snapshot
    from advlock._key import Name
    from advlock._liveness import Pulse
    from advlock._plan import Refused, SessionPlan
    from advlock._pooling import Verdict
    from advlock._registry._names import Names
    from advlock._registry._registry import Registry
    from advlock._set_up import Identity

    Seconds: TypeAlias = float | str | timedelta | None
    Liveness: TypeAlias = float | str | timedelta

# How long a pooler may let a waiter wait for a session, and a pool counts as used up; in seconds.
_POOLER_S_PATIENCE: Final = 0.5
POOL_STAYS_FULL: Final = 10.0
_MOST_KNOWN: Final = 4096
_SCHEMES: Final = get_args(Scheme)
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """The part of a client that neither waits nor talks to the server."""

    _grace = GRACE  # how long the server's word may take to reach us, in seconds
    _full_until = 0.0  # so long a pooler is not asked for sessions to wait on
    _renew: Callable[[], _dsn.Dsn] | None = None  # the address of this moment, where it changes

    def __init__(  # noqa: PLR0913 - the settings of a client, all named
        self,
        dsn: str | None = None,
        *,
        namespace: str | None = None,
        keys: Scheme | None = None,
        max_connections: int = 4,
        max_locks: int = 1000,
        application_name: str | None = None,
        liveness: Liveness = LIVENESS,
        lease: Seconds = None,
        registry: Registry | str | Path | Literal[True] | None = None,
        strict: bool = False,
    ) -> None:
        _check(isinstance(namespace, str | None), f"namespace must be a string, not {namespace!r}")
        schemes = ", ".join(_SCHEMES)
        _check(keys in (None, *_SCHEMES), f"keys must be one of {schemes}, not {keys!r}")
        _check_count("max_connections", max_connections)
        _check_count("max_locks", max_locks)
        self._names = names = _names(registry, strict=strict, namespace=namespace, keys=keys)
        self.namespace = names.namespace if names else namespace or ""
        self.keys: Scheme = names.keys if names else keys or "hashtextextended"
        self.max_connections = max_connections
        self.max_locks = max_locks
        self._dsn = _dsn.resolve(dsn, given="the DSN")
        self._application_name = application_name
        self._bounds = _bounds(liveness, lease)
        self._conninfo()  # an address that cannot be read is refused now
        self._ledger = Ledger(max_locks)
        self._encoding: str | None = None
        self._known: dict[str, Key] = {}  # what names became, with these settings and encoding
        self._used = UsedNames()  # what they were, to be recorded
        self._can_wait_on_server = True
        self._server: Identity | None = None  # where we were connected last
        self._pooler: Verdict | None = None  # what stood in between
        self._pooler_may_differ = False  # since a session has ended
        self._pinned = False  # whether a transaction is around what holds locks
        self._closed = False
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        """Make what must not survive a fork: locks and sessions."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the address, without a password, and how many locks there are."""
        state = "closed" if self._closed else f"{len(self._ledger)} in use"
        return f"<advlock.{type(self).__name__} {self._dsn} [{state}]>"

    def _ascii_key(self, name: Name) -> Key | None:
        """Make the key of `name`, if that needs no knowledge of the server's encoding."""
        if type(name) is str and (known := self._known.get(name)) is not None:
            return known
        key = self._new_key(name)
        if key is None:
            return None
        if type(name) is str:  # only those: `(1, True) == (1, 1)`
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[name] = key
        self._note(key)
        return key

    def _note(self, key: Key) -> None:
        """Note what a key is called, for others to read."""
        self._used.note(key)

    def _new_key(self, name: Name) -> Key | None:
        if self._names is not None:
            return self._names.key(name, self._encoding)
        encoded = isinstance(name, str) and not (self.namespace + name).isascii()
        if encoded and self._encoding is None:
            return None
        return Key.of(
            name,
            namespace=self.namespace,
            encoding=self._encoding or "utf-8",
            scheme=self.keys,
        )

    def _key_if_any(self, name: Name) -> Key | None:
        """Make the key of `name` for an error that is on its way, and no other error."""
        with suppress(LockError):
            return self._ascii_key(name)
        return None

    def _looking(
        self, names: Iterable[Name], used: Iterable[Key], *, all_databases: bool
    ) -> SessionPlan[Snapshot]:
        """Make the plan that looks at locks; once it is known how the server spells names.

        Args:
            names: Only these; all without it.
            used: The keys of our own locks, whose names we know.
            all_databases: Those of all databases.
        """
        from advlock._inspect._look import once  # noqa: PLC0415 - a client that only locks does not

        registry = self._names.registry if self._names is not None else None
        encoding = self._encoding or "utf-8"
        return once(
            names,
            all_databases=all_databases,
            registry=registry,
            namespace=self.namespace,
            encoding=encoding,
            used=used,
        )

    def _conninfo(self) -> str:
        # Made anew for each connection: its signature names this process, which may be a fork.
        if self._renew is not None:
            self._dsn = self._renew()
        return _connect.conninfo(self._dsn.conninfo, self._application_name, self._bounds)

    @property
    def _signs(self) -> bool:
        """Whether the sessions' `application_name` is ours to choose."""
        return _connect.signs(self._dsn.conninfo, self._application_name)

    @property
    def liveness(self) -> float:
        """Within so many seconds the server lets go of the locks of a host that vanished."""
        return self._bounds.liveness

    @property
    def lease(self) -> float | None:
        """Within so many seconds it lets go of a frozen process; None for never."""
        return self._bounds.lease

    def _at_least(self, deadline: float | None, now: float) -> float | None:
        return at_least(deadline, now, self._grace)

    def _meet(self, made: Connected, pulse: Pulse) -> bool:
        """Note where a new session leads to; tell whether those before it led elsewhere.

        Raises:
            DatabaseUnavailable: it is a former primary that we have seen replaced.
        """
        server = made.server
        known, moved = self._server, self._server not in (None, server)
        if known is not None and server.is_behind(known):
            raise DatabaseUnavailable(
                f"this server is on timeline {server.timeline}, and the last one was on "
                f"{known.timeline}: it is a former primary that was replaced. Take it out of the "
                f"DSN, or end it; if it is to be used again, make a new client"
            )
        self._server = server
        self._used.done = _recording.done_at(made.wire, server)
        self._pooler = made.pooler
        self._pooler_may_differ = False
        self._pinned = made.wire.pinned
        self._grace = grace(pulse.round_trip)
        self._learn_encoding(made.wire.parameter("server_encoding"))
        return moved

    def _pooler_still(self, *, connected: bool) -> Verdict | None:
        """What is known of the pooler, as far as it holds for a new session.

        Args:
            connected: Whether the session is there that it was found with. Without it the pooler
                may have been configured anew; pinning is right whatever it does.
        """
        known = self._pooler
        holds = known is not None and not self._pooler_may_differ and (known.pins or connected)
        return known if holds else None

    def _soon(self, now: float, deadline: float | None) -> float | None:
        """Until when a pooler may let a waiter wait for a session; None for no such limit.

        Until then nobody looks whether the lock is free.
        """
        soon = now + _POOLER_S_PATIENCE
        return None if self._pooler is None or (deadline and deadline <= soon) else soon

    def _learn_encoding(self, server_encoding: str) -> None:
        self._encoding = pg_encoding(server_encoding)
        self._known.clear()

    def _no_waiting(self, refusal: Refused) -> Waited:
        """Judge why the server would not let us wait."""
        verdict = judge_failed_wait(refusal)
        if verdict is Waited.IMPOSSIBLE:
            self._can_wait_on_server = False
        return verdict

    # -- fork ------------------------------------------------------------------------------------

    def _start_afresh(self) -> None:
        """In a forked child: no locks, no sessions; the parent keeps its own."""
        for ticket in self._ledger.tickets():
            ticket.state = FORKED
        self._ledger = Ledger(self.max_locks)
        self._disown_sessions()
        self._reset()

    def _disown_sessions(self) -> None:
        raise NotImplementedError

    # -- errors ----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            msg = f"this {type(self).__name__} is closed; make a new one"
            raise LockError(msg)

    def _lost(self, ticket: Ticket) -> LockLost:
        session = ticket.session
        why = session.why if session is not None else "its session ended"
        return LockLost(
            f"the lock {ticket.name!r} was lost: {why}. Somebody else may hold it by now, so do "
            f"not go on with what it protected",
            name=ticket.name,
            key=ticket.key,
        )

    def _believed(self, ticket: Ticket) -> Ticket:
        """Return a ticket that was granted; for a process that was stopped, too long ago.

        Raises:
            DatabaseUnavailable: nobody knows any more whether the server still holds it for us.
        """
        if ticket.session.vouches():
            return ticket
        raise DatabaseUnavailable(
            f"{ticket.name!r} was granted, but that was too long ago to be believed: "
            f"{ticket.session.why}; try again"
        )

    def _check_held(self, ticket: Ticket) -> None:
        if ticket.state is LOST:
            raise self._lost(ticket)
        if ticket.state is not HELD:
            msg = f"{ticket.name!r} is not held any more"
            raise LockNotHeld(msg)

    def _refuse_upgrade(self, ticket: Ticket) -> LockError:
        return LockError(
            f"{ticket.name!r} is already held here, but shared; it cannot become exclusive. "
            f"Release it first, or hold it exclusively from the start"
        )

    def _waits_for_itself(self, ticket: Ticket, who: str) -> LockError:
        return LockError(
            f"this {who} already holds {ticket.name!r} and would wait for itself for ever; pass "
            f"reentrant=True to hold it again, or wait=… to give up after a while"
        )


def names_of(names: Iterable[Name], example: str = "hold_all({})") -> tuple[Name, ...]:
    """Read several names.

    Raises:
        ConfigError: it is one name.
    """
    if isinstance(names, str):
        several = example.format([names])
        msg = f"hold_all takes several names: {several}, or hold({names!r}) for one"
        raise ConfigError(msg)
    return tuple(names)


def wait_seconds(wait: Seconds) -> float | None:
    """Read a `wait=`: None for ever, else seconds.

    Raises:
        ConfigError: it is no duration.
    """
    return None if wait is None else _duration.seconds(wait)


def _bounds(liveness: Liveness, lease: Seconds) -> Bounds:
    def read(what: str, value: Liveness, least: float) -> float:
        seconds = _duration.seconds(value)
        _check(
            least <= seconds <= LONGEST,
            f"{what} must be between {brief(least)} and {brief(LONGEST)}, not {value!r}",
        )
        return seconds

    live = read("liveness", liveness, SHORTEST_LIVENESS)
    return Bounds(live, None if lease is None else read("lease", lease, SHORTEST_LEASE))


def timeout(
    name: Name, key: Key | None, wait: float, holders: Sequence[Holder], *, pinned: bool = False
) -> LockTimeout:
    """Make the error of a wait that was not long enough; it says who is in the way."""
    by = "; ".join(str(holder) for holder in holders if not holder.waiting)
    unknown = "the server could not say in time who holds it"
    if pinned:
        unknown += ", or the pooler had no server connection to give"
    return LockTimeout(
        f"{name!r} was not free within {wait:g} s: " + (f"held by {by}" if by else unknown),
        name=name,
        key=key,
        wait=wait,
        holders=holders,
    )


def _names(
    registry: Registry | str | Path | Literal[True] | None,
    *,
    strict: bool,
    namespace: str | None,
    keys: Scheme | None,
) -> Names | None:
    _check(isinstance(strict, bool), f"strict must be True or False, not {strict!r}")
    if registry is None:
        _check(not strict, "strict=True needs a registry: registry=True for the nearest file")
        return None
    from advlock._registry import _names  # noqa: PLC0415 - for those who have one

    found = _names.read(registry)
    return _names.Names(found, strict=strict, namespace=namespace, keys=keys)


def _check(good: bool, message: str) -> None:  # noqa: FBT001
    if not good:
        raise ConfigError(message)


def _check_count(name: str, value: Any) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    _check(good, f"{name} must be a whole number of at least 1, not {value!r}")


def _after_fork() -> None:
    for client in list(_clients):
        client._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
