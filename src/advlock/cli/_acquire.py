"""Take the lock, or one of several slots, for `advlock run`; say who is in the way."""

from __future__ import annotations

import contextlib
import math
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from advlock._duration import brief
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._holder import Holder
    from advlock._key import Key
    from advlock._solo import SoloSession

# Seconds between two tries for a slot; the server can queue for one lock, not for any of several.
_PAUSE = (0.05, 0.25)


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
    # Everybody starts somewhere else, or all would ask for the same taken slots first.
    first = random.randrange(slots)  # noqa: S311 - spreading load, not cryptography
    order = [(first + n) % slots for n in range(slots)]
    keys = {slot: session.slot(want.name, slot) for slot in order}
    told = False
    while True:
        for slot, key in keys.items():
            if session.try_lock(key, shared=False, deadline=until):
                return Grant(key, slot)
        left = math.inf if until is None else until - time.monotonic()
        if left <= 0 or not want.patient:
            tell(f"skipped {want.name!r}: {_taken(session, keys[first], slots, until)}")
            return None
        if not told:
            tell(f"waiting for {want.name!r}: {_taken(session, keys[first], slots, until)}")
            told = True
        time.sleep(min(random.uniform(*_PAUSE), left))  # noqa: S311 - jitter


def _taken(session: SoloSession, key: Key, slots: int, until: float | None) -> str:
    held = _held_by(session.holders(key, deadline=until)).removeprefix(":")
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
    others = f" and {len(holding) - 1} more" if len(holding) > 1 else ""
    return f": held by {who}{others}"
