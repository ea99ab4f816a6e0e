"""What happened in `advlock demo`, counted from the table and from the jobs' own notes. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MEANING: Final = """\
A double is a run of a tick that had one already; a miss is a tick of which nobody can say what
became. Both are counted twice: from advlock.cron_run, and from what the jobs noted themselves."""
_GOING: Final = ("claimed", "queued", "running")


class Row(NamedTuple):
    """A row of `advlock.cron_run`.

    Attributes:
        tick: Which tick.

        state: What became of it.

        reason: Why, in words.

        run_id: Which run of it; None if there was none.

        pid: The scheduler that decided it.

        began: Whether a run began.
    """

    tick: datetime
    state: str
    reason: str | None
    run_id: str | None
    pid: int | None
    began: bool

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state not in _GOING


class Note(NamedTuple):
    """What a job noted of its run.

    Attributes:
        tick: Which tick.

        run_id: Which run of it.

        pid: The scheduler that started it.

        ended: Whether it came to its end.
    """

    tick: datetime
    run_id: str
    pid: int
    ended: bool


class Span(NamedTuple):
    """The time during which a job was at work, in nanoseconds of the monotonic clock."""

    begin: int
    end: int


class Tally(NamedTuple):
    """One count of the runs."""

    runs: int
    doubles: int
    misses: int


class Takeover(NamedTuple):
    """One host going on where another was killed.

    Attributes:
        killed: What was killed: the `host`, or its `scheduler` alone.

        host: Who took over.

        late: How long after its time the successor's job began, in seconds.
    """

    killed: str
    host: int | None
    late: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The numbers that the last line tells.

    Attributes:
        ticks: How often the job was due.

        table: What `advlock.cron_run` says.

        jobs: What the jobs' notes say.

        overlaps: How many jobs began while another was at work.

        skipped: How many ticks were skipped, with a row that says why.

        lost: How many runs nobody saw the end of.

        due: How many takeovers there should have been.

        takeovers: Those that were seen.

        disagreements: Where the two differ, in words.

        failures: What else went wrong, in words.
    """

    ticks: int
    table: Tally
    jobs: Tally
    overlaps: int
    skipped: int
    lost: int
    due: int
    takeovers: list[Takeover] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether each tick had its one run or its reason, and we saw both takeovers."""
        wrong = (*self.table[1:], *self.jobs[1:], self.overlaps)
        words = self.disagreements or self.failures
        return not any(wrong) and not words and len(self.takeovers) == self.due > 0

    def __str__(self) -> str:
        """Tell it in one line."""
        parts = [
            _count(self.ticks, "tick"),
            *self._tallies(),
            _count(self.overlaps, "overlap"),
            f"{self.skipped} skipped",
            f"{self.lost} lost",
            *([_count(len(self.failures), "failure")] if self.failures else []),
            self._taken_over(),
        ]
        return f"{'OK' if self.good else 'FAILED'}: {', '.join(parts)}; {self._agreement()}"

    def _tallies(self) -> list[str]:
        told = zip(("run", "double", "miss"), self.table, self.jobs, strict=True)
        return [
            _count(one, what) if one == other else f"{one} or {_count(other, what)}"
            for what, one, other in told
        ]

    def _taken_over(self) -> str:
        if not self.due:
            return "no kills"
        few = f"{len(self.takeovers)} of " if len(self.takeovers) < self.due else ""
        return few + _count(self.due, "takeover")

    def _agreement(self) -> str:
        if self.disagreements:
            return "the table and the jobs DISAGREE"
        return "the table and the jobs agree"


# -- counting --------------------------------------------------------------------------------------


def expected(since: datetime, until: datetime, every: int) -> list[datetime]:
    """The ticks of `@every` so many seconds: after `since`, and not after `until`."""
    first = int(since.timestamp()) // every + 1
    last = int(until.timestamp()) // every
    return [datetime.fromtimestamp(n * every, UTC) for n in range(first, last + 1)]


def by_table(ticks: Sequence[datetime], rows: Sequence[Row]) -> Tally:
    """Count what the table says; a row that is not over does not say what became of its tick."""
    began = Counter(row.tick for row in rows if row.began)
    told = {row.tick for row in rows if row.over}
    return _tally(ticks, began, told)


def by_jobs(ticks: Sequence[datetime], notes: Sequence[Note], rows: Sequence[Row]) -> Tally:
    """Count what the jobs say; of the table it takes only that a tick was skipped."""
    began = Counter(note.tick for note in notes)
    told = {row.tick for row in rows if row.state.startswith("skipped")}
    return _tally(ticks, began, told | began.keys())


def _tally(ticks: Sequence[datetime], began: Counter[datetime], told: set[datetime]) -> Tally:
    runs = began.total()
    return Tally(runs, runs - len(began), len(set(ticks) - told))


def overlaps(spans: Iterable[Span]) -> int:
    """Count the spans that begin before an earlier one has ended."""
    count, busy_until = 0, 0
    for span in sorted(spans):
        count += span.begin < busy_until
        busy_until = max(busy_until, span.end)
    return count


def disagreements(
    rows: Iterable[Row], notes: Iterable[Note], name: Callable[[int | None], str]
) -> list[str]:
    """Say where the table and the jobs tell different things of a run; `name` is a host's."""
    told = {row.run_id: row for row in rows if row.began}
    noted = {note.run_id: note for note in notes}
    found = [
        f"{row.tick:%H:%M:%S}: the table says that {name(row.pid)} ran it, and no job noted that"
        for run_id, row in told.items()
        if run_id not in noted
    ]
    for run_id, note in noted.items():
        row = told.get(run_id)
        when, who = f"{note.tick:%H:%M:%S}", name(note.pid)
        if row is None:
            found.append(f"{when}: a job noted that {who} ran it, and the table does not say so")
        elif row.tick != note.tick:
            found.append(f"{when}: a job noted this tick; the table has it at {row.tick:%H:%M:%S}")
        elif row.pid != note.pid:
            other = name(row.pid)
            found.append(f"{when}: a job noted that {who} ran it; the table says that {other} did")
        elif row.state == "succeeded" and not note.ended:
            found.append(f"{when}: the table says that it succeeded, and the job noted no end")
    return sorted(found)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"
