"""The processes of `advlock demo`: starting, watching, killing, and leaving none behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advlock.cli._demo_count import Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUSY: Final = 75
TRY: Final = ("-n", "-E", str(BUSY))
STAND_BY: Final = ("-w", "30s")
_JOB: Final = Path(__file__).with_name("_demo_job.py")
_GRACE: Final = 5.0  # seconds to react to TERM, on a machine that has other things to do
_POLL: Final = 0.01


@dataclass(slots=True)
class Attempt:
    """One `advlock run`, and the job that may come of it; times are monotonic nanoseconds.

    Attributes:
        number: Which one it is.

        tick: In which tick it was started.

        worker: By whom.

        patient: Whether it stands by for somebody, instead of racing.

        seconds: How long its job takes.

        process: The wrapper.

        words: Where its stderr goes.

        begun: When its job began, by the job's own clock.

        ended: When its job ended, likewise.

        killed: When its job was killed, taken before the signal was sent.

        shot: Whether we killed its wrapper.

        job: The job's process id, which is its process group's, too.

        code: The wrapper's exit code; None while it runs.
    """

    number: int
    tick: int
    worker: int
    patient: bool
    seconds: float
    process: subprocess.Popen[bytes]
    words: Path
    begun: int | None = None
    ended: int | None = None
    killed: int | None = None
    shot: bool = False
    job: int = 0
    code: int | None = None

    @property
    def decided(self) -> bool:
        """Whether we know that it runs, or that it does not."""
        return self.begun is not None or self.code is not None

    @property
    def over(self) -> bool:
        """Whether neither wrapper nor job has anything left to do."""
        return self.code is not None and (self.begun is None or self.finish is not None)

    @property
    def finish(self) -> int | None:
        """When its job ended or was killed."""
        return self.ended if self.ended is not None else self.killed

    @property
    def skipped(self) -> bool:
        """Whether it found the lock taken, and left."""
        return self.code == BUSY and self.begun is None

    @property
    def failed(self) -> bool:
        """Whether it ended in a way that is not part of the play."""
        fine = self.shot or self.skipped or (self.code == 0 and self.begun is not None)
        return self.code is not None and not fine

    def said(self) -> str:
        """What the wrapper has told on stderr."""
        return self.words.read_text(errors="replace").strip()


class Crew:
    """Starts the workers' processes in a directory, and sees to it that none is left."""

    def __init__(self, directory: Path, dsn: str, *, locked: bool) -> None:
        self.attempts: list[Attempt] = []
        self._directory = directory
        self._record = directory / "record"
        self._record.touch()
        self._read = 0
        self._locked = locked
        self._env = _environment(os.environ, dsn)

    def start(self, tick: int, worker: int, seconds: float, *, patient: bool = False) -> Attempt:
        """Start one worker's `advlock run nightly FLAGS -- JOB`; without the lock, its job."""
        flags = STAND_BY if patient else TRY
        number = len(self.attempts)
        command = [sys.executable, "-I", "-S", str(_JOB), str(self._record), str(number)]
        command.append(str(seconds))
        if self._locked:
            wrapper = [sys.executable, "-m", "advlock", "run", "nightly", *flags, "--"]
            command = wrapper + command
        words = self._directory / f"stderr-{number}"
        with words.open("wb") as stderr:
            # A session of its own: a Ctrl-C is for us, and we end the workers in our own way.
            process = subprocess.Popen(  # noqa: S603
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        attempt = Attempt(number, tick, worker, patient, seconds, process, words)
        self.attempts.append(attempt)
        return attempt

    def look(self) -> Iterator[tuple[str, Attempt]]:
        """Tell what is new: `began`, `ended`, and `left` for a wrapper that is gone."""
        # First who is gone, then what was written: whoever is gone has written everything.
        left = [a for a in self.attempts if a.code is None and a.process.poll() is not None]
        yield from self._news()
        for attempt in left:
            attempt.code = attempt.process.returncode
            yield "left", attempt

    def _news(self) -> Iterator[tuple[str, Attempt]]:
        with self._record.open("rb") as record:
            record.seek(self._read)
            news = record.read()
        complete = news[: news.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.decode().splitlines():
            event, number, pid, moment = line.split()
            attempt = self.attempts[int(number)]
            if event == "begin":
                attempt.begun, attempt.job = int(moment), int(pid)
                yield "began", attempt
            else:
                attempt.ended = int(moment)
                yield "ended", attempt

    def kill_wrapper(self, attempt: Attempt) -> None:
        """Kill the wrapper alone, as the kernel does when memory is short."""
        attempt.shot = True
        attempt.process.kill()

    def kill_everything(self, attempt: Attempt) -> None:
        """Kill the wrapper's and the job's process group; nobody gets to say goodbye."""
        attempt.killed = time.monotonic_ns()
        self.kill_wrapper(attempt)
        _kill_group(attempt.job)

    def spans(self, now: int) -> list[Span]:
        """When jobs were at work; `now` for those that still are."""
        return [
            Span(a.begun, now if a.finish is None else a.finish)
            for a in self.attempts
            if a.begun is not None
        ]

    def close(self) -> None:
        """End what still runs, and wait until it is gone."""
        # TERM, because a wrapper that is told to end takes its job along, also one that has not
        # written its first line yet, and that we therefore do not know.
        running = [a for a in self.attempts if a.process.poll() is None]
        for attempt in running:
            attempt.process.terminate()
        give_up = time.monotonic() + _GRACE
        for attempt in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                attempt.process.wait(max(0.0, give_up - time.monotonic()))
            attempt.process.kill()
            attempt.process.wait()
        for _ in self._news():
            pass
        for attempt in self.attempts:
            # Only of a killed wrapper: any other has seen its job's end, whose number may by now
            # be that of an unrelated process.
            orphaned = attempt.process.returncode == -signal.SIGKILL
            if orphaned and attempt.begun is not None and attempt.finish is None:
                _kill_group(attempt.job)
        _reap_all()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _reap_all() -> None:
    """Wait for jobs whose wrapper was killed: they are ours, where orphans can be adopted."""
    give_up = time.monotonic() + _GRACE
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < give_up:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(_POLL)


def _environment(ours: Mapping[str, str], dsn: str) -> dict[str, str]:
    """Ours, with the demo's database and no other, and without what steers libpq or advlock."""
    kept: dict[str, Any] = {k: v for k, v in ours.items() if not k.startswith(("PG", "ADVLOCK_"))}
    return kept | {"ADVLOCK_DSN": dsn}
