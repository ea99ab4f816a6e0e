"""Processes that are killed at random never leave a lock behind, nor let two in at once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import locks_in_db
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

WORKER = Path(__file__).with_name("worker.py")
PROCESSES = 4
SECONDS = 5.0
PAUSE = 0.15  # between two kills


class Fight:
    """A number of workers, one of which is killed and replaced again and again."""

    def __init__(self, world: str, dsn: str, directory: Path, *, locked: bool) -> None:
        self.arguments = [sys.executable, str(WORKER), world, dsn, str(directory)]
        self.rest = [] if locked else ["unlocked"]
        self.directory = directory
        self.dice = random.Random(4)  # noqa: S311
        self.workers: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def start(self) -> None:
        """Start one more worker."""
        seed = str(self.dice.randrange(10**9))
        self.workers.append(subprocess.Popen([*self.arguments, seed, *self.rest]))

    def run(self, seconds: float) -> None:
        """Fight for that long."""
        for _ in range(PROCESSES):
            self.start()
        until = time.monotonic() + seconds
        eventually(lambda: self.steps() > 0, within=20, message="no worker got going")
        # A busy machine needs longer for the same fight.
        while time.monotonic() < until or (self.kills < 15 and time.monotonic() < until + 20):
            enough = self.steps() + 3
            time.sleep(PAUSE)
            eventually(partial(self.has_made, enough), within=20, message="nothing moves")
            victim = self.workers.pop(self.dice.randrange(len(self.workers)))
            assert victim.poll() is None, f"a worker died by itself, with {victim.returncode}"
            self.kill(victim)
            self.kills += 1
            self.start()

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """Kill as the kernel does when memory runs out."""
        worker.kill()
        worker.wait()

    def end(self) -> None:
        """Kill whoever is left."""
        while self.workers:
            self.kill(self.workers.pop())

    def _lines(self, key: str) -> Iterator[str]:
        for log in self.directory.glob(f"{key}.*.log"):
            yield from log.read_text().splitlines()

    def steps(self) -> int:
        """Count the critical sections that were completed."""
        return sum(line.startswith("step") for key in ("red", "green") for line in self._lines(key))

    def has_made(self, steps: int) -> bool:
        """Tell whether that many sections were completed."""
        return self.steps() >= steps

    def overlaps(self) -> int:
        """Count the sections that found the marker of somebody alive."""
        return sum(line == "overlap" for key in ("red", "green") for line in self._lines(key))

    def lost_updates(self) -> int:
        """Count the sections that started from a number somebody else had started from."""
        lost = 0
        for key in ("red", "green"):
            starts = Counter(line for line in self._lines(key) if line.startswith("step"))
            lost += sum(count - 1 for count in starts.values())
        return lost


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> str:
    """The client under test."""
    return str(request.param)


def test_killed_at_random(world: str, dsn: str, admin: psycopg.Connection, tmp_path: Path) -> None:
    """No overlap by either measure, many sections, and no lock left when all are dead."""
    fight = Fight(world, dsn, tmp_path, locked=True)
    try:
        fight.run(SECONDS)
    finally:
        fight.end()

    assert fight.overlaps() == 0
    assert fight.lost_updates() == 0
    assert fight.kills >= 15
    eventually(lambda: not locks_in_db(admin), within=5, message="a dead worker's lock stayed")


def test_without_locks_both_measures_see_the_overlap(world: str, dsn: str, tmp_path: Path) -> None:
    """The control: the same fight with locking switched off."""
    fight = Fight(world, dsn, tmp_path, locked=False)
    try:
        fight.run(1.0)
        eventually(lambda: fight.overlaps() and fight.lost_updates(), within=20)
    finally:
        fight.end()

    assert fight.overlaps() > 0
    assert fight.lost_updates() > 0
