"""How one campaigns for the lead, and how soon again: decisions without I/O, as in `_plan.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock import _plan
from advlock._backoff import Backoff
from advlock._ledger import QUEUED
from advlock._plan import Nap, Try, Turn, Wait, Waited
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._ledger import Ticket

# A term that lasted so long, in seconds, has nothing to do with the trouble before it.
STEADY: Final = 10.0


def campaign(
    ticket: Ticket, *, over: Callable[[], bool], away: Callable[[], bool]
) -> _plan.ClientPlan[bool]:
    """Stand in the server's queue for `ticket`'s lock until it is ours; tell whether it is.

    Unlike `_plan.contend` it does not try on the shared session first, which would cost every
    standby two sessions: it waits on one, and leads on it.

    Args:
        ticket: What to lead with.
        over: Whether nobody wants the lead any more.
        away: Whether having got no session to wait on means that the database is away; otherwise
            it is our own budget that is used up, or a pooler's, and the shared session is asked.

    Raises:
        DatabaseUnavailable: there is no session.
    """
    # Whoever closes a leader ends the wait that he sees: not one that begins only now.
    if ticket.state is QUEUED and (over() or not (yield Turn())):
        return False
    naps = _plan.pauses()
    while not over():
        waited = yield Wait()
        if waited in (Waited.GRANTED, Waited.TIME_IS_UP):
            return waited is Waited.GRANTED
        if waited is Waited.NO_SESSION and away():
            raise DatabaseUnavailable("no session with the database; try again")
        if over() or not (yield Nap(next(naps))):
            return False
        if waited is not Waited.BROKEN and (yield Try()):
            return True
    return False


class Pace:
    """How long to leave the lead to others. It reads no clock: it is told the time.

    Args:
        pause: For so many seconds, after a term that we ended ourselves.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._not_before = 0.0
        self._backoff = Backoff()

    def given_up(self, now: float) -> None:
        """Take note of a term that we ended ourselves: others come first."""
        self._backoff.note(now, failed=False)
        self._not_before = now + self._pause

    def lost(self, now: float, lasted: float) -> None:
        """Take note of a term that was lost after `lasted` seconds."""
        if lasted >= STEADY:
            self._backoff.note(now, failed=False)
        self._backoff.note(now, failed=True)

    def refused(self, now: float) -> None:
        """Take note that there was no session."""
        self._backoff.note(now, failed=True)

    def forget(self) -> None:
        """Begin anew: somebody wants the lead now, whatever was before."""
        self._not_before = 0.0
        self._backoff = Backoff()

    def left(self, now: float) -> float:
        """Tell how many seconds the next campaign has to wait."""
        return max(0.0, self._not_before - now, self._backoff.pause(now))
