"""What a request looks like on a session that is pinned by a transaction. Pure, as `_plan` is.

A pooler in transaction mode lends a server session for one transaction, so whoever stays in one
keeps the session, and the locks on it (docs/why.md, 25). The rules:

1. The transaction begins together with the first request for a lock, on whatever server session
   the pooler has at hand: its settings are ours until it ends, and it is looked at each time.
2. It ends as soon as nothing is held, in the request that releases the last lock if that is known
   beforehand; and never while anything is held, or the lock would stay in the pool with nobody.
3. Every request ends in a return to the savepoint. Locks of the session are not taken back by
   that, but snapshots and locks on tables are: an idle transaction has neither, nor a transaction
   id, so VACUUM and CREATE INDEX CONCURRENTLY go on (tests/postgres/test_pinning.py).
4. A request that fails takes back nothing but itself, for the same reason.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from advlock import _set_up, _sql
from advlock._plan import Refused, Script, SessionLost, Step
from advlock.errors import UnsafeServer

if TYPE_CHECKING:
    from advlock._liveness import Bounds
    from advlock._plan import Rows, SessionPlan
    from advlock._set_up import Identity

R = TypeVar("R")
MOVED = "the database moved to another server"


class Place(Enum):
    """Where a pinned session is, between two requests."""

    OUTSIDE = "outside of a transaction"
    INSIDE = "in the transaction"
    FAILED = "in the transaction, after a request that failed"


class Moved(SessionLost):
    """A new session leads to another server than the one with the lock."""


class Request(NamedTuple):
    """A request as it is sent.

    Attributes:
        steps: All statements, in order.

        asked: Which of them were asked for; the others make it safe.

        facts: Which one says where the transaction has begun; None when it had begun before.

        leaves_to: Where the session is afterwards.
    """

    steps: tuple[Step, ...]
    asked: slice
    facts: int | None
    leaves_to: Place


_SAVEPOINT = Step(_sql.SAVEPOINT)
_RETURN = Step(_sql.ROLLBACK_TO_SAVEPOINT)
_KEEP = (Step(_sql.RELEASE_SAVEPOINT), _SAVEPOINT)
_END = (Step(_sql.UNLOCK_ALL), Step(_sql.COMMIT))


def compose(script: Script, place: Place, bounds: Bounds) -> Request:
    """Say what has to be sent for `script` to be carried out."""
    inside = script.locks or place is not Place.OUTSIDE
    if not inside:
        # There is nothing to free, and whose session answers nobody knows.
        steps = () if script.frees else script.steps
        return Request(steps, slice(len(steps)), None, Place.OUTSIDE)
    lead: tuple[Step, ...] = ()
    facts = None
    if place is Place.OUTSIDE:
        facts = len(_sql.OPENING)
        setting = Step(_sql.SET_UP, _set_up.settings(0, bounds))
        lead = (*map(Step, _sql.OPENING), setting, _SAVEPOINT)
    elif place is Place.FAILED:
        lead = (_RETURN,)
    tail = _END if script.frees else _KEEP if script.keeps else (_RETURN,)
    return Request(
        (*lead, *script.steps, *tail),
        slice(len(lead), len(lead) + len(script.steps)),
        facts,
        Place.OUTSIDE if script.frees else Place.INSIDE,
    )


def check(row: tuple[str | None, ...], server: Identity) -> None:
    """Check where a transaction has begun.

    Raises:
        SessionLost: not where we may lock; closing the connection ends the transaction.
    """
    try:
        greeting, locks = _set_up.read(row)
    except UnsafeServer as error:
        raise SessionLost(str(error)) from None
    if greeting.server != server:
        raise Moved(MOVED)
    if locks:
        # A lock that is there already would be granted once more. That nobody can release it is
        # mended with it: the pooler closes a server session whose client leaves in a transaction.
        raise SessionLost("somebody has left a session-level lock on the pooler's connection")


def aside(plan: SessionPlan[R], bounds: Bounds, server: Identity) -> SessionPlan[R]:
    """Drive `plan` outside of the pinned transaction, each of its scripts in one of its own.

    Raises:
        Moved: this is another server than the one with the lock.
    """
    lead = (Step(_sql.READ_COMMITTED), Step(_sql.SET_UP, _set_up.settings(0, bounds)))
    answer: Rows = []
    refusal: Refused | None = None
    script = None
    try:
        while True:
            if script is None:
                script = next(plan)
            else:
                script = plan.throw(refusal) if refusal else plan.send(answer[len(lead) :])
            refusal = None
            try:
                answer = yield Script((*lead, *script.steps))
            except Refused as error:
                refusal = error
                continue
            if _set_up.read(answer[1][0])[0].server != server:
                raise Moved(MOVED)
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict


def confirm() -> SessionPlan[None]:
    """Ask whether the session, and the transaction that pins it, is still there."""
    yield Script(())
