"""How a slot of a semaphore is got: decisions only. See `advlock._plan` for what a plan is.

The rules of this file:

1. Nobody has a slot who does not also share the key that says how many slots there are. Whoever
   shares it looks, afterwards and in the same statement, whether anybody shares one that says
   otherwise, and then lets go (`advlock._sql.DECLARING_BATCH`). So of two who disagree and come at
   once both may be refused, and then try again; both let in they cannot be.
2. The server queues for one lock, not for any of several. So those who wait queue for one lock
   more, the semaphore's *queue*, and only the first of them looks for a slot, again and again.
3. Nobody overtakes: who comes while somebody has the queue does not take a slot. That is the same
   look as in rule 1, because the queue's key differs from those in the same 16 bits.
4. Who has the queue gives it back as soon as it has a slot; it takes nothing else meanwhile, so
   nobody waits in a circle.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

from advlock import _sql as sql
from advlock._plan import Script, Step
from advlock._semaphore import _sql
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advlock._plan import SessionPlan
    from advlock._semaphore._keys import Keys


class View(NamedTuple):
    """A semaphore at one moment.

    Attributes:
        taken: The slots that somebody holds.

        waited: Whether somebody waits for a slot.

        others: The numbers of slots that are not ours, and that holders say there are.
    """

    taken: frozenset[int]
    waited: bool
    others: frozenset[int]


@dataclass(frozen=True, slots=True)
class Take:
    """Agree on the number of slots and take this one, in one request. Answer: both done or not.

    `first` does so as the one who has the queue.
    """

    slot: int
    first: bool


@dataclass(frozen=True, slots=True)
class Look:
    """Look at the semaphore. Answer: a `View`; what our own client is busy with is taken."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Have the queue, if we do not have it any more; waits. Answer: False, time ran out."""


@dataclass(frozen=True, slots=True)
class Nap:
    """Let `seconds` pass. Answer: False, time ran out."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse, unless those are gone by now who say that there are `others` slots."""

    others: frozenset[int]


SlotStep = Take | Look | Queue | Nap | Refuse
SlotPlan = Generator[SlotStep, Any, bool]

# Only one who waits polls for a semaphore, whoever else waits: it may as well be quick. But each
# look reads the server's whole lock table: 50 semaphores that were polled for every 20 ms took half
# a core. So who has waited for seconds looks less often, and loses 2 % of its time or so.
_FIRST_PAUSE: Final = 0.002
_SHORT_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.1
_SHARE: Final = 0.02


def seek(slots: int, guess: int, *, patient: bool) -> SlotPlan:
    """Get a slot; tell whether there is one now.

    Args:
        slots: How many there are.
        guess: Which may well be free.
        patient: Whether to wait.
    """
    if (yield Take(guess, first=False)):
        return True
    while True:
        view = yield Look()
        free = _free(view, slots)
        if view.others:
            yield Refuse(view.others)
        elif view.waited or not free:
            break
        elif (yield Take(random.choice(free), first=False)):  # noqa: S311 - spreading load
            return True
        # Somebody was quicker, or about to be refused.
        if not (yield Nap(_FIRST_PAUSE * random.random())):  # noqa: S311 - jitter
            return False
    return (yield from _wait(slots)) if patient else False


def _wait(slots: int) -> SlotPlan:
    naps = pauses()
    while True:
        try:
            if not (yield Queue()):
                return False
            view = yield Look()
            if view.others:
                yield Refuse(view.others)
            free = _free(view, slots)
            if free and (yield Take(random.choice(free), first=True)):  # noqa: S311 - as above
                return True
        except DatabaseUnavailable:
            # It was there when we began to wait: it restarts, and we wait on within our time.
            pass
        if not (yield Nap(next(naps))):
            return False


def _free(view: View, slots: int) -> list[int]:
    return [slot for slot in range(slots) if slot not in view.taken]


def pauses() -> Iterator[float]:
    """Yield the pauses of the first of those who wait, between two looks."""
    pause, waited = _FIRST_PAUSE, 0.0
    while True:
        nap = pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not cryptography
        waited += nap
        yield nap
        longest = min(max(_SHORT_PAUSE, waited * _SHARE), _LONGEST_PAUSE)
        pause = min(pause * 1.5, longest)


# -- session plans ---------------------------------------------------------------------------------


def look(keys: Keys) -> SessionPlan[View]:
    """Look at a semaphore."""
    slots = ",".join(str(key.value) for key in keys.slots)
    step = Step(_sql.LOOK, (str(keys.agreed.value), f"{{{slots}}}"))
    taken, waited, others = set(), False, set()
    for slot, said, granted in (yield Script((step,)))[0]:
        if slot is None:
            waited = waited or said == "0"
            others |= {int(said or 0)} if granted == "t" else set()
        elif granted == "t":
            taken.add(int(slot))
    return View(frozenset(taken), waited, frozenset(others) - {0, len(keys.slots)})


def take(keys: Keys, slot: int, *, first: bool) -> SessionPlan[bool]:
    """Do what `Take` asks for, on a session that nobody shares."""
    codes = (sql.DECLARE_FIRST if first else sql.DECLARE, sql.TRY)
    wanted = (keys.agreed.value, keys.slots[slot].value)
    answer = yield Script((_ask(sql.DECLARING_BATCH, codes, wanted),), locks=True)
    agreed, got = (row[0] == "t" for row in answer[0])
    if agreed is not got:
        undo = (sql.UNLOCK_SHARED, wanted[0]) if agreed else (sql.UNLOCK, wanted[1])
        yield Script((_ask(sql.BATCH, undo[:1], undo[1:]),))
    return agreed and got


def leave_queue(keys: Keys) -> SessionPlan[None]:
    """Let the next one look for a slot; on a session that nobody shares."""
    yield Script((_ask(sql.BATCH, (sql.UNLOCK,), (keys.queue.value,)),))


def _ask(text: LiteralString, codes: Sequence[int], values: Sequence[int]) -> Step:
    return Step(text, (f"{{{','.join(map(str, codes))}}}", f"{{{','.join(map(str, values))}}}"))
