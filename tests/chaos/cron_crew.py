"""The schedulers of a cron's chaos run: started, killed with or without their jobs, stopped.

They are found by a mark in their environment, and so are their jobs: a scheduler that is killed
leaves them to nobody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from waiting import eventually, stop

from advlock.cli.exits import Exit

from .crew import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CLOSING = 40.0  # seconds, on a busy machine; the default of --wait is 25
_NOT_LONGER_THAN_WE = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(slots=True)
class Host:
    """A scheduler's place, taken by one process after the other.

    Attributes:
        name: Unique in the run.

        program: What python is to run, up to the file of the jobs.

        process: Who is there now; None for nobody.

        due: When to start somebody, or to let him go on, in seconds of the monotonic clock.

        frozen: What was stopped, the scheduler first.
    """

    name: str
    program: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    due: float = 0.0
    frozen: tuple[int, ...] = ()


class Crew:
    """All hosts of a run; what they say is in files of one directory.

    Args:
        directory: That one; the jobs' record is there, too.

        hosts: Who takes part.

        dsn: The database.
    """

    def __init__(self, directory: Path, hosts: list[Host], dsn: str) -> None:
        self.directory, self.hosts, self.record = directory, hosts, directory / "record"
        self._mark = secrets.token_hex(8)
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ADVLOCK_")}
        self._environment = {**clean, "PYTHONPATH": path, "ADVLOCK_DSN": dsn}
        self.record.touch()

    def start(self, host: Host, jobs: Path) -> None:
        """Put a new process in its place; it does not outlive us."""
        mark = {"CHAOS_CRON": f"{self._mark}-{host.name}"}
        with self._log(host).open("ab") as log:
            host.process = subprocess.Popen(
                [*_NOT_LONGER_THAN_WE, sys.executable, *host.program, "run", jobs],
                env=self._environment | mark,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, host: Host) -> None:
        """Kill the scheduler alone: its jobs go on."""
        assert host.process
        host.process.kill()
        host.process.wait()
        host.process, host.frozen = None, ()

    def crash(self, host: Host) -> int:
        """Kill the scheduler with all its jobs, as when a container ends; tell how many it had."""
        self.kill(host)
        jobs = self.jobs(host)
        with self.record.open("ab", buffering=0) as record:
            record.write(b"".join(b"killed %d %d\n" % (pid, time.monotonic_ns()) for pid in jobs))
        for pid in jobs:
            _send(pid, signal.SIGKILL)
        return len(jobs)

    def freeze(self, host: Host, *, with_jobs: bool) -> None:
        """Stop it in the middle of whatever it does."""
        assert host.process
        host.frozen = (host.process.pid,)
        if host.process.poll() is None:
            stop(host.process.pid)
        if with_jobs:
            host.frozen += tuple(self.jobs(host))
        for pid in host.frozen[1:]:
            _send(pid, signal.SIGSTOP)

    def thaw(self, host: Host) -> None:
        """Let it go on as if nothing had happened."""
        for pid in host.frozen:
            _send(pid, signal.SIGCONT)
        host.frozen = ()

    def ended_by_itself(self, host: Host) -> bool:
        """Whether it has ended, as it may only if there was no database when it came."""
        if host.process is None or host.process.poll() is None:
            return False
        code = host.process.returncode
        assert code == Exit.UNAVAILABLE, f"{host.name} ended by itself with {code}"
        host.process = None
        return True

    def dismiss(self) -> None:
        """Ask all to end, and wait until they have, and no job is left."""
        left = [(host, host.process) for host in self.hosts if host.process]
        for _, process in left:
            process.terminate()
        for host, process in left:
            code = process.wait(_CLOSING)
            too_soon = (-signal.SIGTERM, 128 + signal.SIGTERM)  # it had only begun to begin
            assert code in (0, *too_soon), f"{host.name} ended with {code}"
            host.process = None
        eventually(lambda: not self.jobs(), within=10.0, message="all jobs have ended")

    def jobs(self, host: Host | None = None) -> list[int]:
        """The jobs of a host that live, or of all: whoever has its mark and is no scheduler."""
        mark = f"CHAOS_CRON={self._mark}{f'-{host.name}' if host else ''}".encode()
        schedulers = {host.process.pid for host in self.hosts if host.process}
        return [pid for pid in _marked(mark) if pid not in schedulers]

    def complaints(self) -> list[str]:
        """What they said that nobody should ever see."""
        found = []
        for host in self.hosts:
            before, trace, after = self._log(host).read_text().partition("Traceback")
            if trace:
                found.append(f"{host.name}: {before[-300:]}{trace}{after[:2000]}")
        return found

    def close(self) -> None:
        """Kill whoever is left."""
        for host in self.hosts:
            if host.process:
                self.kill(host)
        for pid in self.jobs():
            _send(pid, signal.SIGKILL)

    def _log(self, host: Host) -> Path:
        return self.directory / f"{host.name}.log"


@contextmanager
def crew(directory: Path, hosts: list[Host], dsn: str) -> Iterator[Crew]:
    """Make a crew; nobody outlives the block."""
    made = Crew(directory, hosts, dsn)
    try:
        yield made
    finally:
        made.close()


def _marked(mark: bytes) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    yield int(entry.name)


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
