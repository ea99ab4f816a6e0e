"""What `advlock cron run` gives to its commands, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

from advlock.cli.exits import Exit

from .crons import OVER, Crons, shell
from .helpers import PATIENCE, state

if TYPE_CHECKING:
    from conformance.pooled import Pools

pytest_plugins = ["cli.cron_fixtures"]

SHOW = """
import json, os, sys
ours = {k: v for k, v in os.environ.items() if k.startswith("ADVLOCK_")}
print(json.dumps(ours | {"stdin": os.readlink("/proc/self/fd/0")}))
"""
BAD = """
[jobs.one]
schedule = "* * * *"
command = ["true"]
[jobs.two]
schedule = "@hourly"
command = ["true"]
overlap = "skp"
"""


def python(code: str, **more: Any) -> dict[str, Any]:
    """A job that Python executes."""
    return {"command": [sys.executable, "-I", "-S", "-c", code], **more}


def test_what_a_command_gets_and_what_becomes_of_it(crons: Crons) -> None:
    """Its variables, directory and shell; each way to end has its state, its code and its reason.

    With one scheduler, because the jobs have nothing to do with each other.
    """
    no_program = crons.directory / "no-program"
    no_program.write_text("data")
    places = {"env": {"GREETING": "hi there", "CDPATH": "/usr"}, "cwd": "/usr/share"}
    own = crons.directory / "bin" / "only-here"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho found")
    own.chmod(0o755)
    brief = {"timeout": "200ms", "kill_after": "200ms"}
    scheduler = crons.run(
        {
            "show": python(SHOW),
            "place": shell("echo $GREETING from $PWD", **places),
            "own-path": {"command": ["only-here"], "env": {"PATH": f"{own.parent}:/bin"}},
            "seven": shell("exit 7"),
            "killed": shell("kill -9 $$"),
            "nowhere": {"command": ["/nonexistent"]},
            "no-program": {"command": [str(no_program)]},
            "bad-cwd": {"command": ["true"], "cwd": "/nonexistent"},
            "slow": {"command": ["sleep", "30"], **brief},
            # For so long that the shell has come to its `trap`.
            "stubborn": shell(
                "trap '' TERM; while :; do sleep 0.1; done", **(brief | {"timeout": "2s"})
            ),
            "third": shell("test $ADVLOCK_ATTEMPT = 3", retries=2, retry_wait="20ms"),
            "never": shell("exit $ADVLOCK_ATTEMPT", retries=1, retry_wait="20ms"),
        }
    )
    shown = json.loads(crons.over("show")[0].output or "")
    (row,) = [row for row in crons.over("show") if row.run_id == shown["ADVLOCK_RUN_ID"]]
    name = crons.name("show")
    (key,) = crons.admin.execute("SELECT hashtextextended(%s, 0)", [f"cron:{name}"]).fetchone()  # type: ignore[misc]
    assert row.key == key
    dsn = crons.cli.env["ADVLOCK_DSN"]
    assert shown == {
        "ADVLOCK_NAME": f"cron:{name}",
        "ADVLOCK_KEY": str(key),
        "ADVLOCK_TOKEN": str(row.token),
        "ADVLOCK_RUN_ID": row.run_id,
        "ADVLOCK_JOB": name,
        "ADVLOCK_SCHEDULED_AT": row.scheduled_at.isoformat(),
        "ADVLOCK_ATTEMPT": "1",
        "ADVLOCK_DSN": dsn,
        "stdin": os.devnull,
    }
    tokens = [row.token or 0 for row in crons.over("show", count=2)]
    assert tokens == sorted(set(tokens))
    assert tokens[0] > 0

    def became(job: str) -> tuple[str, int | None, str | None, int]:
        row = crons.over(job)[0]
        return row.state, row.exit_code, row.reason, row.attempt

    assert crons.over("place")[0].output == "hi there from /usr/share\n"
    assert became("place") == ("succeeded", 0, None, 1)
    assert crons.over("own-path")[0].output == "found\n"
    assert became("seven") == ("failed", 7, "exit code 7", 1)
    assert became("killed") == ("failed", 128 + 9, "ended by SIGKILL", 1)
    missing = "command not found: '/nonexistent'; is it on PATH?"
    assert became("nowhere") == ("failed", Exit.NOT_FOUND, missing, 1)
    denied = f"cannot execute '{no_program}': permission denied"
    assert became("no-program") == ("failed", Exit.CANNOT_EXECUTE, denied, 1)
    assert became("bad-cwd")[0] == "failed"
    assert "/nonexistent" in (crons.over("bad-cwd")[0].output or "")
    over = "its timeout was over"
    assert became("slow") == ("timeout", 128 + signal.SIGTERM, over, 1)
    assert became("stubborn") == ("timeout", 128 + signal.SIGKILL, over, 1)
    assert became("third") == ("succeeded", 0, "attempt 2: exit code 1", 3)
    assert became("never") == ("failed", 2, "exit code 2", 2)
    for job in ("show", "seven", "slow"):
        for row in crons.rows(job):
            if row.started_at and row.finished_at:
                assert row.scheduled_at < row.started_at < row.finished_at
    assert scheduler.end() == 0
    assert f"advlock: 12 jobs of {crons.directory}/jobs-0.toml;" in scheduler.err()


def sockets(pid: int) -> list[str]:
    """The sockets that a process has open."""
    found: list[str] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(str(entry.readlink()))
    return [name for name in found if name.startswith("socket:")]


def children(pid: int) -> list[int]:
    """The processes that a process has started, or adopted."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, (task / "children").read_text().split())
    return found


def test_each_of_many_inherits_its_own_lock_and_nothing_stays(crons_once: Crons) -> None:
    """One socket each, whoever starts at the same time; afterwards no descriptor and no zombie."""
    crons, count = crons_once, 18
    go = crons.directory / "go"
    line = f"[ -e {go} ] || exec sleep 30"
    # Not each second: a slow machine would never have a moment without any of them.
    often = {"overlap": "allow", "schedule": "@every 2s"}
    jobs = {f"many-{n}": shell(line, **often) for n in range(count)}
    jobs["orphans"] = shell("sleep 0.3 & sleep 0.1 &", **often)
    scheduler = crons.run(jobs, "--max-running", str(count + 2))
    sleeping = eventually(
        lambda: found if len(found := _sleepers(scheduler.pid)) >= count else [], within=PATIENCE
    )
    held = [sockets(pid) for pid in sleeping]
    assert [len(each) for each in held] == [1] * len(sleeping)
    assert len({each[0] for each in held}) == len(sleeping)
    assert {each[0] for each in held} <= set(sockets(scheduler.pid))
    go.touch()
    _wake(scheduler.pid)
    crons.over("many-0", "succeeded")
    # Also those that looked for it just before, and have only now begun to sleep.
    before = eventually(lambda: not _wake(scheduler.pid) and _quiet(scheduler.pid), within=PATIENCE)
    done = crons.admin.execute("SELECT count(*) FROM advlock.cron_run").fetchone()
    assert done
    eventually(lambda: _more_than(crons, done[0] + 50), within=PATIENCE)
    eventually(lambda: 0 < _quiet(scheduler.pid) <= before, within=PATIENCE)
    assert scheduler.end() == 0


def _sleepers(pid: int) -> list[int]:
    found: list[int] = []
    for child in children(pid):
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/{child}/cmdline").read_bytes() == b"sleep\x0030\x00":
                found.append(child)
    return found


def _wake(pid: int) -> list[int]:
    found = _sleepers(pid)
    for sleeper in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(sleeper, signal.SIGTERM)
    return found


def _more_than(crons: Crons, count: int) -> bool:
    (there,) = crons.admin.execute(
        "SELECT count(*) FROM advlock.cron_run WHERE state = ANY(%s)", [list(OVER)]
    ).fetchone()  # type: ignore[misc]
    return bool(there > count)


def _quiet(pid: int) -> int:
    """How many descriptors a scheduler has open, or 0 while it has children, also zombies."""
    there = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0 if children(pid) or len(sockets(pid)) > 1 else there


def test_one_pass_and_another(crons_once: Crons) -> None:
    """`cron tick` takes note first, and then runs what has become due; two at a time run it once.

    Its exit code says whether a job failed.
    """
    crons = crons_once
    record = crons.directory / "record"
    file = crons.file({"once": shell(f"echo $ADVLOCK_SCHEDULED_AT >> {record}; exit 3")})
    tick = ("cron", "tick", str(file))
    code, out, _ = crons.cli(*tick)
    assert out == ""
    # A busy machine may take note for so long that a tick comes.
    assert code == any(row.state == "failed" for row in crons.rows("once"))
    (noted,) = crons.admin.execute("SELECT clock_timestamp()").fetchone()  # type: ignore[misc]
    second = "SELECT clock_timestamp() > %s + interval '1.1 s'"
    eventually(lambda: crons.admin.execute(second, [noted]).fetchone() == (True,))
    both = [crons.cli.start(*tick) for _ in "ab"]
    codes = [one.code() for one in both]
    assert 1 in codes
    assert set(codes) <= {0, 1}
    ran = Counter(record.read_text().splitlines())
    rows = [row for row in crons.rows("once") if row.state == "failed"]
    assert ran == Counter(row.scheduled_at.isoformat() for row in rows)
    assert set(ran.values()) == {1}
    # A tick may also come while the one before it runs.
    fine = {"failed", "skipped_missed", "skipped_overlap"}
    assert not [row for row in crons.rows("once") if row.state not in fine]


def test_a_bad_file_or_no_database(crons_once: Crons) -> None:
    """All problems at once, with their lines, and 78; no database at the start is 69."""
    crons = crons_once
    bad = crons.directory / "bad.toml"
    bad.write_text(BAD)
    for verb in ("run", "tick"):
        code, out, err = crons.cli("cron", verb, str(bad))
        assert (code, out) == (Exit.CONFIG, "")
        assert f"{bad}:3: one: " in err
        assert f'{bad}:8: jobs.two.overlap is "skp"; did you mean "skip"?' in err
        code, _, err = crons.cli("cron", verb, str(crons.directory / "none.toml"))
        assert code == Exit.CONFIG
        assert "cannot read" in err
    good = str(crons.file({"any": {"command": ["true"]}}))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    code, _, err = crons.cli("cron", "run", good, "--dsn", f"host=127.0.0.1 port={port} user=x")
    assert code == Exit.UNAVAILABLE
    assert "Connection refused" in err


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_through_a_pooler_that_goes_away_and_comes_back(
    crons_once: Crons, pools: Pools, mode: str
) -> None:
    """Jobs run; while it is away, what ran is lost, and it says so once; then it goes on."""
    crons = crons_once
    log, ready = crons.directory / "log", crons.directory / "ready"
    long = shell(f"trap 'echo TERM >> {log}; exit 1' TERM; touch {ready}; sleep 30 & wait")
    with pools.own(mode) as pooler:
        dsn = pooler.dsn(pools.dbname)
        jobs = {"short": {"command": ["true"]}, "long": long}
        scheduler = crons.run(jobs, "--dsn", dsn, "--wait", "0s")
        assert crons.over("short")[0].state == "succeeded"
        lost = crons.running("long")
        assert crons.held("long") == 1
        eventually(ready.exists, within=PATIENCE)
        pooler.kill()
        eventually(log.exists, within=PATIENCE, message="the command is stopped")
        scheduler.says("no pass: ")
        away = len(crons.rows("short"))
        pooler.start()
        scheduler.says("the database is back")
        eventually(lambda: len(crons.over("short")) > away, within=PATIENCE)
        (row,) = [row for row in crons.over("long", "lost") if row.run_id == lost.run_id]
        assert "lock" in (row.reason or "")
        crons.over("short", "succeeded", away + 1)
        assert scheduler.end() == 0
    assert scheduler.err().count("the database is back") == 1
    assert "Traceback" not in scheduler.err()
    assert state(scheduler.pid) == ""


def test_a_role_that_may_not_make_tables(crons_once: Crons) -> None:
    """Is told what to do, with 78."""
    crons = crons_once
    role = crons.name("role")
    crons.admin.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        dsn = psycopg.conninfo.make_conninfo(crons.cli.env["ADVLOCK_DSN"], user=role)
        file = str(crons.file({"any": {"command": ["true"]}}))
        crons.admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
        code, _, err = crons.cli("cron", "run", file, "--dsn", dsn)
        assert code == Exit.CONFIG
        assert "advlock init" in err
    finally:
        crons.admin.execute(f'DROP ROLE "{role}"')
