"""Short interleaved rounds: what a ratio needs to mean something on a machine that is not idle.

A pause of the machine hits all contenders of a round alike, and a round has all of them, in random
order. The ratio is taken round by round; its median and quartiles are what is reported.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # By name: each runs for so many seconds, and returns how many cycles it did.
    Contenders = Mapping[str, Callable[[float], int]]


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The middle half of what was measured."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Quartiles:
        """Of at least two values."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Rates:
    """Cycles per second of each contender, round by round."""

    by_name: dict[str, list[float]]

    def rate(self, name: str) -> Quartiles:
        """How many cycles a second it did."""
        return Quartiles.of(self.by_name[name])

    def ratio(self, ours: str, baseline: str) -> Quartiles:
        """How many times as many as the baseline did in the same round."""
        pairs = zip(self.by_name[ours], self.by_name[baseline], strict=True)
        return Quartiles.of([mine / its for mine, its in pairs])


def race(contenders: Contenders, *, rounds: int, seconds: float) -> Rates:
    """Let the contenders run for `seconds` each, `rounds` times, after a round to warm up."""
    rates = Rates({name: [] for name in contenders})
    names = list(contenders)
    for number in range(rounds + 1):
        random.shuffle(names)
        for name in names:
            gc.collect()
            start = time.perf_counter()
            cycles = contenders[name](seconds)
            rate = cycles / (time.perf_counter() - start)
            if number:
                rates.by_name[name].append(rate)
    return rates
