"""How long the server's word may take beyond the time that somebody waits. Pure.

The server ends a wait by itself, and a free lock is taken however small the wait is: both need a
round trip more. How long that is, connecting has shown (tests/conformance/test_far_away.py).
"""

from __future__ import annotations

from typing import Final

# Seconds.
GRACE: Final = 0.04  # on a network that is near
_FARTHEST: Final = 1.0
_FOR_HOLDERS: Final = 0.5


def grace(round_trip: float) -> float:
    """How long to wait for the server's word, where an answer takes `round_trip` seconds.

    Behind a heartbeat that is under way it takes up to two, and a little.
    """
    return max(GRACE, min(3 * round_trip, _FARTHEST))


def at_least(deadline: float | None, now: float, grace: float) -> float | None:
    """Give one try the time of a round trip: a free lock is taken however small the wait is."""
    return None if deadline is None else max(deadline, now + grace)


def for_holders(wait: float, grace: float) -> float:
    """How long it may take to say who holds what was not granted within `wait` seconds.

    What was asked before may have to be answered first; and who has waited is in no hurry.
    """
    return max(2 * grace, min(wait / 2, _FOR_HOLDERS))
