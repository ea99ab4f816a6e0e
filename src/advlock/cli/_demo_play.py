"""What happens in `advlock demo`, and when: three schedulers, two kills, two takeovers."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from advlock.cli._demo_count import (
    Row,
    Takeover,
    Verdict,
    by_jobs,
    by_table,
    disagreements,
    expected,
    overlaps,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock.cli._demo_crew import Crew, Run, Scheduler
    from advlock.cli._demo_table import Table

HOSTS: Final = (1, 2, 3)
_LOOK_EVERY: Final = 0.02
_ASK_EVERY: Final = 100_000_000  # nanoseconds
_NS: Final = 1_000_000_000
# How long a slow machine may take for its start, for the takeovers and for the end; in seconds.
_OVERTIME: Final = 30
# Exit codes of a scheduler that was asked to end: the others if it had only begun to begin.
_TOLD_TO_END: Final = (0, -signal.SIGTERM, 128 + signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it goes, in seconds.

    Attributes:
        seconds: How long it is to take.

        every: Between two ticks.
    """

    seconds: int
    every: int

    @classmethod
    def of(cls, seconds: int) -> Pace:
        """Every two seconds, or every second where less time than for seven such ticks is given."""
        return cls(seconds, 2 if seconds >= 14 else 1)  # noqa: PLR2004

    @property
    def work(self) -> float:
        """What the job takes."""
        return self.every * 0.4

    @property
    def midway(self) -> float:
        """How long a job has worked when it is killed."""
        return self.every * 0.25


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: What.

        at: When, in seconds since the beginning.

        tick: To which tick of the job; None for what concerns none.

        host: To whom; None for what concerns everybody.

        details: The rest, by name.
    """

    kind: str
    at: float
    tick: datetime | None
    host: int | None
    details: dict[str, Any]


@dataclass(slots=True)
class Act:
    """One kill and the takeover after it."""

    kills: str  # `host` or `scheduler`
    due: float  # from when on, as a share of the time
    armed: bool = False
    victim: Run | None = None
    killed: bool = False
    skips: int = 0  # ticks that were skipped before the kill, as the job took so long
    takeover: Takeover | None = None


class Play:
    """Runs the demo once; `tell` hears what happens, `check` may end it by an exception."""

    def __init__(  # noqa: PLR0913 - what it plays with, each once
        self,
        crew: Crew,
        table: Table,
        pace: Pace,
        tell: Callable[[Event], None],
        check: Callable[[], None],
        *,
        kills: bool,
    ) -> None:
        self._crew = crew
        self._table = table
        self._pace = pace
        self._tell = tell
        self._check = check
        self._opened = time.monotonic_ns()
        self._start: int | None = None  # when all hosts had come up
        self._last_tick: datetime | None = None  # the one with which it ends
        self._asked = 0
        self._rows: Sequence[Row] = ()
        self._told: dict[tuple[datetime, int | None], str] = {}
        self._up: set[int] = set()
        self._failures: list[str] = []
        self._acts = [Act("host", 0.3), Act("scheduler", 0.6)] if kills else []

    def run(self) -> None:
        """Play until the time is over and everybody is done."""
        for host in HOSTS:
            self._crew.start(host)
        while not self._over():
            self._check()
            self._look()
            self._advance()
            time.sleep(_LOOK_EVERY)
        self._crew.stop()
        self._asked = 0
        self._look()

    def _over(self) -> bool:
        now = time.monotonic_ns()
        if all(one.over for one in self._crew.schedulers.values()):
            return True  # they cannot even start
        if self._start is None:
            slow = now > self._opened + _OVERTIME * _NS
            self._start = now if slow or len(self._up) == len(HOSTS) else None
        elif self._last_tick is None:
            late = 0 if self._act() is None else _OVERTIME
            if now >= self._start + (self._pace.seconds + late) * _NS:
                self._last_tick = self._newest_tick()
        else:
            given_up = now > self._start + (self._pace.seconds + 2 * _OVERTIME) * _NS
            return given_up or self._settled(self._last_tick)
        return False

    def _settled(self, last_tick: datetime) -> bool:
        """Whether every tick has come to its end, and every host has come back."""
        there = any(row.tick >= last_tick for row in self._rows)
        living = {pid for pid, one in self._crew.schedulers.items() if not one.over}
        return there and all(row.over for row in self._rows) and living <= self._up

    def _newest_tick(self) -> datetime:
        every = self._pace.every
        return datetime.fromtimestamp(int(self._table.now().timestamp()) // every * every, UTC)

    # -- watching --------------------------------------------------------------------------------

    def _look(self) -> None:
        for kind, what in self._crew.look():
            if kind == "began":
                self._began(what)
            elif kind == "ended":
                self._say_of(what, "ended", what.ended)
            else:
                self._died(what)
        now = time.monotonic_ns()
        if now >= self._asked + _ASK_EVERY:
            self._asked = now
            self._ask()

    def _began(self, run: Run) -> None:
        late = (run.begun + time.time_ns() - time.monotonic_ns()) / _NS - run.tick.timestamp()
        facts: dict[str, Any] = {"job": run.job, "late": round(late, 6), "held": run.held}
        act = self._act()
        if act is None or act.victim is None or not act.killed:
            self._say_of(run, "began", run.begun, **facts)
            return
        act.takeover = Takeover(act.kills, self._crew.host(run.scheduler), round(late, 6))
        host = self._crew.schedulers[act.victim.scheduler].host
        self._say_of(run, "began", run.begun, **facts, took_over=host)
        self._crew.start(host)  # whoever was killed comes back

    def _died(self, one: Scheduler) -> None:
        if self._last_tick is not None and one.process.returncode in _TOLD_TO_END:
            return
        self._failures.append(f"host-{one.host}: {one.last_words()}")
        self._say("died", None, one.host, said=one.last_words())

    def _ask(self) -> None:
        for pid in sorted(self._table.ready() - self._up):
            self._up.add(pid)
            host = self._crew.host(pid)
            again = sum(one.host == host for one in self._crew.schedulers.values()) > 1
            self._say("up", None, host, pid=pid, again=again)
        self._rows = self._table.rows()
        for row in self._rows:
            key = (row.tick, row.pid)
            if row.over and self._told.get(key) != row.state:
                self._told[key] = row.state
                host = self._crew.host(row.pid)
                self._say("row", row.tick, host, state=row.state, reason=row.reason, pid=row.pid)

    # -- the kills -------------------------------------------------------------------------------

    def _act(self) -> Act | None:
        return next((act for act in self._acts if act.takeover is None), None)

    def _advance(self) -> None:
        """Do what the act at hand needs next, as soon as it can be done."""
        act = self._act()
        if act is None or self._start is None:
            return
        now = time.monotonic_ns()
        if not act.armed:
            if now >= self._start + int(act.due * self._pace.seconds * _NS):
                act.armed = True
                self._crew.hold()
        elif act.victim is None:
            act.victim = self._victim()
        elif not act.killed:
            if now >= act.victim.begun + int(self._pace.midway * _NS):
                self._kill(act, act.victim)
        elif self._skips(act.victim) > act.skips:
            self._crew.release()

    def _victim(self) -> Run | None:
        """Who works until it is told to stop."""
        for run in self._crew.runs.values():
            if run.held and run.finish is None and run.scheduler in self._crew.schedulers:
                return run
        return None

    def _skips(self, run: Run) -> int:
        """How many ticks were skipped while a run went on."""
        return sum(row.tick > run.tick and row.state == "skipped_overlap" for row in self._rows)

    def _kill(self, act: Act, victim: Run) -> None:
        self._ask()
        act.skips = self._skips(victim)
        at = time.monotonic_ns()
        if act.kills == "host":
            self._crew.kill_host(victim)
            self._crew.release()
        else:
            self._crew.kill_scheduler(victim)
        act.killed = True
        facts = {"what": act.kills, "pid": victim.scheduler, "job": victim.job}
        self._say_of(victim, "killed", at, **facts)

    # -- the account -----------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Count it all, twice."""
        rows, notes = self._table.rows(), self._crew.notes()
        since = self._table.since() or datetime.now(UTC)
        seen = [*(row.tick for row in rows), *(note.tick for note in notes)]
        until = max([*seen, self._last_tick or since])
        ticks = expected(since, until, self._pace.every)
        return Verdict(
            ticks=len(ticks),
            table=by_table(ticks, rows),
            jobs=by_jobs(ticks, notes, rows),
            overlaps=overlaps(self._crew.spans(time.monotonic_ns())),
            skipped=sum(row.state.startswith("skipped") for row in rows),
            lost=sum(row.state == "lost" for row in rows),
            due=len(self._acts),
            takeovers=[act.takeover for act in self._acts if act.takeover is not None],
            disagreements=disagreements(rows, notes, self._name),
            failures=self._failures,
        )

    def _name(self, pid: int | None) -> str:
        host = self._crew.host(pid)
        return f"process {pid}" if host is None else f"host-{host}"

    def _say_of(self, run: Run, kind: str, at: int | None, **details: Any) -> None:
        facts = {"run": run.run_id, **details}
        self._say(kind, run.tick, self._crew.host(run.scheduler), at, **facts)

    def _say(
        self,
        kind: str,
        tick: datetime | None,
        host: int | None,
        at: int | None = None,
        **facts: Any,
    ) -> None:
        at = time.monotonic_ns() if at is None else at
        self._tell(Event(kind, round((at - self._opened) / _NS, 6), tick, host, facts))
