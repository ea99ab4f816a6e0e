"""The processes of `advlock demo`: starting, watching, killing, and leaving none behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advlock.cli._demo_count import Note, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

JOB: Final = "report"
_PROGRAM: Final = Path(__file__).with_name("_demo_job.py")
_GRACE: Final = 10.0  # seconds to react to TERM, on a machine that has other things to do
_POLL: Final = 0.01
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LAST: Final = 2  # lines of what a scheduler said before it ended
# So that the history of a long demo is still whole when it is counted.
_FILE: Final = """\
[jobs.{name}]
schedule = "@every {every}s"
command = {command}
history = {{keep = 1000000}}
"""


@dataclass(slots=True)
class Scheduler:
    """One `advlock cron run`.

    Attributes:
        host: The number of the host that it is.

        process: Its process.

        words: Where its stderr goes.

        shot: Whether we killed it.

        over: Whether we know of its end.
    """

    host: int
    process: subprocess.Popen[bytes]
    words: Path
    shot: bool = False
    over: bool = False

    def last_words(self) -> str:
        """How it ended, and what it said last."""
        lines = self.words.read_text(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip(" ~^")][-_LAST:]
        return f"its scheduler ended with exit code {self.process.returncode}: {' | '.join(said)}"


@dataclass(slots=True)
class Run:
    """One run of the job, as it noted it; times are monotonic nanoseconds.

    Attributes:
        run_id: Which one it is.

        tick: Of which tick.

        scheduler: The process that started it.

        job: The job's process id, which is its process group's, too.

        held: Whether it works until it is told to stop.

        begun: When it began.

        ended: When it ended.

        killed: When it was killed, taken before the signal was sent.
    """

    run_id: str
    tick: datetime
    scheduler: int
    job: int
    held: bool
    begun: int
    ended: int | None = None
    killed: int | None = None

    @property
    def finish(self) -> int | None:
        """When it ended or was killed."""
        return self.ended if self.ended is not None else self.killed


class Crew:
    """Starts the hosts' processes, and sees to it that none is left.

    Args:
        directory: For the files of the demo.
        dsns: Each host's database.
        every: Seconds between two ticks.
        work: Seconds that the job takes.
    """

    def __init__(self, directory: Path, dsns: Sequence[str], every: int, work: float) -> None:
        self.runs: dict[str, Run] = {}
        self.schedulers: dict[int, Scheduler] = {}
        self._directory = directory
        self._dsns = dsns
        self._notes = directory / "notes"
        self._notes.touch()
        self._read = 0
        self._libc = ctypes.CDLL(None)
        command = [sys.executable, "-I", "-S", str(_PROGRAM), str(directory), str(work)]
        spelled = json.dumps(command, ensure_ascii=False)
        self._file = directory / "jobs.toml"
        self._file.write_text(_FILE.format(name=JOB, every=every, command=spelled))

    def start(self, host: int) -> None:
        """Start `advlock cron run jobs.toml` on a host."""
        words = self._directory / f"host-{host}-{len(self.schedulers)}"
        with words.open("wb") as stderr:
            process = self._advlock(
                "cron", "run", str(self._file), host=host, stdout=subprocess.DEVNULL, stderr=stderr
            )
        self.schedulers[process.pid] = Scheduler(host, process, words)

    def history(self, *options: str, **streams: Any) -> tuple[int, bytes]:
        """Run `advlock cron history report OPTIONS` to its end; its exit code and output."""
        process = self._advlock("cron", "history", JOB, *options, host=1, **streams)
        out, _ = process.communicate()
        return process.returncode, out

    def _advlock(self, *arguments: str, host: int, **streams: Any) -> subprocess.Popen[bytes]:
        # A session of its own: a Ctrl-C is for us, and we end the others in our own way.
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "advlock", *arguments],
            env=_environment(os.environ, self._dsns[host - 1]),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=self._end_with_us,  # noqa: PLW1509 - there is one thread
            **streams,
        )

    def _end_with_us(self) -> None:
        """Have a new process be asked to end when we are killed; a scheduler goes on for ever."""
        with contextlib.suppress(AttributeError):  # only Linux has it
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    # -- watching --------------------------------------------------------------------------------

    def look(self) -> Iterator[tuple[str, Any]]:
        """Tell what is new: a run that `began` or `ended`, a scheduler that `died` by itself."""
        with self._notes.open("rb") as notes:
            notes.seek(self._read)
            news = notes.read()
        complete = news[: news.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.decode().splitlines():
            yield self._take(*line.split())
        for one in self.schedulers.values():
            if not one.over and one.process.poll() is not None:
                one.over = True
                if not one.shot:
                    yield "died", one

    def _take(self, event: str, run_id: str, *words: str) -> tuple[str, Run]:
        tick, scheduler, job, held, moment = words
        if event == "end":
            self.runs[run_id].ended = int(moment)
            return "ended", self.runs[run_id]
        when = datetime.fromisoformat(tick)
        run = Run(run_id, when, int(scheduler), int(job), held == "1", int(moment))
        self.runs[run_id] = run
        return "began", run

    def host(self, pid: int | None) -> int | None:
        """The number of the host whose scheduler is or was the process `pid`."""
        found = self.schedulers.get(pid or 0)
        return None if found is None else found.host

    def notes(self) -> list[Note]:
        """What the jobs noted, each run once."""
        runs = self.runs.values()
        return [Note(r.tick, r.run_id, r.scheduler, r.ended is not None) for r in runs]

    def spans(self, now: int) -> list[Span]:
        """When jobs were at work; `now` for those that still are."""
        return [Span(r.begun, r.finish or now) for r in self.runs.values()]

    # -- steering --------------------------------------------------------------------------------

    def hold(self) -> None:
        """Have the next run work until `release`."""
        (self._directory / "hold").touch()

    def release(self) -> None:
        """Let it come to its end."""
        (self._directory / "hold").unlink(missing_ok=True)

    def kill_scheduler(self, run: Run) -> None:
        """Kill the scheduler of a run alone, as the kernel does when memory is short."""
        one = self.schedulers[run.scheduler]
        one.shot = True
        one.process.kill()
        one.process.wait()  # gone, before it can hear of its job's end

    def kill_host(self, run: Run) -> None:
        """Kill the scheduler and the job's process group; nobody gets to say goodbye."""
        run.killed = time.monotonic_ns()
        self.kill_scheduler(run)
        _kill_group(run.job)

    def stop(self) -> None:
        """Ask the schedulers to end, and see them do so."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """End what still runs, and wait until it is gone."""
        self.release()
        # Not KILL, because a scheduler that is told to end takes its job along, also one that has
        # not noted anything yet, and that we therefore do not know. Twice: they are in a hurry.
        self._end(signal.SIGTERM, signal.SIGINT)
        for _ in self.look():
            pass
        for run in self.runs.values():
            # Only of a killed scheduler: any other has seen its job's end, whose number may by now
            # be that of an unrelated process.
            one = self.schedulers.get(run.scheduler)
            orphaned = one is None or one.process.returncode == -signal.SIGKILL
            if orphaned and run.finish is None:
                _kill_group(run.job)
        _reap_all()

    def _end(self, *signals: signal.Signals) -> None:
        running = [one for one in self.schedulers.values() if one.process.poll() is None]
        for one in running:
            for signum in signals:
                one.process.send_signal(signum)
        give_up = time.monotonic() + _GRACE
        for one in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, give_up - time.monotonic()))
            one.process.kill()
            one.process.wait()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _reap_all() -> None:
    """Wait for jobs whose scheduler was killed: they are ours, where orphans can be adopted."""
    give_up = time.monotonic() + _GRACE
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < give_up:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(_POLL)


def _environment(ours: Mapping[str, str], dsn: str) -> dict[str, str]:
    """Ours, with the demo's database and no other, and without what steers libpq or advlock."""
    kept: dict[str, Any] = {k: v for k, v in ours.items() if not k.startswith(("PG", "ADVLOCK_"))}
    return kept | {"ADVLOCK_DSN": dsn}
