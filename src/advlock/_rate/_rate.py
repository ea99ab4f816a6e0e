"""What a rate limit is, and what it answers. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock import _duration
from advlock._duration import brief
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from datetime import timedelta

SHORTEST: Final = 0.001  # seconds
LONGEST: Final = 366 * 86_400.0
MOST: Final = 10**9
ROWS: Final = 256  # so many rows of a window are exact; of more permits, those at its 256th share
_MICROSECONDS: Final = 1_000_000

SPELLINGS: Final = "100/60s, 100/minute, 5/2h"
_RATE: Final = re.compile(r"\s*(\d+)\s*(?:/|\bper\b)\s*(\d+\.?\d*|\.\d+)?\s*([a-z]*)\s*", re.ASCII)
_WORDS: Final = {
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hr": "h",
    "hour": "h",
    "day": "d",
}


class Rate(NamedTuple):
    """So many permits in any stretch of time of one length.

    Attributes:
        limit: How many.

        per: In how long, in seconds.

        smooth: Whether they are spread evenly; otherwise they may come all at once.
    """

    limit: int
    per: float
    smooth: bool = False

    def __str__(self) -> str:
        """As on the command line: `100/1m`."""
        return f"{self.limit}/{brief(self.per)}"

    @property
    def window(self) -> int:
        """The window in microseconds, rounded up."""
        return math.ceil(self.per * _MICROSECONDS)

    @property
    def apart(self) -> int:
        """How far two permits are apart at least, in microseconds, rounded up."""
        return -(-self.window // self.limit) if self.smooth else 0

    @property
    def bin(self) -> int:
        """Permits within so many microseconds share a row, or a window would have too many."""
        return 1 if self.limit <= ROWS else max(1, self.window // ROWS)


def rate(limit: int | str, per: float | str | timedelta | None, *, smooth: bool = False) -> Rate:
    """Read a rate: `(100, 60)`, `(100, "1m")`, or `("100/minute", None)`.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(limit, str):
        if per is not None:
            raise ConfigError(f"limit={limit!r} says per how long; leave out per={per!r}")
        limit, per = _parsed(limit)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise ConfigError(f"limit must be a whole number from 1 to {MOST:,}, not {limit!r}")
    if per is None:
        raise ConfigError(f"a limit of {limit} in how long? Pass per=60, or limit='{limit}/60s'")
    seconds = _duration.seconds(per)
    if not SHORTEST <= seconds <= LONGEST:
        raise ConfigError(
            f"per must be between {brief(SHORTEST)} and {brief(LONGEST)}, not {per!r}"
        )
    return Rate(limit, seconds, smooth)


def _parsed(text: str) -> tuple[int, str]:
    match = _RATE.fullmatch(text.lower())
    if match is not None:
        number, count, unit = match.groups()
        word = unit.removesuffix("s") if len(unit) > 2 else unit  # noqa: PLR2004 - not s, ms
        unit = _WORDS.get(word, unit)
        if (count or unit) and len(number) < 20:  # noqa: PLR2004 - Python reads no longer ones
            return int(number), f"{count or 1}{unit}"
    raise ConfigError(f"{text!r} is no rate; write one such as {SPELLINGS}")


def permits(n: Any, rate: Rate) -> int:
    """Read how many permits are wanted.

    Raises:
        ConfigError: that many are never to be had.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"n must be a whole number of at least 1, not {n!r}")
    if n > rate.limit:
        raise ConfigError(
            f"{n} permits at once are never to be had of {rate}; ask for fewer at a time"
        )
    return n


class Permit:
    """What was answered: true if it was granted.

    Attributes:
        n: How many permits.

        granted: Whether we may go on.

        retry_after: If not, after how many seconds, counted from the answer on, as many permits
            will be free if nobody else takes them; never less, so a try after that succeeds. 0 if
            granted.
    """

    __module__ = "advlock"
    __slots__ = ("granted", "n", "retry_after")

    def __init__(self, n: int, *, granted: bool, retry_after: float = 0.0) -> None:
        self.n = n
        self.granted = granted
        self.retry_after = retry_after

    def __bool__(self) -> bool:
        """Whether it was granted."""
        return self.granted

    def __repr__(self) -> str:
        """Show the answer."""
        answer = "granted" if self.granted else f"retry after {self.retry_after:.6f} s"
        return f"<advlock.Permit n={self.n} [{answer}]>"


class RateStats(NamedTuple):
    """How a limit stands, as of the answer.

    Attributes:
        limit: How many permits there are in a window.

        remaining: How many of them are free now.

        reset_after: In how many seconds all of them are, if nobody takes one; 0.0 if they are.
    """

    limit: int
    remaining: int
    reset_after: float


RateStats.__module__ = "advlock"
