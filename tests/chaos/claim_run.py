"""A chaos run of `claim`: workers that are killed and stopped, sessions that end, a crash.

    python3 dev.py test tests/chaos -k test_claim_chaos --chaos-minutes 5 [--chaos-seed N]

What was claimed, worked on and committed is read from the server: nothing depends on what a worker
believed.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import time
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from waiting import eventually

import advlock

from .crew import Post, crew
from .nemesis import Bag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from advlock.embedded._cluster import Cluster

    from .crew import Crew

DEEDS: Final = ("killed", "killed again", "stopped", "sessions ended")
_JOBS: Final = 60_000
_PAUSE: Final = (0.05, 0.2)  # seconds between two deeds
_STOPPED: Final = 0.4

_SCHEMA: Final = """
CREATE TABLE job (id int PRIMARY KEY, state text NOT NULL DEFAULT 'new');
CREATE INDEX ON job (id) WHERE state = 'new';
CREATE TABLE done (job int NOT NULL, pid int NOT NULL, xid xid8 NOT NULL);
CREATE TABLE work (
    number bigint GENERATED ALWAYS AS IDENTITY, job int NOT NULL, worker text NOT NULL,
    what text NOT NULL
);
CREATE FUNCTION note_done() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO done VALUES (NEW.id, pg_backend_pid(), pg_current_xact_id());
    RETURN NULL;
END $$;
CREATE TRIGGER note_done AFTER UPDATE ON job FOR EACH ROW EXECUTE FUNCTION note_done();
INSERT INTO job SELECT n FROM generate_series(1, {jobs}) AS n;
ANALYZE job;
"""
# The record first: or a worker that has lost its claim could still write down that it works. Both
# are looked up before: it may have come back with new ones when the first one is gone.
_SESSIONS: Final = """
SELECT pid FROM pg_stat_activity WHERE application_name IN (%s, %s)
ORDER BY application_name LIKE 'claim-%%'
"""
_END: Final = "SELECT pg_terminate_backend(%s, 2000)"
_WORK: Final = "SELECT job, worker, what FROM work ORDER BY number"


class Note(NamedTuple):
    """A line of the record: a worker says that it begins with a job, or ends."""

    job: int
    worker: str
    what: str


def twice(done: Iterable[int]) -> list[str]:
    """The jobs that were committed as done more than once."""
    return [f"job {job} was done {n} times" for job, n in Counter(done).items() if n > 1]


def overlaps(notes: Sequence[Note]) -> list[str]:
    """The jobs on which two processes worked at once: one began before the other's end.

    What counts is proven: a process that has written something later was there when it wrote down
    the end, and so was its claim. The last words of one that was killed may be written when the
    server has freed its rows already.
    """
    last = {note.worker: number for number, note in enumerate(notes)}
    begun: dict[tuple[int, str], int] = {}
    spans: defaultdict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for number, note in enumerate(notes):
        if note.what == "begins":
            begun[note.job, note.worker] = number
        elif number < last[note.worker]:
            spans[note.job].append((begun[note.job, note.worker], number, note.worker))
    found = []
    for job, all_spans in spans.items():
        for (_, end, one), (begin, _, other) in pairwise(sorted(all_spans)):
            if begin < end:
                found.append(f"job {job}: {one} and {other} at once")
    return found


@dataclass(slots=True)
class Verdict:
    """What came out.

    Attributes:
        violations: What the two records show.

        done: How many jobs were done.

        faults: What went wrong on purpose, and how often.

        failure: Why the run ended early, and what workers said; they should say nothing.

        stuck: How many jobs nobody could claim when all workers were gone.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    done: int = 0
    begun: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    stuck: int = 0
    failure: str = ""

    def __str__(self) -> str:
        faults = ", ".join(f"{number} {fault}" for fault, number in sorted(self.faults.items()))
        head = f"seed {self.seed}; {self.done} jobs done, {self.begun} begun; faults: {faults}"
        return "\n".join([head, self.failure, *self.violations[:20]]).strip()


def chaos(
    cluster: Cluster,
    directory: Path,
    *,
    seconds: float,
    seed: int,
    naive: bool = False,
    enough: Callable[[Any], object] = bool,
) -> Verdict:
    """Run and judge.

    Args:
        cluster: The server, which is crashed once; the run makes a database of its own there.

        directory: An empty one.

        seconds: How long to break things.

        seed: Of everything random.

        naive: Without row locks, and without any faults: the control.

        enough: Whether to end early, asked with a session.
    """
    verdict, name = Verdict(seed), f"claims_{secrets.token_hex(4)}"
    with psycopg.connect(cluster.dsn(), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
    dsn = cluster.dsn(name)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(_SCHEMA.format(jobs=_JOBS))
    arguments = ["--naive"] if naive else []
    posts = [
        Post(f"direct-{number}", world, dsn, arguments, module="chaos.claim_worker")
        for number, world in enumerate(("sync", "async") * 2)
    ]
    with crew(directory, posts, seed) as team:
        try:
            _await_progress(dsn)
            if naive:
                with psycopg.connect(dsn, autocommit=True) as session:
                    eventually(lambda: enough(session), within=seconds)
            else:
                _break_things(cluster, team, seconds, verdict)
                _await_progress(dsn)
        except Exception:  # noqa: BLE001 - told together with all that led to it
            verdict.failure = traceback.format_exc()
    _judge(dsn, verdict)
    verdict.failure += team.complaints()
    return verdict


def _await_progress(dsn: str) -> None:
    """Wait until something more is done than now."""
    count = "SELECT count(*) FROM done"
    with psycopg.connect(dsn, autocommit=True) as session:

        def done() -> int:
            return int(session.execute(count).fetchone()[0])  # type: ignore[index]

        before = done()
        eventually(lambda: done() > before, within=20.0, message="a job that is done")


def _break_things(cluster: Cluster, team: Crew, seconds: float, verdict: Verdict) -> None:
    dice = random.Random(verdict.seed)  # noqa: S311
    deeds, end = Bag(dice, DEEDS), time.monotonic() + seconds
    crash = end - seconds / 2
    asleep: list[tuple[float, Post]] = []
    while time.monotonic() < end or not (deeds.drawn_all and verdict.faults["server crashed"]):
        for due, post in asleep[:]:
            if due <= time.monotonic():
                team.thaw(post)
                asleep.remove((due, post))
        if time.monotonic() > crash:
            crash = end + seconds
            cluster.stop("immediate")
            cluster.start()
            verdict.faults["server crashed"] += 1
        deed, post = deeds.draw(), dice.choice(team.posts)
        if deed.startswith("killed"):
            team.kill(post)
            asleep = [each for each in asleep if each[1] is not post]
            team.start(post)
        elif deed == "stopped" and not post.frozen:
            team.freeze(post)
            asleep.append((time.monotonic() + dice.uniform(0, _STOPPED), post))
        elif deed == "sessions ended":
            _end_sessions(cluster, post)
        verdict.faults[deed] += 1
        time.sleep(dice.uniform(*_PAUSE))
    for _, post in asleep:
        team.thaw(post)


def _end_sessions(cluster: Cluster, post: Post) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as session:
        names = (f"record-{post.name}", f"claim-{post.name}")
        for pid in session.execute(_SESSIONS, names).fetchall():
            session.execute(_END, pid)


def _judge(dsn: str, verdict: Verdict) -> None:
    """Read both records; then take whatever is left, which nobody may have any more."""
    with psycopg.connect(dsn) as session:
        done = [job for (job,) in session.execute("SELECT job FROM done").fetchall()]
        notes = [Note(*row) for row in session.execute(_WORK).fetchall()]
        left = session.execute("SELECT count(*) FROM job WHERE state = 'new'").fetchone()
        assert left
        verdict.done = len(set(done))
        verdict.begun = sum(note.what == "begins" for note in notes)
        verdict.violations = twice(done) + overlaps(notes)
        assert left[0] + verdict.done == _JOBS
        with contextlib.suppress(AssertionError):
            eventually(lambda: _claimable(session) == left[0])
        verdict.stuck = left[0] - _claimable(session)


def _claimable(session: psycopg.Connection[Any]) -> int:
    session.rollback()
    return len(advlock.claim(session, "job", where="state = 'new'", limit=_JOBS))
