"""A chaos run of `once`: processes that are killed and stopped at random, and the verdict.

python3 dev.py test tests/chaos -k test_once_chaos --chaos-minutes 5 [--chaos-seed N]
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from clusters import temporary_home
from servers import locks_in_db
from waiting import eventually

from advlock import cli
from advlock.embedded._cluster import Cluster

from .once_worker import TABLES, WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TESTS: Final = Path(__file__).resolve().parent.parent
_SETTINGS: Final = {"fsync": "off", "max_connections": "100"}
_TICK: Final = 0.05  # between two deeds
_CALM: Final = 30.0  # how long it may take, at most, until everybody is at work again
_DEEDS: Final = ("killed", "killed", "killed", "stopped", "session ended")
_OF_HERE: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND state = 'idle in transaction' AND datname = current_database()
ORDER BY random() LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the record."""

    name: str
    run: str
    pid: int
    event: str
    at: int


@dataclass(slots=True)
class Verdict:
    """What came out.

    Attributes:
        violations: What the checker found.

        deeds: What went wrong on purpose, and how often.

        done: How many things of each kind were done.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    deeds: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    def has(self, expected: Sequence[str]) -> bool:
        """Whether each of these is among what was found."""
        return all(any(kind in told for told in self.violations) for kind in expected)

    def __str__(self) -> str:
        done = ", ".join(f"{number} {kind}" for kind, number in sorted(self.done.items()))
        deeds = ", ".join(f"{number} {deed}" for deed, number in sorted(self.deeds.items()))
        return "\n".join(
            [f"seed {self.seed}; done: {done}; faults: {deeds}", *self.violations[:30]]
        )


class Crew:
    """The processes, and the one that starts them."""

    def __init__(self, nursery: subprocess.Popen[str], dice: random.Random) -> None:
        self._nursery, self._dice = nursery, dice
        self.pids: dict[int, str] = {}

    def start(self, kind: str) -> None:
        """Start one more."""
        assert self._nursery.stdin
        assert self._nursery.stdout
        print(kind, self._dice.randrange(10**9), file=self._nursery.stdin, flush=True)
        self.pids[int(self._nursery.stdout.readline())] = kind

    def kill(self, pid: int) -> None:
        """Kill one."""
        os.kill(pid, signal.SIGKILL)
        del self.pids[pid]


@contextmanager
def scene(bindir: Path, dice: random.Random) -> Iterator[tuple[str, Crew]]:
    """Start a server and a nursery; yield the server's DSN."""
    with temporary_home() as home:
        cluster = Cluster(bindir, home / "once", settings=_SETTINGS)
        cluster.init()
        cluster.start()
        assert not cli.main(["init", "--dsn", cluster.dsn()])
        with psycopg.connect(cluster.dsn(), autocommit=True) as session:
            session.execute(TABLES)
        argv = [sys.executable, "-m", "chaos.once_worker", cluster.dsn()]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(argv, cwd=TESTS, text=True, **pipes) as nursery:
            crew = Crew(nursery, dice)
            try:
                yield cluster.dsn(), crew
            finally:
                assert nursery.stdin
                nursery.stdin.close()


def chaos(
    bindir: Path, kinds: Sequence[str], *, seconds: float, seed: int, expected: Sequence[str] = ()
) -> Verdict:
    """Run and judge.

    Args:
        bindir: The programs of the server.

        kinds: Who is there, at any time.

        seconds: How long to break things.

        seed: Of everything random.

        expected: What is to be found, in a control: nobody is disturbed then, and it ends with it.
    """
    verdict = Verdict(seed)
    dice = random.Random(seed)  # noqa: S311
    with scene(bindir, dice) as (dsn, crew), psycopg.connect(dsn, autocommit=True) as session:
        for kind in kinds:
            crew.start(kind)
        until = time.monotonic() + seconds
        while time.monotonic() < until or not (expected or len(verdict.deeds) == len(set(_DEEDS))):
            time.sleep(dice.uniform(0.0, 2 * _TICK))
            if not expected:
                _strike(crew, session, dice, verdict)
            elif verdict.has(expected):
                break
            else:
                verdict.violations = judge(session, Counter())
        if not expected:  # whatever was broken, they go on; how soon, says the machine's load
            told = "something of each kind is done"
            eventually(lambda: _marked(session) >= set(kinds), within=_CALM, message=told)
        for pid in list(crew.pids):
            crew.kill(pid)
        eventually(lambda: not locks_in_db(session), within=10.0, message="no lock is left")
        verdict.violations = judge(session, verdict.done)
    return verdict


def _marked(session: Any) -> set[str]:
    rows = session.execute("SELECT DISTINCT split_part(name, '-', 1) FROM marked")
    return {kind for (kind,) in rows}


def _strike(crew: Crew, session: Any, dice: random.Random, verdict: Verdict) -> None:
    deed = dice.choice(_DEEDS)
    victim = dice.choice(list(crew.pids))
    if deed == "killed":
        kind = crew.pids[victim]
        crew.kill(victim)
        crew.start(kind)
    elif deed == "stopped":
        os.kill(victim, signal.SIGSTOP)
        time.sleep(dice.uniform(0.0, 4 * _TICK))
        os.kill(victim, signal.SIGCONT)
    else:  # only one that works in a transaction: what that has not committed is not there
        session.execute(_OF_HERE)
    verdict.deeds[deed] += 1


# -- the checker -----------------------------------------------------------------------------------


def judge(session: Any, done: Counter[str]) -> list[str]:
    """Read what was written on the server, and say what must not be."""
    by_name: dict[str, list[Entry]] = defaultdict(list)
    rows = session.execute("SELECT name, run, pid, event, at FROM history ORDER BY at")
    last: dict[int, int] = {}
    for row in rows:
        entry = Entry(*row)
        by_name[entry.name].append(entry)
        last[entry.pid] = entry.at
    marks = dict(session.execute("SELECT name, count(*) FROM marked GROUP BY name").fetchall())
    work = dict(session.execute("SELECT name, count(*) FROM work GROUP BY name").fetchall())
    naive = {name for (name,) in session.execute("SELECT name FROM naive")}
    found: list[str] = []
    for name, entries in by_name.items():
        kind = name.partition("-")[0]
        marked = marks.get(name, 0) or int(name in naive)
        done[kind] += marked
        if kind == "here":
            # A body whose transaction was ended may be under way still; nothing of it stays.
            if not work.get(name, 0) == marked <= 1:
                found.append(
                    f"{name}: marked {marked} times, with {work.get(name, 0)} rows of work"
                )
            continue
        found += overlaps(name, entries)
        if kind != "window":
            found += repeated(name, entries, last, marked)
        found += early(name, entries)
    found += too_soon(session)
    return found


def overlaps(name: str, entries: list[Entry]) -> Iterator[str]:
    """Find bodies that ran at the same time, of those who lived to write about it."""
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for entry in entries:
        if entry.run:
            begins.setdefault(entry.run, entry.at)
            ends[entry.run] = entry.at
    last = ""
    for run, begin in sorted(begins.items(), key=lambda item: item[1]):
        if last and begin <= ends[last]:
            yield f"{name}: {run} began while {last} was at it"
        last = run


def repeated(name: str, entries: list[Entry], last: dict[int, int], marked: int) -> Iterator[str]:
    """Find what was done to the end twice, though who did it lived to do something else."""
    ends = [entry for entry in entries if entry.event == "end"]
    if marked > 1:
        yield f"{name}: marked {marked} times"
    if marked and not ends:
        yield f"{name}: marked, and nobody has done it"
    for entry in ends[:-1]:
        if last[entry.pid] > entry.at:
            yield f"{name}: {entry.run} has done it, lived, and it was done again"


def early(name: str, entries: list[Entry]) -> Iterator[str]:
    """Find those who went on before anybody had done it."""
    first = min((entry.at for entry in entries if entry.event == "end"), default=None)
    for entry in entries:
        if entry.event == "went on" and (first is None or entry.at < first):
            yield f"{name}: {entry.pid} went on before it was done"


def too_soon(session: Any) -> Iterator[str]:
    """Find two of one window, by the server's own times: of those that came to their end."""
    rows = session.execute(
        "SELECT name, started_at, started_at - lag(started_at) OVER w FROM marked"
        " WHERE name LIKE 'window-%' WINDOW w AS (PARTITION BY name ORDER BY started_at)"
    )
    for name, at, gap in rows:
        if gap is not None and gap.total_seconds() < WINDOW:
            yield f"{name}: again at {at}, after {gap}"
