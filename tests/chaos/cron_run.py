"""A chaos run of the cron: three schedulers, twenty jobs a second, all that breaks, the verdict.

    python3 dev.py test tests/chaos -k test_cron_chaos --chaos-minutes 5 [--chaos-seed N]

What happens follows from the seed, as far as the scheduler of the machine lets it. A job that still
runs somewhere may keep its next ticks from running, and so may doubt, after a restart of the
server; nothing else may, and no tick may be forgotten.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import psycopg
from clusters import temporary_home
from servers import locks_in_db
from waiting import eventually

from advlock.embedded._cluster import Cluster

from .cron_crew import Host, crew
from .cron_history import (
    Row,
    Violation,
    check_rows,
    check_runs,
    compare,
    longest_gaps,
    read_record,
)
from .nemesis import Bag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .cron_crew import Crew

PLAIN: Final = ("-m", "advlock", "cron")
_HOSTS: Final = ("red", "green", "blue")
_SETTINGS: Final = {"fsync": "off", "max_connections": "150"}
_JOB: Final = Path(__file__).with_name("cron_job.py")
_TICK: Final = 0.05
_PATIENCE: Final = 15.0  # on a busy machine
_SETTLING: Final = 60.0  # seconds; a job in doubt takes 13, and ten in a queue some more
# What happens to the schedulers, and for how many seconds; the server is restarted once.
DEEDS: Final = {
    "killed": (0.0, 2.0),
    "killed again": (0.0, 2.0),
    "crashed": (0.0, 2.0),
    "stopped": (0.2, 4.0),
    "stopped with its jobs": (0.2, 4.0),
    "stopped for long": (6.0, 9.5),  # so that others take its claims
}
_SHARE_OF_BUSY_MOMENTS: Final = 0.6  # of the deeds: soon after a tick, when all is being started
_BUSY: Final = 0.15  # seconds

# With less room than there are jobs, so that hosts have to leave ticks to each other.
_FILE = """\
[cron]
max_running = 8
[defaults]
grace = "20s"
kill_after = "3s"
history = {keep = 100000, max_age = "30d"}
"""
_ENTRY = """
[jobs.{job.name}]
schedule = "{schedule}"
command = {command}
overlap = "{job.overlap}"
on_crash = "{job.on_crash}"
"""
_ROWS = """
SELECT job, extract(epoch FROM scheduled_at)::float8, state, run_id::text, losses, reason
FROM advlock.cron_run ORDER BY job, scheduled_at
"""
# Between which ticks the first version of the jobs was in force: a new schedule is not made up for.
_DECIDED = """
SELECT floor(extract(epoch FROM created_at))::int8, floor(extract(epoch FROM decided_until))::int8
FROM advlock.cron_set ORDER BY created_at LIMIT 1
"""
# Of jobs that do not queue: who claimed these at first did not start them.
_TAKEN_UP = """
SELECT count(*) FROM advlock.cron_run
WHERE job ~ '^(skip|long)' AND claimed_at > scheduled_at + interval '5 s'
  AND started_at IS NOT NULL
"""
_ACTIVE = "SELECT count(*) FROM advlock.cron_run WHERE state IN ('claimed', 'queued', 'running')"


@dataclass(frozen=True, slots=True)
class Planned:
    """A job of the run: what it is called, and how long it works at most."""

    name: str
    longest: float = 2.5
    overlap: str = "skip"
    on_crash: str = "next_tick"


JOBS: Final = (
    *(Planned(f"skip-{n}") for n in range(10)),
    *(Planned(f"long-{n}", 8.0) for n in range(4)),
    *(Planned(f"queue-{n}", 1.5, "queue") for n in range(2)),
    *(Planned(f"replace-{n}", 2.5, "replace") for n in range(2)),
    Planned("again", 1.5, "skip", "rerun"),
    Planned("again-queued", 1.0, "queue", "rerun"),
)
SHORT_JOBS: Final = tuple(Planned(f"short-{n}", 0.1) for n in range(4))


@dataclass(slots=True)
class Verdict:
    """What came out.

    Attributes:
        violations: What the checker found.

        failure: Why the run ended early; empty if it did not.

        complaints: What schedulers said that nobody should ever see.

        left: The advisory locks that were there when nobody was left.

        steps: What went wrong on purpose.

        states: The ends of the ticks.

        taken_up: How many claims went from one scheduler to another.

        gaps: How long each job did not run at most.
    """

    seed: int
    violations: list[Violation] = field(default_factory=list)
    failure: str = ""
    complaints: list[str] = field(default_factory=list)
    left: str = ""
    steps: list[tuple[float, str]] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    taken_up: int = 0
    gaps: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing at all is wrong."""
        return not (self.violations or self.failure or self.complaints or self.left)

    def kinds(self) -> Counter[str]:
        """What the checker found, and how often."""
        return Counter(violation.kind for violation in self.violations)

    def faults(self) -> Counter[str]:
        """What went wrong on purpose, and how often."""
        return Counter(step.partition(": ")[0] for _, step in self.steps)

    def statistics(self) -> str:
        """The run in two lines."""
        states = ", ".join(f"{number} {state}" for state, number in sorted(self.states.items()))
        faults = ", ".join(f"{number} {fault}" for fault, number in sorted(self.faults().items()))
        gap = max(self.gaps.values(), default=0.0)
        return (
            f"seed {self.seed}; {self.runs} runs; ticks: {states}; {self.taken_up} were taken up\n"
            f"faults: {faults}; the longest time that a job did not run: {gap:.1f} s"
        )

    def __str__(self) -> str:
        lines = [self.statistics(), self.failure, self.left]
        lines += [f"{at:.3f}  {step}" for at, step in self.steps]
        lines += [*self.complaints, *map(str, self.violations[:30])]
        return "\n".join(line for line in lines if line)


class Nemesis:
    """Kills and stops schedulers, and restarts the server once.

    Args:
        cluster: The server.

        team: The schedulers.

        jobs: The file that a new scheduler is to run.

        dice: What happens.

        log: Takes every step: when, in seconds of the monotonic clock, and what was done.
    """

    def __init__(
        self,
        cluster: Cluster,
        team: Crew,
        jobs: Path,
        dice: random.Random,
        log: list[tuple[float, str]],
    ) -> None:
        self._cluster, self._team, self._jobs, self._dice, self._log = (
            *(cluster, team, jobs),
            *(dice, log),
        )

    def run(self, seconds: float) -> None:
        """Break things for so long; then let everybody go on."""
        start, deeds = time.monotonic(), Bag(self._dice, tuple(DEEDS))
        restart = start + seconds * self._dice.uniform(0.35, 0.55)
        following = start + 3.0
        while time.monotonic() < start + seconds:
            self._heal(time.monotonic())
            if time.monotonic() > restart:
                restart = start + 2 * seconds
                self._restart_server()
            if time.monotonic() > following:
                following = time.monotonic() + self._dice.uniform(0.3, 1.7)
                self._strike(deeds.draw())
            time.sleep(_TICK)
        self._heal(start + 2 * seconds)

    def _heal(self, now: float) -> None:
        """Start whoever is missing, and let go on whoever was stopped for long enough."""
        for host in self._team.hosts:
            if self._team.ended_by_itself(host):
                self._say(f"came without a database: {host.name}")
            if host.process is None and host.due <= now:
                self._team.start(host, self._jobs)
            elif host.frozen and host.due <= now:
                self._team.thaw(host)
                self._say(f"continued: {host.name}")

    def _strike(self, deed: str) -> None:
        there = [host for host in self._team.hosts if host.process and not host.frozen]
        if not there:
            return
        host, note, pause = self._dice.choice(there), "", self._dice.uniform(*DEEDS[deed])
        if self._dice.random() < _SHARE_OF_BUSY_MOMENTS:
            time.sleep(1.0 - time.time() % 1.0 + self._dice.uniform(0.0, _BUSY))
        if deed.startswith("killed"):
            self._team.kill(host)
        elif deed == "crashed":
            note = f" with {self._team.crash(host)} jobs"
        else:
            self._team.freeze(host, with_jobs="jobs" in deed)
        host.due = time.monotonic() + pause
        self._say(f"{deed}: {host.name}{note}, for {pause:.1f} s")

    def _restart_server(self) -> None:
        """Take all locks away, also from jobs that nobody stops: of the dead, and of who sleeps."""
        self._strike("killed")
        self._strike("stopped")
        mode: Literal["fast", "immediate"] = self._dice.choice(("fast", "immediate"))
        self._say(f"server restarted: {mode}")
        self._cluster.stop(mode)
        time.sleep(self._dice.uniform(0.0, 1.0))
        self._cluster.start()
        self._log.append((time.monotonic(), "server up"))

    def _say(self, what: str) -> None:
        self._log.append((time.monotonic(), what))


@contextmanager
def server(bindir: Path) -> Iterator[Cluster]:
    """Start a server that keeps its address over a restart: that of its Unix socket."""
    with temporary_home() as home:
        cluster = Cluster(bindir, home / "cron", settings=_SETTINGS)
        cluster.init()
        cluster.start()
        yield cluster


def chaos(bindir: Path, directory: Path, *, seconds: float, seed: int) -> Verdict:
    """Run and judge.

    Args:
        bindir: The programs of the server.

        directory: An empty one, for what the jobs and the schedulers write.

        seconds: How long to break things.

        seed: Of everything random.
    """
    verdict = Verdict(seed)
    dice = random.Random(seed)  # noqa: S311
    hosts = [Host(name, PLAIN) for name in _HOSTS]
    with server(bindir) as cluster, crew(directory, hosts, cluster.dsn()) as team:
        jobs = write_jobs(directory / "jobs.toml", JOBS, seed)
        nemesis = Nemesis(cluster, team, jobs, dice, verdict.steps)
        try:
            for host in hosts:
                team.start(host, jobs)
            nemesis.run(seconds)
            team.dismiss()
            with psycopg.connect(cluster.dsn(), autocommit=True) as session:
                _settle(session, team, seed)
        except Exception:  # noqa: BLE001 - told together with all that led to it
            verdict.failure = traceback.format_exc()
        with psycopg.connect(cluster.dsn(), autocommit=True) as session:
            judge(session, team, verdict)
    return verdict


def naive(
    bindir: Path,
    directory: Path,
    *,
    seconds: float,
    programs: Sequence[Sequence[str]],
    enough: Callable[[list[Violation]], object] = bool,
) -> list[Violation]:
    """Have schedulers run short jobs and nobody disturb them; return what their record shows.

    Args:
        bindir: The programs of the server.

        directory: An empty one.

        seconds: For how long at most.

        programs: What each scheduler is.

        enough: Whether to end early.
    """
    hosts = [Host(name, program) for name, program in zip(_HOSTS, programs, strict=True)]
    with server(bindir) as cluster, crew(directory, hosts, cluster.dsn()) as team:
        jobs = write_jobs(directory / "jobs.toml", SHORT_JOBS, 0)
        for host in hosts:
            team.start(host, jobs)
        until = time.monotonic() + seconds
        found: list[Violation] = []
        ran = False
        while not enough(found) and (time.monotonic() < until or not ran):
            time.sleep(_TICK)
            assert time.monotonic() < until + _PATIENCE, "they ran"
            assert not any(map(team.ended_by_itself, hosts)), "somebody has ended by himself"
            found = check_runs(_runs_of(team, ended=True))
            ran = len(_runs_of(team, ended=True)) > len(SHORT_JOBS)
        team.dismiss()
        return check_runs(_runs_of(team))


def write_jobs(path: Path, jobs: Sequence[Planned], seed: int, schedule: str = "@every 1s") -> Path:
    """Write a file of jobs that put down what they do beside it."""
    text = _FILE
    for job in jobs:
        words = [sys.executable, "-I", "-S", str(_JOB), str(path.with_name("record"))]
        command = [*words, str(job.longest), str(seed)]
        text += _ENTRY.format(job=job, schedule=schedule, command=command)
    path.write_text(text)
    return path


def _settle(session: psycopg.Connection[Any], team: Crew, seed: int) -> None:
    """Have one scheduler without a schedule put down, or run, what the others have left."""
    quiet = Host("quiet", PLAIN)
    team.hosts.append(quiet)
    file = team.directory / "quiet.toml"
    team.start(quiet, write_jobs(file, JOBS, seed, "@yearly"))
    eventually(
        lambda: session.execute(_ACTIVE).fetchone() == (0,),
        within=_SETTLING,
        message="every tick has come to an end",
    )
    team.dismiss()


def judge(session: psycopg.Connection[Any], team: Crew, verdict: Verdict) -> None:
    """Read what all have written, and compare."""
    again = frozenset(job.name for job in JOBS if job.on_crash == "rerun")
    names = [job.name for job in JOBS]
    runs = _runs_of(team, ended=bool(verdict.failure))
    rows = [Row(*row) for row in session.execute(_ROWS)]
    decided = session.execute(_DECIDED).fetchone()
    assert decided, "nobody has ever come"
    ticks = range(decided[0] + 1, decided[1] + 1)
    verdict.violations = check_runs(runs, again)
    if not verdict.failure:
        verdict.violations += check_rows(rows, names, ticks)
        verdict.violations += compare(runs, rows, again)
    verdict.states = Counter(row.state for row in rows)
    verdict.runs = len(runs)
    (verdict.taken_up,) = session.execute(_TAKEN_UP).fetchone() or (0,)
    verdict.gaps = dict(longest_gaps(runs))
    verdict.complaints = team.complaints()
    if not verdict.failure and (left := locks_in_db(session)):
        verdict.left = "locks were left behind: " + ", ".join(map(str, left))


def _runs_of(team: Crew, *, ended: bool = False) -> list[Any]:
    runs = read_record(team.record.read_text())
    return [run for run in runs if run.end is not None] if ended else runs
