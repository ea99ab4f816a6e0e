"""Take the lock, or one of several slots, for `advlock run`; say who is in the way."""

from __future__ import annotations

import contextlib
import math
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from advlock import _label
from advlock._duration import brief
from advlock._inspect._stuck import IN_TRANSACTION
from advlock._semaphore._keys import disagreement
from advlock._semaphore._plan import Look, Nap, Queue, Refuse, Take, View, seek
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._holder import Holder
    from advlock._key import Key
    from advlock._semaphore._keys import Keys
    from advlock._semaphore._plan import SlotStep
    from advlock._solo import SoloSession


class Want(NamedTuple):
    """What is to be locked, and how patiently.

    Attributes:
        name: The lock's name.

        shared: Whether others may share it.

        slots: How many may hold it at a time; None for a plain lock.

        patient: Whether to wait at all.
    """

    name: str
    shared: bool
    slots: int | None
    patient: bool


class Grant(NamedTuple):
    """What was locked: the key, and which slot it is."""

    key: Key
    slot: int | None = None


def acquire(
    session: SoloSession, want: Want, until: float | None, tell: Callable[[str], None]
) -> Grant | None:
    """Lock what is wanted; None when somebody else had it for too long.

    Args:
        session: The session that will carry the lock.
        want: What to lock.
        until: When to give up (in `time.monotonic` seconds); None for never.
        tell: Takes the line that says who is being waited for, or because of whom we give up.

    Raises:
        DatabaseUnavailable: the session ended.
    """
    if want.slots is None:
        return _one(session, want, until, tell)
    return _any_of(session, want, want.slots, until, tell)


def _one(
    session: SoloSession, want: Want, until: float | None, tell: Callable[[str], None]
) -> Grant | None:
    key = session.key(want.name)
    if session.try_lock(key, shared=want.shared, deadline=until):
        return Grant(key)
    held = _held_by(session.holders(key, deadline=until))
    if want.patient:
        tell(f"waiting for {want.name!r}{held}")
        if session.wait_lock(key, shared=want.shared, deadline=until):
            return Grant(key)
        with contextlib.suppress(DatabaseUnavailable):  # a wait cut short ends the session
            held = _held_by(session.holders(key, deadline=until))
    tell(f"skipped {want.name!r}{held}")
    return None


def _any_of(
    session: SoloSession,
    want: Want,
    slots: int,
    until: float | None,
    tell: Callable[[str], None],
) -> Grant | None:
    taker = _Taker(session, want, session.slots(want.name, slots), until, tell)
    # Everybody starts somewhere else, or all would ask for the same taken slots first.
    guess = random.randrange(slots)  # noqa: S311 - spreading load, not cryptography
    plan = seek(slots, guess, patient=want.patient)
    try:
        step = next(plan)
        while True:
            step = plan.send(taker.do(step))
    except StopIteration as stop:
        if stop.value:
            return taker.grant()
    tell(f"skipped {want.name!r}: {taker.taken()}")
    return None


class _Taker:
    """Does what the plan for a slot yields, on a session of our own."""

    def __init__(
        self,
        session: SoloSession,
        want: Want,
        keys: Keys,
        until: float | None,
        tell: Callable[[str], None],
    ) -> None:
        self._session = session
        self._want = want
        self._keys = keys
        self._until = until
        self._tell = tell
        self._slot = 0
        self._view = View(frozenset(), waited=False, others=frozenset())
        self._since: float | None = None  # when we began to wait
        self._is_first = False

    def do(self, step: SlotStep) -> Any:
        """Answer a step of the plan."""
        match step:
            case Take(slot):
                self._slot = slot
                return self._session.take_slot(self._keys, step, self._until)
            case Look():
                self._view = self._session.look(self._keys, self._until)
                return self._view
            case Queue():
                return self._is_first or self._queue()
            case Nap(seconds):
                left = math.inf if self._until is None else self._until - time.monotonic()
                time.sleep(max(0.0, min(seconds, left)))
                return left > 0
            case Refuse(others):
                self._refuse(others)
        return None

    def _queue(self) -> bool:
        session, want = self._session, self._want
        self._since = time.time()
        session.set_application_name(_label.make(want.name, waiting_since=self._since))
        self._tell(f"waiting for {want.name!r}: {self.taken()}")
        queue = self._keys.queue
        self._is_first = session.try_lock(queue, shared=False, deadline=self._until)
        if not self._is_first:
            self._is_first = session.wait_lock(queue, shared=False, deadline=self._until)
            if self._is_first:  # it signed for the queue, which is not what it waits for
                session.set_application_name(_label.make(want.name, waiting_since=self._since))
        return self._is_first

    def _refuse(self, others: frozenset[int]) -> None:
        for each in others:
            holders = self._session.holders(self._keys.agreed_by(each), deadline=self._until)
            if error := disagreement(self._keys, each, holders):
                raise error

    def grant(self) -> Grant:
        """Return what was granted."""
        if self._is_first:
            self._session.leave_queue(self._keys)
        return Grant(self._keys.slots[self._slot], self._slot)

    def taken(self) -> str:
        """Say who is in the way."""
        slots = len(self._keys.slots)
        if len(self._view.taken) < slots:
            return "others wait for a slot"
        held = ""
        with contextlib.suppress(DatabaseUnavailable):  # a wait cut short ends the session
            key = self._keys.slots[self._slot]
            held = _held_by(self._session.holders(key, deadline=self._until)).removeprefix(":")
        one = f", one{held}" if held and slots > 1 else held and f",{held}"
        return f"{'all ' if slots > 1 else ''}{slots} slot{'s' * (slots > 1)} taken{one}"


def _held_by(holders: Sequence[Holder]) -> str:
    """Say `: held by web-2 pid 4242 since 03:00:01 (12m)`; nothing when nobody is left."""
    holding = [holder for holder in holders if not holder.waiting]
    if not holding:
        return ""
    who = str(holding[0])
    if holding[0].since:
        age = datetime.now(UTC) - holding[0].since
        who += f" ({brief(age.total_seconds())})"
    if IN_TRANSACTION in holding[0].flags:
        who += ", idle in a transaction"
    others = f" and {len(holding) - 1} more" if len(holding) > 1 else ""
    return f": held by {who}{others}"
