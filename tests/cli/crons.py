"""Start `advlock cron run` as a real process; read what it says, what its jobs do, and its rows."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.errors import UndefinedTable
from waiting import eventually

from .helpers import PATIENCE, Cli

if TYPE_CHECKING:
    from datetime import datetime

    from psycopg import Connection

_LONG = 6.0  # seconds; no job of these tests runs for so long once its test is over
OVER = ("succeeded", "failed", "timeout", "lost")
_ROWS = """
SELECT scheduled_at, state, reason, run_id::text, pid, key, token, attempt, losses, exit_code,
       output, started_at, finished_at
FROM advlock.cron_run WHERE job = %s ORDER BY scheduled_at
"""
_HELD = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::int8 << 32) | objid::int8 = hashtextextended(%s, 0)
"""


class Row(NamedTuple):
    """What is known of one tick."""

    scheduled_at: datetime
    state: str
    reason: str | None
    run_id: str | None
    pid: int | None
    key: int | None
    token: int | None
    attempt: int
    losses: int
    exit_code: int | None
    output: str | None
    started_at: datetime | None
    finished_at: datetime | None


class Scheduler:
    """A process that runs jobs; what it writes is in files."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process, self.pid, self.path = process, process.pid, path

    def out(self) -> bytes:
        """What it has written to stdout."""
        return self.path.with_suffix(".out").read_bytes()

    def err(self) -> str:
        """What it has written to stderr."""
        return self.path.with_suffix(".err").read_text(errors="replace")

    def says(self, words: str, times: int = 1) -> None:
        """Wait until it says so on stderr."""
        eventually(
            lambda: self.err().count(words) >= times,
            within=PATIENCE,
            message=f"{words!r} in {self.err()!r}",
        )

    def ready(self) -> Scheduler:
        """Wait until it makes passes."""
        self.says("watching the clock")
        return self

    def send(self, signum: int) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(signum)

    def code(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(PATIENCE)

    def end(self) -> int:
        """Have it end, in a hurry if need be; the exit code."""
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
            try:
                return self.process.wait(_LONG)
            except subprocess.TimeoutExpired:
                self.send(signal.SIGTERM)
        return self.code()


class Crons:
    """Schedulers with one database, and jobs that no other test has.

    Attributes:
        admin: A bystander's session in the database.

        directory: An empty one, for whatever the jobs write.
    """

    def __init__(self, dsn: str, admin: Connection[Any], directory: Path) -> None:
        self.cli = Cli(dsn)
        self.admin, self.directory = admin, directory
        self._unique = f"t{uuid.uuid4().hex[:6]}"
        self._started: list[Scheduler] = []

    def name(self, job: str) -> str:
        """The name of a job in the database."""
        return f"{self._unique}-{job}"

    def file(self, jobs: dict[str, dict[str, Any]], name: str = "jobs.toml") -> Path:
        """Write jobs down; each has a tick a second, unless it says otherwise."""
        path = self.directory / name
        path.write_text("\n".join(_toml(self.name(job), own) for job, own in jobs.items()))
        return path

    def run(self, jobs: dict[str, dict[str, Any]] | Path, *options: str, **popen: Any) -> Scheduler:
        """Start `advlock cron run` with a file of jobs, or with these."""
        number = len(self._started)
        path = jobs if isinstance(jobs, Path) else self.file(jobs, f"jobs-{number}.toml")
        written = self.directory / f"scheduler-{number}"
        with (
            written.with_suffix(".out").open("wb") as out,
            written.with_suffix(".err").open("wb") as err,
        ):
            settings = {"stdout": out, "stderr": err} | popen
            running = self.cli.start("cron", "run", str(path), *options, **settings)
        self._started.append(Scheduler(running.process, written))
        return self._started[-1]

    def rows(self, job: str) -> list[Row]:
        """What is known of the ticks of a job, the oldest first."""
        try:
            return [Row(*row) for row in self.admin.execute(_ROWS, [self.name(job)])]
        except UndefinedTable:  # the first scheduler is yet to come
            return []

    def over(self, job: str, state: str | None = None, count: int = 1) -> list[Row]:
        """Wait until so many runs of a job are over, with that state; return them."""
        wanted = (state,) if state else OVER

        def there() -> list[Row]:
            found = [row for row in self.rows(job) if row.state in wanted]
            return found if len(found) >= count else []

        return eventually(there, within=PATIENCE, message=f"{job} is over: {wanted}")

    def running(self, job: str) -> Row:
        """Wait until a job runs."""
        found = eventually(
            lambda: [row for row in self.rows(job) if row.state == "running"],
            within=PATIENCE,
            message=f"{job} runs",
        )
        return found[0]

    def held(self, job: str) -> int:
        """How many sessions hold the lock of a job, by the formula that a DBA types."""
        found = self.admin.execute(_HELD, [f"cron:{self.name(job)}"]).fetchone()
        assert found
        return int(found[0])

    def close(self) -> None:
        """End whoever is left."""
        try:
            for one in self._started:
                one.end()
        finally:
            self.cli.close()


def _toml(name: str, job: dict[str, Any]) -> str:
    lines = [f"[jobs.{name}]"]
    for key, value in ({"schedule": "@every 1s"} | job).items():
        if isinstance(value, dict):
            inner = ", ".join(f"{name} = {json.dumps(text)}" for name, text in value.items())
            lines.append(f"{key} = {{{inner}}}")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def shell(line: str, **more: Any) -> dict[str, Any]:
    """A job that the shell executes."""
    return {"shell": True, "command": line, **more}


def until(path: Path) -> str:
    """A line for the shell that goes on until there is such a file."""
    return f"while [ ! -e {path} ]; do sleep 0.05; done"
