"""The cron: what a claim costs, how soon a tick starts, and a thousand jobs at one second.

The first is a ratio within one run; the other two are times, by the database's clock, and mean
something only together with the machine they come from.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg

from advlock import Locks, _schema
from advlock._cron import _sql
from advlock._cron._agenda import Agenda
from advlock._cron._job import Job, JobSet
from advlock._cron._schedule import Schedule
from advlock._cron._tell import here
from bench.rounds import Quartiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._plan import SessionPlan

HOSTS: Final = 3
JOBS: Final = 1000
COMMANDS: Final = 10
NAIVE: Final = """
INSERT INTO advlock.cron_run (job, scheduled_at, state) VALUES (%s, %s, 'claimed')
ON CONFLICT DO NOTHING RETURNING job
"""
MEMBER: Final = """
import sys, advlock
scheduler = getattr(advlock, sys.argv[2])(sys.argv[1], max_running=1000)
if sys.argv[2] == "Scheduler":
    def nothing(): pass
    for n in range(int(sys.argv[3])): scheduler.job("@every 5s", name=f"job-{n}")(nothing)
    scheduler.run()
else:
    import asyncio
    async def nothing(): pass
    for n in range(int(sys.argv[3])): scheduler.job("@every 5s", name=f"job-{n}")(nothing)
    asyncio.run(scheduler.run())
"""


def report(dsn: str, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure all three, and say so line by line."""
    found: dict[str, Any] = {}
    for number in (1, 100, JOBS):
        cost = claim_cost(dsn, number, rounds)
        found[f"claim_{number}"] = cost._asdict()
        print(
            f"claiming {number:>4} ticks {cost.ours.median * 1e6:>8,.0f} us a tick;"
            f" one INSERT each: {cost.baseline.median * 1e6:,.0f} us,"
            f" so {cost.ratio.median:.2f} x as long"
            f" (quartiles {cost.ratio.low:.2f} to {cost.ratio.high:.2f})",
            flush=True,
        )
    late = latency(dsn, seconds)
    found["latency"] = late
    print(
        f"from the tick to the command's first word, {HOSTS} schedulers, {late['runs']} runs:"
        f" p50 {late['p50_ms']:.0f} ms, p99 {late['p99_ms']:.0f} ms",
        flush=True,
    )
    for kind in ("AsyncScheduler", "Scheduler"):
        burst = found[f"burst_{kind}"] = bursts(dsn, kind)
        print(
            f"{JOBS} jobs of {HOSTS} x {kind} at one second: last begun after"
            f" {burst['last_begun_ms']:.0f} ms, last finished after"
            f" {burst['last_finished_ms']:.0f} ms, shares {burst['shares']},"
            f" {burst['lost']} lost, {burst['missing']} missing",
            flush=True,
        )
    return found


# -- claiming --------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Seconds a tick, and how many times as long ours takes."""

    ours: Quartiles
    baseline: Quartiles
    ratio: Quartiles


def claim_cost(dsn: str, number: int, rounds: int) -> Cost:
    """Whole passes (look, decide, claim, mark), against one bare INSERT for each tick."""
    ours, baseline = [], []
    with fresh(dsn) as admin, Locks(dsn) as client:
        jobs = {f"j{n}": Job(f"j{n}", Schedule.parse("@every 1s")) for n in range(number)}
        agenda = Agenda(JobSet(jobs), here(), lambda name: client._ascii_key(name).value)
        session = client._sessions.connect(None)
        client._beside(session, agenda.join())
        for n in range(rounds + 1):
            claims = 0
            began = time.perf_counter()
            while claims < number:  # not all in one pass: others get their share
                claims += len(client._beside(session, later(agenda.turn(number), n + 1)).claims)
            took = time.perf_counter() - began
            admin.execute("DELETE FROM advlock.cron_run")
            tick = datetime.now().astimezone()
            began = time.perf_counter()
            for name in jobs:
                assert admin.execute(NAIVE, [name, tick]).fetchone()
            its = time.perf_counter() - began
            admin.execute("DELETE FROM advlock.cron_run")
            if n:
                ours.append(took / number)
                baseline.append(its / number)
    ratios = [mine / other for mine, other in zip(ours, baseline, strict=True)]
    return Cost(Quartiles.of(ours), Quartiles.of(baseline), Quartiles.of(ratios))


def later(plan: SessionPlan[Any], seconds: int) -> SessionPlan[Any]:
    """Drive `plan` so many seconds later, as far as it can see: every pass finds one tick a job."""
    script = next(plan)
    try:
        while True:
            rows = yield script
            if script.steps[0].sql == _sql.LOOK:
                facts = json.loads(rows[0][0][0] or "")
                now = datetime.fromisoformat(facts["now"]) + timedelta(seconds=seconds)
                rows = [[(json.dumps(facts | {"now": now.isoformat()}),)]]
            script = plan.send(rows)
    except StopIteration as stop:
        return stop.value


# -- starting --------------------------------------------------------------------------------------


def latency(dsn: str, seconds: float) -> dict[str, float]:
    """Ten commands a second; each tells the time as its first word, which the history keeps."""
    with fresh(dsn) as admin, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.toml"
        file.write_text(
            "".join(
                f'[jobs.j{n}]\nschedule = "@every 1s"\ncommand = ["date", "+%s.%N"]\nkeep = 1000\n'
                for n in range(COMMANDS)
            )
        )
        command = [sys.executable, "-m", "advlock", "cron", "run", str(file), "--dsn", dsn, "-q"]
        with members([command] * HOSTS):
            time.sleep(seconds)
        rows = admin.execute(
            "SELECT output::float8 - extract(epoch FROM scheduled_at)::float8"
            " FROM advlock.cron_run WHERE state = 'succeeded'"
        ).fetchall()
    late = sorted(float(row[0]) * 1000 for row in rows)
    cuts = statistics.quantiles(late, n=100, method="inclusive")
    return {"runs": len(late), "p50_ms": cuts[49], "p99_ms": cuts[98]}


def bursts(dsn: str, kind: str) -> dict[str, Any]:
    """Three processes, a thousand functions each, all due at the same second."""
    with fresh(dsn) as admin:
        with members([[sys.executable, "-c", MEMBER, dsn, kind, str(JOBS)]] * HOSTS):
            due = (
                "SELECT count(DISTINCT scheduled_at) FROM advlock.cron_run WHERE state <> 'claimed'"
            )
            while admin.execute(due).fetchone()[0] < 3:  # the first warms up
                time.sleep(0.1)
            time.sleep(4)
        rows = admin.execute(
            "SELECT scheduled_at, max(started_at) - scheduled_at, max(finished_at) - scheduled_at,"
            "       count(*) FROM advlock.cron_run GROUP BY 1 ORDER BY 1"
        ).fetchall()[1:3]
        shares = admin.execute(
            "SELECT count(*) FROM advlock.cron_run GROUP BY pid ORDER BY 1"
        ).fetchall()
        lost = admin.execute("SELECT count(*) FROM advlock.cron_run WHERE losses > 0").fetchone()
    total = sum(row[0] for row in shares)
    return {
        "last_begun_ms": max(row[1].total_seconds() for row in rows) * 1000,
        "last_finished_ms": max(row[2].total_seconds() for row in rows) * 1000,
        "shares": "/".join(f"{100 * row[0] / total:.0f}%" for row in shares),
        "lost": lost[0] if lost else 0,
        "missing": sum(JOBS - row[3] for row in rows),
    }


@contextlib.contextmanager
def members(commands: list[list[str]]) -> Iterator[None]:
    """Run processes meanwhile."""
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)


@contextlib.contextmanager
def fresh(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection, and tables with nothing in them."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
        admin.execute(_schema.text().encode())
        yield admin
