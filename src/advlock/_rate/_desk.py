"""Where the requests of one client for one limit queue, in both worlds."""

from __future__ import annotations

import os
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from advlock._plan import Refused
from advlock._rate._plan import AHEAD, LOCK, MISSING, UNPREPARED, Asked, ask, sweeps
from advlock._rate._rate import Permit
from advlock._wire import Wire
from advlock.errors import ConfigError, RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._client import Client
    from advlock._plan import SessionPlan
    from advlock._rate._plan import Answer
    from advlock._rate._rate import Rate

    Plan = Callable[[Any, int], SessionPlan[tuple[list[Answer], int]]]

_MOST_AT_ONCE: Final = 200
_REST: Final = 60.0  # seconds
_PREPARED_TWICE: Final = "42P05"
# The sessions that have the statement, which no pooler has lent.
_prepared: weakref.WeakSet[Any] = weakref.WeakSet()


class Request:
    """What one caller wants.

    Attributes:
        n: How many permits.

        deadline: When the caller gives up, in the shell's time; None for never.

        patient: Whether to wait at all.

        granted: None while it is undecided.

        due: When its permits are good, or when to ask again, in the shell's time.

        answered: Whether the server has said so.
    """

    __slots__ = ("answered", "deadline", "due", "granted", "n", "patient")

    def __init__(self, n: int, deadline: float | None, *, patient: bool) -> None:
        self.n = n
        self.deadline = deadline
        self.patient = patient
        self.granted: bool | None = None
        self.due = 0.0
        self.answered = False

    def ahead(self, now: float) -> float:
        """How long before they are good, in seconds, its permits may be granted."""
        if not self.patient:
            return 0.0
        return AHEAD if self.deadline is None else max(0.0, min(AHEAD, self.deadline - now))

    def wake_at(self) -> float:
        """When to ask again: early enough to be granted ahead of time, but not all at once."""
        return self.due - AHEAD * random.uniform(0.4, 0.9)  # noqa: S311 - jitter

    def is_due(self, now: float) -> bool:
        """Whether it is worth asking; not so where another caller has just done so for it."""
        return self.granted is None and self.due - AHEAD <= now

    def give_up(self, now: float) -> None:
        """Refuse it if the caller has waited for long enough."""
        if self.granted is None and self.deadline is not None and now >= self.deadline:
            self.granted = False

    def permit(self, now: float) -> Permit:
        """What to tell the caller."""
        granted = bool(self.granted)
        return Permit(
            self.n, granted=granted, retry_after=0.0 if granted else max(0.0, self.due - now)
        )


class Desk:
    """Where the requests of one client for one limit queue. Whoever has the turn asks for all.

    Attributes:
        loop: The event loop, if there is one.

        turn: Whose turn it is: a lock of the shell's kind.

        swept: Up to which number this client has removed expired permits.
    """

    def __init__(self, rate: Rate, loop: object, turn: Any) -> None:
        self.rate = rate
        self.loop = loop
        self.turn = turn
        self.swept = 0
        self._rests_until = 0.0  # so long nothing is removed
        self._queue: list[Request] = []
        self._mutex = threading.Lock()

    def sweeps(self, answers: Sequence[Answer], now: float) -> bool:
        """Whether to remove what has expired; `note_swept` ends it.

        Not again soon after that went wrong, as it does where a long transaction keeps too many of
        those that were removed before: it takes time that others wait for.
        """
        chosen = any(answer.granted for answer in answers) and sweeps()
        if not chosen or now < self._rests_until:
            return False
        self._rests_until = now + _REST
        return True

    def note_swept(self, swept: int, well: bool) -> None:  # noqa: FBT001 - as `_plan.sweep` has it
        """Note what was removed, and whether that went well."""
        self.swept = swept
        if well:
            self._rests_until = 0.0

    def enter(self, request: Request) -> None:
        """Queue up."""
        with self._mutex:
            self._queue.append(request)

    def leave(self, request: Request) -> None:
        """Leave the queue, if it is still in there."""
        with self._mutex:
            if request in self._queue:
                self._queue.remove(request)

    def batch(self) -> list[Request]:
        """Return whom to ask for, in order: no more permits than are ever to be had at once."""
        batch: list[Request] = []
        left = self.rate.limit
        with self._mutex:
            for request in self._queue[:_MOST_AT_ONCE]:
                if request.n > left:
                    break
                left -= request.n
                batch.append(request)
        return batch

    def settle(self, batch: Sequence[Request], answers: Sequence[Answer], now: float) -> None:
        """Hand out the answers, which came at `now`. Those behind `batch` come after it."""
        with self._mutex:
            due = now
            for request, answer in zip(batch, answers, strict=True):
                due = now + answer.after
                _settle(request, due, granted=answer.granted)
            if answers and not answers[-1].granted:
                for request in self._queue:
                    if request not in batch:
                        _settle(request, due, granted=False)
            self._queue = [request for request in self._queue if request.granted is None]


def _settle(request: Request, due: float, *, granted: bool) -> None:
    request.due, request.answered = due, True
    if granted:
        request.granted = True
    elif not request.patient or (request.deadline is not None and due > request.deadline):
        request.granted = False


def desk_of(client: Client, name: str, rate: Rate, loop: object, turn: Callable[[], Any]) -> Desk:
    """Return the desk that a client's requests for one limit share; a fork has its own."""
    desks = vars(client).setdefault("_desks", weakref.WeakValueDictionary())
    place = (name, rate, id(loop), os.getpid())
    desk: Desk | None = desks.get(place)
    if desk is None or desk.loop is not loop:
        desk = desks[place] = Desk(rate, loop, turn())
    return desk


def asking(desk: Desk, batch: Sequence[Request], now: float) -> Plan:
    """Make the plan that asks for a batch, for whatever session it will be."""
    wants = tuple(request.n for request in batch)
    aheads = tuple(request.ahead(now) for request in batch)

    def plan(session: Any, key: int) -> SessionPlan[tuple[list[Answer], int]]:
        # What a pooler lends is not ours to prepare anything on.
        prepared = session in _prepared if type(session.wire) is Wire else None
        try:
            answer = yield from ask(desk.rate, Asked(key, wants, aheads), prepared=prepared)
        except Refused as refusal:
            if refusal.rows:
                _prepared.add(session)  # it went wrong later
            raise
        _prepared.add(session)
        return answer

    return plan


def is_ready(client: Client) -> bool:
    """Whether this client has seen the table."""
    return bool(vars(client).get("_rate_ready"))


def note_ready(client: Client, *, there: bool) -> None:
    """Note that the table is there, or is gone."""
    vars(client)["_rate_ready"] = there


class Tries:
    """What is worth another try, once each."""

    def __init__(self) -> None:
        self._left = {"session", *MISSING, UNPREPARED, _PREPARED_TWICE}

    def again(self, why: str = "session") -> bool:
        """Whether to try again for this reason."""
        there = why in self._left
        self._left.discard(why)
        return there

    def mended(self, client: Client, session: Any, refusal: Refused) -> bool:
        """Note what a refusal means for the next try; tell whether there is to be one."""
        if refusal.sqlstate in MISSING:
            note_ready(client, there=False)
        elif refusal.sqlstate == UNPREPARED:
            _prepared.discard(session)
        elif refusal.sqlstate == _PREPARED_TWICE:
            _prepared.add(session)
        return self.again(refusal.sqlstate)


def checked(name: object) -> str:
    """Read the name of a limit.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the name of a rate limit is a text, not {name!r}")
    return name


def refused(name: str, rate: Rate, permit: Permit, wait: float) -> RateLimited:
    """Make the error of a wait that is not long enough."""
    permits = "a permit" if permit.n == 1 else f"{permit.n} permits"
    return RateLimited(
        f"no {permits.removeprefix('a ')} of {name!r} ({rate}) within {wait:g} s; retry after "
        f"{permit.retry_after:.3f} s",
        name=name,
        limit=rate.limit,
        per=rate.per,
        wait=wait,
        retry_after=permit.retry_after,
    )


def lock_of(name: str) -> str:
    """The name of the lock under which a limit decides."""
    return LOCK + name


def role_of(session: Any) -> str:
    """Who we are to the server."""
    return str(session.wire.pgconn.user.decode("utf-8", "replace"))
