"""What leaders and their terms know in both worlds."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from advlock import _observe
from advlock._held import BaseHeld, _call_back
from advlock._leader._plan import Pace, campaign
from advlock._ledger import HELD, LOST, RELEASING
from advlock.errors import (
    ConfigError,
    DatabaseUnavailable,
    LockError,
    LockLost,
    LockNotHeld,
    UnsafeServer,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from advlock._client import Client
    from advlock._holder import Holder
    from advlock._key import Name
    from advlock._ledger import Ticket
    from advlock._plan import ClientPlan

CLOSED = "the leader was closed"
SOON = 0.01  # seconds between two looks at what is bound to happen
LOOK = 0.5  # seconds between two looks, in a pause, at the client: closing it wakes nobody here
RESIGNED = "the leader resigned"


class BaseTerm(BaseHeld):
    """A hold that may also end because its leader gives it up."""

    __slots__ = ("_began", "_leader", "_why")

    def __init__(self, client: Any, ticket: Ticket, leader: Any, began: float) -> None:
        super().__init__(client, ticket)
        self._leader = leader
        self._began = began
        self._why: str | None = None  # it is to end, though the lock was not lost

    @property
    def lost(self) -> bool:
        """Whether this term is over, and its work has to stop. Never waits.

        The lock was lost (see `Held.lost`), or `resign` or `close` of the leader was called: then
        nobody else leads before the body has ended. Once True it stays True.
        """
        return self._why is not None or super().lost

    def check(self) -> None:
        """Raise if the term is over; a good last step before a side effect.

        Raises:
            LockLost: the lock was lost, or the leader has resigned.
            LockNotHeld: the body has ended before.
        """
        if self._why is None:
            super().check()
        elif not self._open:
            msg = f"{self.name!r} is not led any more"
            raise LockNotHeld(msg)
        else:
            msg = f"the term as leader of {self.name!r} is over: {self._why}; stop its work"
            raise LockLost(msg, name=self.name, key=self.key)

    def on_lost(self, callback: Callable[[Self], object]) -> None:
        """Have `callback(term)` called, once, when the term is over; at once if it already is.

        As `Held.on_lost`, and also when the leader resigns or is closed.
        """
        super().on_lost(callback)
        if self._why is not None:
            _call_back(self._ticket)


class BaseLeader:
    """The part of a leader that neither waits nor talks to the server."""

    def __init__(self, client: Any, name: Name, pause: float) -> None:
        if pause < 0:
            msg = f"pause must be 0 or more seconds, not {pause!r}"
            raise ConfigError(msg)
        self._client: Any = client
        self._name = name
        self._pace = Pace(pause)
        self._closed = False
        self._away = False  # so that an outage is told once
        self._term: Any = None
        self._leaving: Ticket | None = None  # of the last term that was ended, or left
        # Whose turn it is: one campaign at a time. `dict.setdefault` is an atomic test-and-set
        # that may be made again, after a signal handler has raised in the middle of it.
        self._turn: dict[str, object] = {}

    def __repr__(self) -> str:
        """Show the name and the state."""
        state = "closed" if self._closed else "leading" if self.leading else "standing by"
        return f"<advlock.{type(self).__name__} {self._name!r} [{state}]>"

    @property
    def name(self) -> Name:
        """The name of what is led, and of its lock."""
        return self._name

    @property
    def leading(self) -> bool:
        """Whether we lead now, as far as we know. Never waits; see `Term.lost`."""
        term = self._term
        return term is not None and not term.lost

    @property
    def closed(self) -> bool:
        """Whether there will be no more terms."""
        return self._closed or self._client._closed

    def _has_turn(self, me: object) -> bool:
        return self._turn.get("owner") is me

    def _claim(self, me: object) -> None:
        if self._turn.setdefault("owner", me) is not me:
            self._refuse()

    def _refuse(self) -> NoReturn:
        msg = (
            f"this leader of {self._name!r} campaigns or leads already; call locks.leader() once "
            f"more for each loop of its own"
        )
        raise RuntimeError(msg)

    def _give_back(self, me: object) -> None:
        """End the turn of `me`, and what it still has. May be called again, from a finalizer."""
        if self._has_turn(me):
            self._undo()
            self._turn.clear()

    def _plan(self, ticket: Ticket) -> ClientPlan[bool]:
        away = partial(_is_away, self._client)
        return campaign(ticket, over=lambda: self.closed, away=away)

    def _is_leaving(self) -> bool:
        ticket = self._leaving
        return ticket is not None and ticket.state in (HELD, RELEASING)

    def _undo(self) -> None:
        """Let go, without waiting for it, of a term that was left. May be called again.

        Nothing is taken out before it is where it belongs: a signal handler may raise in between.
        """
        if (term := self._term) is not None:
            self._leaving = term._ticket
            term._open = False
            self._pace.given_up(time.monotonic())
            lost = term._ticket.state is LOST
            self._term = None
            self._later(self._tell_left, lost)
        if (ticket := self._leaving) is not None and ticket.state is HELD:
            self._client._drop(ticket)

    def _later(self, function: Callable[..., object], *args: object) -> None:
        """Have `function` called by somebody else: what logs must not do so in a finalizer."""
        raise NotImplementedError

    def _tell_left(self, lost: bool) -> None:  # noqa: FBT001
        if lost:
            self._tell(logging.WARNING, "leader.lost", "lost the lead of %r")
        else:
            self._tell(logging.INFO, "leader.resigned", "leading %r no more")

    # -- what is told ----------------------------------------------------------------------------

    def _campaigning(self) -> None:
        if _observe.on():
            self._tell(logging.DEBUG, "leader.campaigning", "campaigning for %r")

    def _elected(self, term: BaseTerm) -> None:
        self._term, self._away = term, False
        self._tell(logging.INFO, "leader.elected", "leading %r")

    def _ended(self, term: BaseTerm, now: float, loss: LockError | None) -> None:
        if loss is None:
            self._pace.given_up(now)
            self._tell(logging.INFO, "leader.resigned", "leading %r no more")
            return
        self._pace.lost(now, now - term._began)
        self._tell(logging.WARNING, "leader.lost", "lost the lead of %r; campaigning again")

    def _trouble(self, error: LockError, now: float) -> None:
        """Take note that there is no session; raise `error` if there never was one."""
        known = isinstance(error, DatabaseUnavailable | UnsafeServer)
        if not known or self._client._server is None:
            raise error
        self._pace.refused(now)
        if not self._away:
            self._away = True
            what = "campaigning for %r without a database until it is back: %s"
            self._tell(logging.WARNING, "leader.unavailable", what, error)

    def _tell(self, level: int, event: str, message: str, *more: object) -> None:
        facts = {"event": event, "lock": self._name}
        _observe.tell(level, facts, message, self._name, *more)

    def _no_term(self) -> NoReturn:
        self._client._check_open()
        msg = f"there is no term as leader of {self._name!r}: {CLOSED}; make a new one"
        raise LockError(msg)


def leave(one: Any) -> None:
    """End the turn of a loop, or a block, that is dropped: once more if that is interrupted."""
    if (me := getattr(one, "_me", None)) is None:
        return  # it was interrupted before it was anything
    try:
        one._leader._give_back(me)
    except BaseException:
        one._leader._give_back(me)
        raise


def leading(holders: list[Holder]) -> Holder | None:
    """Pick out who leads."""
    return next((holder for holder in holders if not holder.waiting), None)


def _is_away(client: Client) -> bool:
    """Whether no session to wait on means no database, and not the end of a budget."""
    sessions: Any = client._sessions  # type: ignore[attr-defined]
    room = len(sessions._dedicated) + 1 < client.max_connections
    pooled = client._pooler is not None
    return client._server is not None and sessions.shared is None and room and not pooled
