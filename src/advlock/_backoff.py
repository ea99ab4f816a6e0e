"""When to try again: doubling pauses, jittered so that many clients do not come at once."""

from __future__ import annotations

import random
from typing import Final

_FIRST: Final = 0.1
_LONGEST: Final = 2.0


class Backoff:
    """How long a failing connection is left alone. It reads no clock: it is told the time."""

    def __init__(self) -> None:
        self._failures = 0
        self._not_before = 0.0

    def note(self, now: float, *, failed: bool) -> None:
        """Take note of an attempt's outcome, at monotonic time `now`."""
        if not failed:
            self._failures = 0
            return
        pause = min(_LONGEST, _FIRST * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._not_before = now + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def pause(self, now: float) -> float:
        """Return how many seconds the next attempt has to wait, at monotonic time `now`."""
        return max(0.0, self._not_before - now) if self._failures else 0.0
