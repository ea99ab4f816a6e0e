"""Rate limits under kill -9: no window of the server's own record has too many permits."""

from __future__ import annotations

import contextlib
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rate.windows import AUDIT, grants, most_in_a_window

from advlock import _schema

from .rate_worker import LIMIT, PER

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from psycopg import Connection

TESTS = Path(__file__).parents[1]
WORKERS = ("sync", "async", "sync", "async")
SECONDS = 2.5
WINDOW = round(PER * 1e6)


class Crew:
    """The workers of a run; whoever is left in the end is killed."""

    def __init__(self, dsn: str, name: str, how: str) -> None:
        self._arguments = [dsn, name, how]
        self._posts = [self._start(world) for world in WORKERS]
        for post in self._posts:
            self._await(post)

    def _start(self, world: str) -> subprocess.Popen[bytes]:
        dsn, name, how = self._arguments
        command = [sys.executable, "-m", "chaos.rate_worker", dsn, name, f"{world} {how}"]
        return subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE)

    def _await(self, post: subprocess.Popen[bytes]) -> None:
        assert post.stdout
        assert post.stdout.readline(), "it has died before it had a permit"

    def replace_one(self) -> None:
        """Kill somebody, and start another one in his place."""
        number = random.randrange(len(WORKERS))  # noqa: S311
        self._end(self._posts[number])
        self._posts[number] = self._start(WORKERS[number])
        self._await(self._posts[number])

    def close(self) -> None:
        """Kill everybody."""
        for post in self._posts:
            self._end(post)

    def _end(self, post: subprocess.Popen[bytes]) -> None:
        post.kill()
        post.communicate(timeout=20)


def prepared(admin: Connection[Any]) -> None:
    """Tables, and a record of what goes into them."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    admin.execute(_schema.text().encode())
    admin.execute(AUDIT)


def run(admin: Connection[Any], dsn: str, seconds: float, how: str = "") -> list[tuple[int, int]]:
    """Let them take permits, kill one now and then, and return what was granted."""
    prepared(admin)
    name = f"chaos-{secrets.token_hex(4)}"
    with contextlib.closing(Crew(dsn, name, how)) as crew:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(random.uniform(0.1, 0.6))  # noqa: S311
            crew.replace_one()
    found = grants(admin, name)
    admin.execute("DROP TRIGGER rate_audit ON advlock.rate_grant")
    return found


def test_no_window_is_too_full(
    dsn: str,
    admin: Connection[Any],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Threads and tasks of four processes, which are killed all the time."""
    minutes = request.config.getoption("--chaos-minutes", None)
    found = run(admin, dsn, 60.0 * minutes if minutes else SECONDS)
    used = sum(n for _, n in found)
    windows = (found[-1][0] - found[0][0]) / WINDOW
    record_property("rate", f"{used} permits, {used / windows / LIMIT:.0%} of the limit")
    assert most_in_a_window(found, WINDOW) <= LIMIT
    assert used > 2 * LIMIT


def test_without_the_lock_windows_are_too_full(dsn: str, admin: Connection[Any]) -> None:
    """The control: the same statements, and nobody waits for his turn."""
    end = time.monotonic() + 40
    while time.monotonic() < end:
        if most_in_a_window(run(admin, dsn, SECONDS / 2, "unlocked"), WINDOW) > LIMIT:
            return
    raise AssertionError("the checker has seen nothing")
