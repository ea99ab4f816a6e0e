"""How a scheduler ends, reads its file again, and what becomes of its jobs when it is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .crons import Crons, Row, Scheduler, shell, until
from .helpers import IN_CALLBACK, PATIENCE, alive

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["cli.cron_fixtures"]

STOPPED = "stopped together with its scheduler"
FAST = 15.0  # seconds; much less than the default of --wait


def begun(crons: Crons, job: str) -> list[Row]:
    """Its runs; that one was missed is put down also by those that begin nothing."""
    return [row for row in crons.rows(job) if row.state != "skipped_missed"]


def test_it_is_asked_to_end(crons_once: Crons) -> None:
    """Nothing new begins, and what runs is waited for: for ever, for a while, or not at all.

    Six schedulers, each with a job of its own, by TERM and by INT; a second signal hurries. What is
    stopped hears a TERM, and its row says why.
    """
    crons = crons_once
    stop = crons.directory / "stop"

    def start(job: str, *options: str) -> Scheduler:
        log = crons.directory / f"{job}.log"
        up = crons.directory / f"{job}.up"
        trap = f"trap 'echo TERM >> {log}; exit 1' TERM; touch {up}"
        line = f"{trap}; {until(stop)}; echo end >> {log}"
        begun = crons.directory / f"{job}.begun"
        jobs = {job: shell(line), f"{job}-next": shell(f"echo >> {begun}")}
        return crons.run(jobs, *options)

    kinds = {
        "patient": ((), (signal.SIGTERM,)),
        "patient-int": ((), (signal.SIGINT,)),
        "bounded": (("--wait", "300ms"), (signal.SIGTERM,)),
        "bounded-int": (("--wait", "300ms"), (signal.SIGINT,)),
        "hurried": ((), (signal.SIGTERM, signal.SIGTERM)),
        "hurried-int": ((), (signal.SIGTERM, signal.SIGINT)),
    }
    started = {job: start(job, *options) for job, (options, _) in kinds.items()}
    for job in started:
        crons.running(job)
        eventually((crons.directory / f"{job}.up").exists, within=PATIENCE)
        crons.over(f"{job}-next")
    began = time.monotonic()
    for job, scheduler in started.items():
        first, *more = kinds[job][1]
        scheduler.send(first)
        scheduler.says("asked to end: beginning nothing new, waiting for what runs")
        for signum in more:
            scheduler.send(signum)
    for job in ("bounded", "bounded-int", "hurried", "hurried-int"):
        assert started[job].code() == 0
        row = begun(crons, job)[0]
        assert (row.state, row.reason, row.exit_code) == ("lost", STOPPED, 1)
        assert (crons.directory / f"{job}.log").read_text() == "TERM\n"
    assert time.monotonic() - began < FAST
    ran = [len(begun(crons, f"{job}-next")) for job in started]
    second = "SELECT pg_sleep(1.1)"  # a tick that they must not take
    crons.admin.execute(second)
    assert [len(begun(crons, f"{job}-next")) for job in started] == ran
    stop.touch()
    for job in ("patient", "patient-int"):
        assert started[job].process.poll() is None, "it waits"
    for job in ("patient", "patient-int"):
        assert started[job].code() == 0
        assert begun(crons, job)[0].state == "succeeded"
        assert (crons.directory / f"{job}.log").read_text() == "end\n"
    hosts = "SELECT count(*) FROM advlock.cron_host WHERE pid = ANY(%s)"
    pids = [scheduler.pid for scheduler in started.values()]
    assert crons.admin.execute(hosts, [pids]).fetchone() == (0,)


def test_it_reads_its_file_again(crons_once: Crons) -> None:
    """A new job runs, a running one goes on, one that is gone has no more ticks.

    A broken file, or none, changes nothing, and it says why.
    """
    crons = crons_once
    stop = crons.directory / "stop"
    before: dict[str, Any] = {"long": shell(until(stop)), "old": {"command": ["true"]}}
    file = crons.file(before)
    scheduler = crons.run(file)
    running = crons.running("long")
    crons.over("old")
    file.write_text("[jobs.new]\nschedule = 7\n")
    scheduler.send(signal.SIGHUP)
    scheduler.says("not read again, going on with the jobs from before:")
    scheduler.says(f"{file}:2: jobs.new.schedule is a number")
    file.unlink()
    scheduler.send(signal.SIGHUP)
    scheduler.says("not read again", times=2)
    scheduler.says(f"cannot read '{file}'")
    crons.over("old", count=len(crons.rows("old")) + 1)
    crons.file({"long": shell(until(stop)), "new": {"command": ["true"]}})
    scheduler.send(signal.SIGHUP)
    scheduler.says("read again: 2 jobs")
    crons.over("new")
    old = len(crons.rows("old"))
    crons.over("new", count=len(crons.rows("new")) + 1)
    assert len(crons.rows("old")) == old
    assert crons.running("long").run_id == running.run_id
    stop.touch()
    assert crons.over("long", "succeeded")[0].run_id == running.run_id
    assert scheduler.end() == 0


@pytest.mark.parametrize("handler", ["_Raise", "_hear"])
def test_it_is_asked_to_end_where_python_ignores_what_is_raised(crons: Crons, handler: str) -> None:
    """As it starts, in a callback of the import system."""
    file = crons.file({"quick": shell("true")})
    program = (*IN_CALLBACK, str(signal.SIGTERM.value), handler)
    started = crons.cli.program(*program, "cron", "run", str(file))
    assert started.line() == "in a callback"
    # By an exception, or by the scheduler if that is there when the signal comes again.
    assert started.code() in {128 + signal.SIGTERM, 0}
    assert "gnored" not in started.stderr()


def test_it_is_killed_while_its_job_runs(crons: Crons) -> None:
    """The job goes on, and keeps its lock; others skip its ticks until it has ended.

    Then its own tick is lost, because nobody knows what came of it, and the next one runs.
    """
    log, stop = crons.directory / "log", crons.directory / "stop"
    line = f"echo $ADVLOCK_SCHEDULED_AT $$ >> {log}; {until(stop)}"
    file = crons.file({"long": shell(line)})
    both = [crons.run(file).ready() for _ in "ab"]
    first = crons.running("long")
    (victim,) = [one for one in both if one.pid == first.pid]
    (other,) = [one for one in both if one.pid != first.pid]
    child = int(eventually(lambda: log.exists() and log.read_text().split())[1])
    victim.send(signal.SIGKILL)
    assert victim.code() == -signal.SIGKILL

    def skipped() -> int:
        return sum(row.state == "skipped_overlap" for row in crons.rows("long"))

    seen = skipped()
    eventually(lambda: skipped() >= seen + 2, within=PATIENCE, message="its ticks are skipped")
    assert alive(child)
    assert crons.held("long") == 1
    assert crons.running("long").run_id == first.run_id
    assert len(log.read_text().splitlines()) == 1
    stop.touch()
    (lost,) = crons.over("long", "lost")
    assert lost.run_id == first.run_id
    assert "its lock was found free" in (lost.reason or "")
    following = crons.over("long", "succeeded")[0]
    assert following.scheduled_at > lost.scheduled_at
    assert following.pid == other.pid
    skips = [row for row in crons.rows("long") if row.state == "skipped_overlap"]
    assert all("its lock is held by" in (row.reason or "") for row in skips)
    assert other.end() == 0
    ticks = [line.split()[0] for line in log.read_text().splitlines()]
    assert len(ticks) == len(set(ticks))


def _ended(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists()


def test_nothing_is_left_of_a_job_that_is_stopped(crons_once: Crons) -> None:
    """A whole group hears the TERM, and a stubborn rest the KILL; the lock is free afterwards."""
    crons = crons_once
    pids = crons.directory / "pids"
    line = (
        f"sleep 30 & echo $! >> {pids}; (trap '' TERM; echo $BASHPID >> {pids}; sleep 30) &"
        f" echo $! >> {pids}; echo $$ >> {pids}; wait"
    )
    scheduler = crons.run({"group": shell(line, kill_after="200ms")}, "--wait", "0s")
    row = crons.running("group")
    there = eventually(lambda: _numbers(pids), within=PATIENCE)
    assert crons.held("group") == 1
    scheduler.send(signal.SIGTERM)
    assert scheduler.code() == 0
    for pid in there:
        eventually(_ended(pid), message=f"{pid} has ended")
    eventually(lambda: crons.held("group") == 0)
    first = begun(crons, "group")[0]
    assert (first.state, first.run_id) == ("lost", row.run_id)


def _numbers(path: Path) -> list[int]:
    found = [int(word) for word in path.read_text().split()] if path.exists() else []
    return found if len(found) >= 3 and all(os.path.exists(f"/proc/{p}") for p in found) else []  # noqa: PTH110
