"""What the jobs of a cron wrote down themselves, what its table says of them, and the checker.

Two witnesses who do not know each other: a job's own record (`cron_job.py`), which is there as soon
as it is written, also after `kill -9`, and the rows of advlock.cron_run. Pure.

Both times of a run are on the safe side: it begins after its process was started, and ends before
that process does. So whoever overlaps here overlapped. Of one that was killed we know that it lived
when the nemesis was about to kill it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SKIPPED = ("skipped_overlap", "skipped_missed", "skipped_paused")
BEGUN = ("succeeded", "failed", "timeout", "lost")  # only these may have been at work
_RERUNS = 3
_DYING = 10**9  # nanoseconds


@dataclass(slots=True)
class Run:
    """One process of a job, as it wrote itself; times are nanoseconds of the monotonic clock.

    Attributes:
        tick: When it was scheduled, in seconds since the epoch.

        end: Its end; of one that was killed, when it lived for sure; None if nobody knows of one.

        killed: Whether the nemesis did it.
    """

    job: str
    tick: float
    run_id: str
    pid: int
    begin: int
    end: int | None = None
    killed: bool = False

    def __str__(self) -> str:
        until = "?" if self.end is None else f"{(self.end - self.begin) / 1e9:.3f} s"
        how = ", killed" if self.killed else ""
        return (
            f"tick {self.tick:.0f} by run {self.run_id[:8]} (pid {self.pid}):"
            f" from {self.begin / 1e9:.3f} for {until}{how}"
        )


class Row(NamedTuple):
    """A row of advlock.cron_run."""

    job: str
    tick: float
    state: str
    run_id: str | None = None
    losses: int = 0
    reason: str | None = None


class Violation(NamedTuple):
    """Something that must not be.

    Attributes:
        kind: double, overlap, vanished, missing, unsettled, unwritten, denied, given up.
    """

    kind: str
    job: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.job}: {self.what}"


def read_record(text: str) -> list[Run]:
    """Read what the jobs wrote, and what the nemesis did: `killed PID NANOSECONDS`.

    It writes before it kills. So whoever was quicker may still have written after that.
    """
    runs: list[Run] = []
    latest: dict[int, Run] = {}
    killed: dict[int, int] = {}
    for line in text.splitlines():
        event, *words = line.split()
        pid, at = int(words[-2]), int(words[-1])
        if event == "begin":
            job, tick, run_id = words[:3]
            run = Run(job, datetime.fromisoformat(tick).timestamp(), run_id, pid, at)
            runs.append(run)
            latest[pid] = run
            if at < killed.get(pid, -_DYING) + _DYING:  # later the number is somebody else's
                run.end, run.killed = max(at, killed[pid]), True
        elif event == "end":
            run = latest.pop(pid)
            run.end, run.killed = at, False
            killed.pop(pid, None)
        else:
            killed[pid] = at
            if pid in latest:
                run = latest[pid]
                run.end, run.killed = max(at, run.begin), True
    return runs


def check_runs(runs: Iterable[Run], again: frozenset[str] = frozenset()) -> list[Violation]:
    """Find ticks that ran twice, jobs that ran beside themselves, and ends that nobody knows of.

    Args:
        runs: In any order.

        again: The jobs whose ticks may run again after a crash; never beside themselves.
    """
    by_job: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.begin):
        by_job.setdefault(run.job, []).append(run)
    found: list[Violation] = []
    for job, row in by_job.items():
        found += _overlaps(job, row)
        found += _doubles(job, row, 1 + _RERUNS if job in again else 1)
        found += (Violation("vanished", job, str(run)) for run in row if run.end is None)
    return found


def _overlaps(job: str, row: list[Run]) -> Iterator[Violation]:
    """Compare each run with the one before it that went on longest."""
    last: Run | None = None
    for run in row:
        if last and run.begin <= (last.end or last.begin):
            yield Violation("overlap", job, f"{run}\n  beside {last}")
        if last is None or (run.end or run.begin) > (last.end or last.begin):
            last = run


def _doubles(job: str, row: list[Run], most: int) -> Iterator[Violation]:
    first: dict[float, Run] = {}
    times: Counter[float] = Counter()
    for run in row:
        times[run.tick] += 1
        if times[run.tick] > most:
            yield Violation("double", job, f"{run}\n  after {first[run.tick]}")
        first.setdefault(run.tick, run)


def check_rows(rows: Iterable[Row], jobs: Iterable[str], ticks: range) -> list[Violation]:
    """Find ticks without a row, and rows without an end.

    Args:
        rows: All of the table.

        jobs: What was to run.

        ticks: When each of them was to, in seconds since the epoch.
    """
    rows = list(rows)
    there = {(row.job, row.tick) for row in rows}
    found = [
        Violation("missing", job, f"no row for tick {tick}")
        for job in jobs
        for tick in ticks
        if (job, float(tick)) not in there
    ]
    ended = {*SKIPPED, *BEGUN}
    return found + [
        Violation("unsettled", row.job, str(row)) for row in rows if row.state not in ended
    ]


def compare(
    runs: Iterable[Run], rows: Iterable[Row], again: frozenset[str] = frozenset()
) -> list[Violation]:
    """Find where the two witnesses contradict each other."""
    by_tick: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        by_tick.setdefault((run.job, run.tick), []).append(run)
    found = []
    for row in rows:
        ran = by_tick.pop((row.job, row.tick), [])
        if what := _contradiction(row, ran, again=row.job in again):
            told = "".join(f"\n  {run}" for run in ran)
            found.append(Violation(*what[:1], row.job, f"{what[1]}: {row}{told}"))
    for (job, _), ran in by_tick.items():
        found += (Violation("unwritten", job, f"it ran without a row: {run}") for run in ran)
    return found


def _contradiction(row: Row, ran: list[Run], *, again: bool) -> tuple[str, str] | None:
    """What is wrong with a row: the kind and the words, or None."""
    if row.state == "succeeded" and not _is_vouched_for(row, ran):
        return "denied", "it succeeded, and no such run says so"
    if row.state in SKIPPED and ran:
        return "denied", "it was skipped, and ran"
    if not again and any(run.run_id != row.run_id for run in ran):
        return "unwritten", "another run than the row's"
    if again and row.state == "lost" and row.losses <= _RERUNS:
        return "given up", "it was to run again, and did not"
    return None


def _is_vouched_for(row: Row, ran: list[Run]) -> bool:
    return any(run.run_id == row.run_id and run.end is not None and not run.killed for run in ran)


def longest_gaps(runs: Iterable[Run]) -> Mapping[str, float]:
    """How long each job did not run at most, in seconds, between its first run and its last."""
    gaps: dict[str, float] = {}
    last: dict[str, int] = {}
    for run in sorted(runs, key=lambda run: run.begin):
        since = (run.begin - last.get(run.job, run.begin)) / 1e9
        gaps[run.job] = max(gaps.get(run.job, 0.0), since)
        last[run.job] = max(last.get(run.job, 0), run.end or run.begin)
    return gaps
