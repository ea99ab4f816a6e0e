"""Hosts whose clocks are wrong: ticks go by the database's, each runs once, and they are told."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from .crons import Crons, Row, shell
from .helpers import PATIENCE

if TYPE_CHECKING:
    from datetime import datetime

pytest_plugins = ["cli.cron_fixtures"]

JOBS = 6
TICKS = 7
SKEW = 30  # seconds that the clocks are off
LATE = 10.0  # seconds that a busy machine may take to start a job; less than that
_WARNING = re.compile(r"this host's clock is ([\d.]+) s (ahead of|behind) the database's")


def skewed(by: str) -> dict[str, str]:
    """Variables for a process whose host's clock is to be wrong; its monotonic one is not.

    What `faketime -f` sets, without its process in between: that would get our signals.
    """
    if not shutil.which("faketime"):
        pytest.skip("faketime is not installed: apt-get install faketime")
    # By the names of old versions and of new ones.
    plain = {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return plain | {"LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1", "FAKETIME": by}


def test_clocks_that_are_wrong(crons_once: Crons) -> None:
    """One of three is half a minute ahead, one behind: each tick runs once, and at its time.

    Both warn of their clocks, once, and the third has nothing to say.
    """
    crons = crons_once
    record = crons.directory / "record"
    line = f'echo "$ADVLOCK_JOB $ADVLOCK_SCHEDULED_AT $HOST" >> {record}'
    file = crons.file({f"job-{n}": shell(line) for n in range(JOBS)})
    clocks = {"right": {}, "fast": skewed(f"+{SKEW}s"), "slow": skewed(f"-{SKEW}s")}
    hosts = {
        name: crons.run(file, env=crons.cli.env | {"HOST": name} | clock)
        for name, clock in clocks.items()
    }
    for scheduler in hosts.values():
        scheduler.ready()
    for job in range(JOBS):
        crons.over(f"job-{job}", "succeeded", TICKS)
    eventually(lambda: len(_hosts(record.read_text())) > 1, within=PATIENCE)
    for name, scheduler in hosts.items():
        assert scheduler.end() == 0, f"{name}: {scheduler.err()}"
    ran = Counter(tuple(line.split()[:2]) for line in record.read_text().splitlines())
    assert set(ran.values()) == {1}, "no tick ran twice"
    rows = {(f"job-{n}", row.scheduled_at): row for n in range(JOBS) for row in _rows(crons, n)}
    assert {(crons.name(job), tick.isoformat()) for job, tick in rows} == set(ran)
    for (job, tick), row in rows.items():
        assert row.started_at is not None
        assert 0 <= (row.started_at - tick).total_seconds() < LATE, f"{job} at its time: {row}"
    for n in range(JOBS):
        _has_no_gap([row.scheduled_at for row in crons.rows(f"job-{n}")])
    told = {name: _WARNING.findall(scheduler.err()) for name, scheduler in hosts.items()}
    assert told["right"] == []
    for name, way in {"fast": "ahead of", "slow": "behind"}.items():
        ((seconds, told_way),) = told[name]
        assert told_way == way
        assert SKEW - 1 < float(seconds) < SKEW + LATE, "as measured, on a busy machine"


def _rows(crons: Crons, job: int) -> list[Row]:
    return [row for row in crons.rows(f"job-{job}") if not row.state.startswith("skipped")]


def _hosts(record: str) -> set[str]:
    return {line.split()[2] for line in record.splitlines()}


def _has_no_gap(ticks: list[datetime]) -> None:
    steps = [(after - before).total_seconds() for before, after in pairwise(sorted(ticks))]
    assert set(steps) == {1.0}
