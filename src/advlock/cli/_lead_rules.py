"""What follows from the end of a leader's command: decisions without I/O."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

_FIRST: Final = 1.0
_LONGEST: Final = 60.0
_STEADY: Final = 60.0  # seconds; a command that ran so long has nothing to do with earlier failures


class Restart(enum.StrEnum):
    """When to run the command again after it has ended by itself."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class End(NamedTuple):
    """How a term ended.

    Attributes:
        code: The exit code of the command, or ours.

        ran: How long the command ran, in seconds; None where it never began.

        lost: Whether the lock was lost.

        resigned: Whether it never came to the command, because a hook failed.

        asked: Whether a signal asked us to end.
    """

    code: int
    ran: float | None = None
    lost: bool = False
    resigned: bool = False
    asked: bool = False


class Policy:
    """Whether there is another term, and how long to wait for it. It reads no clock."""

    def __init__(self, restart: Restart) -> None:
        self._restart = restart
        self._failures = 0

    def again(self, end: End) -> bool:
        """Whether to campaign again."""
        if end.asked:
            return False
        if end.lost or end.resigned:
            return True  # it was not the command that ended
        if end.ran is None:
            return False  # it cannot be executed, and will not be the next time
        if self._restart is Restart.ON_FAILURE:
            return end.code != 0
        return self._restart is Restart.ALWAYS

    def pause(self, end: End) -> float:
        """How many seconds to leave the lead to others: doubling while commands end early."""
        if end.lost:
            return _FIRST  # the database, or the network, was what failed
        if end.ran is not None and end.ran >= _STEADY:
            self._failures = 0
        pause = min(_LONGEST, _FIRST * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        return float(pause)
