"""What a job's lock, its output and its definition mean to those beside its scheduler."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

from waiting import eventually

from .crons import OVER, Crons, shell, until
from .helpers import PATIENCE, alive

if TYPE_CHECKING:
    from .crons import Row

pytest_plugins = ["cli.cron_fixtures"]


def skipped(crons: Crons, job: str) -> list[Row]:
    """Wait until a tick of the job was skipped, because of a lock."""
    return eventually(
        lambda: [row for row in crons.rows(job) if row.state == "skipped_overlap"],
        within=PATIENCE,
        message=f"{job} is skipped",
    )


def test_what_a_job_leaves_in_the_background_keeps_its_lock(crons_once: Crons) -> None:
    """Its tick has succeeded, and the next ones are skipped until that has ended, too."""
    crons = crons_once
    stop = crons.directory / "stop"
    crons.run({"leaver": shell(f"({until(stop)}) > {crons.directory}/log 2>&1 &")})
    left = crons.over("leaver", "succeeded")[0]
    skips = skipped(crons, "leaver")
    assert skips[0].scheduled_at > left.scheduled_at
    assert crons.held("leaver") == 1
    stop.touch()
    assert len(crons.over("leaver", "succeeded", 2)) > 1


def test_what_a_job_leaves_in_the_background_may_go_on_to_write(crons_once: Crons) -> None:
    """Its lines are passed on until it ends, but are not in the history of a run that is over."""
    crons = crons_once
    stop = crons.directory / "stop"
    line = f"({until(stop)}; echo late; echo late >&2; echo later) & echo early"
    scheduler = crons.run({"leaver": shell(line)})
    left = crons.over("leaver", "succeeded")[0]
    directory = Path(f"/proc/{scheduler.pid}/fd")
    before = len(list(directory.iterdir()))
    stop.touch()
    prefix = f"{crons.name('leaver')} | "
    out = f"{prefix}early\n{prefix}late\n{prefix}later\n".encode()
    eventually(lambda: scheduler.out().startswith(out), within=PATIENCE, message="all is there")
    scheduler.says(f"{prefix}late\n")
    eventually(
        lambda: len(list(directory.iterdir())) < before,
        within=PATIENCE,
        message="the pipes are closed",
    )
    assert left.output == "early\n"


def test_whoever_has_the_lock_of_a_job_keeps_it_away(crons_once: Crons) -> None:
    """It is a lock like any other: `advlock run cron:NAME` excludes the job."""
    crons = crons_once
    name, stop = f"cron:{crons.name('guarded')}", crons.directory / "stop"
    crons.cli.start("run", name, "--", "sh", "-c", until(stop))
    eventually(lambda: crons.held("guarded") == 1, within=PATIENCE, message="it is locked")
    crons.run({"guarded": {"command": ["true"]}})
    skipped(crons, "guarded")
    assert not {row.state for row in crons.rows("guarded")} & {"running", *OVER}
    stop.touch()
    crons.over("guarded", "succeeded")


def test_an_orphan_that_writes_has_nobody_to_write_to(crons_once: Crons) -> None:
    """Its output goes through its scheduler; when that is killed, the next word ends it."""
    crons = crons_once
    pid, speak = crons.directory / "pid", crons.directory / "speak"
    line = f"echo $$ > {pid}; {until(speak)}; echo word; exec sleep 60"
    file = crons.file({"talker": shell(line)})
    scheduler = crons.run(file)
    first = crons.running("talker")
    eventually(lambda: pid.exists() and pid.read_text(), within=PATIENCE, message="it runs")
    scheduler.send(signal.SIGKILL)
    scheduler.code()
    assert alive(int(pid.read_text()))
    speak.touch()
    eventually(lambda: crons.held("talker") == 0, within=PATIENCE, message="its lock is free")
    eventually(lambda: not alive(int(pid.read_text())))  # it closes its files before
    crons.run(file)
    assert crons.over("talker", "lost")[0].run_id == first.run_id


def test_who_starts_with_another_version_warns_of_it(crons_once: Crons) -> None:
    """It says which host has it and which job differs, and not what the command is."""
    crons = crons_once
    one = crons.run(crons.file({"same": {"command": ["true"]}}, "one.toml")).ready()
    other = crons.run(crons.file({"same": {"command": ["echo", "secret"]}}, "other.toml"))
    different = f"runs another version of these jobs: different '{crons.name('same')}'"
    other.says(f"(pid {one.pid}) {different}")
    assert "secret" not in other.err()
    told = crons.admin.execute("SELECT jobs::text FROM advlock.cron_set").fetchall()
    assert not any("secret" in text for (text,) in told)
