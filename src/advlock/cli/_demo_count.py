"""What happened in `advlock demo`, counted from what the jobs themselves wrote down. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MEANING = """\
A run is a job that began. An overlap is a run that began while another was still at work.
A tick without a runner is one during which no run began and none was at work."""


class Span(NamedTuple):
    """The time during which a job was at work, in nanoseconds of the monotonic clock."""

    begin: int
    end: int


class Takeover(NamedTuple):
    """One worker going on where another was killed.

    Attributes:
        killed: What was killed: the `wrapper` alone, or `everything`.

        seconds: From the moment the lock was free (the job's own end; the kill, if it was killed)
            to the first thing that the successor's job did.
    """

    killed: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers that the last line tells.

    Attributes:
        ticks: How often the workers raced.

        runs: How many jobs began.

        overlaps: How many of them began while another one was at work.

        empty_ticks: During how many ticks nobody was at work.

        skips: How many workers came, found the lock taken, and left.

        failures: How many workers failed for another reason.

        takeovers: Who went on after a kill.

        due: How many takeovers there should have been.
    """

    ticks: int
    runs: int
    overlaps: int
    empty_ticks: int
    skips: int
    failures: int
    due: int
    takeovers: list[Takeover] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the lock did its job, and we saw it do so."""
        return not self.overlaps and len(self.takeovers) == self.due > 0

    def __str__(self) -> str:
        """Tell it in one line."""
        parts = [
            _count(self.runs, "run"),
            _count(self.overlaps, "overlap"),
            f"{_count(self.empty_ticks, 'tick')} without a runner",
            _count(self.skips, "skip"),
            *([_count(self.failures, "failure")] if self.failures else []),
            self._taken_over(),
        ]
        return f"{'OK' if self.good else 'FAILED'}: {', '.join(parts)}, in {self.ticks} ticks"

    def _taken_over(self) -> str:
        if len(self.takeovers) < self.due:
            return f"{len(self.takeovers)} of {_count(self.due, 'takeover')}"
        times = " and ".join(f"{one.seconds * 1000:.0f}" for one in self.takeovers)
        return f"{_count(len(self.takeovers), 'takeover')} after {times} ms"


def overlaps(spans: Iterable[Span]) -> int:
    """Count the spans that begin before an earlier one has ended."""
    count, busy_until = 0, 0
    for span in sorted(spans):
        count += span.begin < busy_until
        busy_until = max(busy_until, span.end)
    return count


def empty_ticks(ticks: Sequence[int], end: int, spans: Sequence[Span]) -> int:
    """Count the ticks during which no span was under way; a tick lasts until the next one.

    Args:
        ticks: When each tick was, ascending.
        end: When the last one was over.
        spans: When somebody was at work.
    """
    until = [*ticks[1:], end]
    return sum(
        not any(span.begin < over and span.end > tick for span in spans)
        for tick, over in zip(ticks, until, strict=True)
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
