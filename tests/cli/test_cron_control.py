"""What people see of the cron and how they control it: a real server, and one real scheduler."""

from __future__ import annotations

import json
import secrets
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

from advlock._cron._job import Job, JobSet
from advlock._cron._schedule import Schedule
from advlock.cli import main

from .helpers import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

YEARLY = {"schedule": "0 0 1 1 *"}
TOML = """\
[jobs.nightly]
schedule = "0 3 * * *"
timezone = "Europe/Berlin"
command = ["true"]
overlap = "queue"
timeout = "1h"

[jobs.talk]
schedule = "@yearly"
command = ["sh", "-c", "echo said; echo $ADVLOCK_JOB >&2; exit $(cat CODE)"]
"""


def jobs(**policies: dict[str, Any]) -> JobSet:
    """Jobs, of which each has a schedule and policies."""
    made = {}
    for name, given in policies.items():
        text, zone = given.pop("schedule", "0 3 * * *"), given.pop("timezone", "UTC")
        made[name] = Job(name, Schedule.parse(text, zone, name=name), **given)
    return JobSet(made, "jobs.toml")


class Cron:
    """The command with a database, and what schedulers would have put there."""

    def __init__(self, dsn: str, capture: pytest.CaptureFixture[str]) -> None:
        self.dsn = dsn
        self._capture = capture
        self.admin = psycopg.connect(dsn, autocommit=True)

    def __call__(self, *args: str, code: int = 0, database: bool = True) -> tuple[str, str]:
        """Run `advlock cron ARGS` here; stdout and stderr, without `advlock: `."""
        where = ("--dsn", self.dsn) if database else ()
        self._capture.readouterr()
        ended = main(["cron", *args, *where])
        out, err = self._capture.readouterr()
        assert ended == code, err
        return out, err.replace("advlock: ", "")

    def json(self, *args: str) -> Any:
        """What `--json` says."""
        return json.loads(self(*args, "--json")[0])

    def now(self) -> datetime:
        """The database's clock."""
        (row,) = self.admin.execute("SELECT clock_timestamp()").fetchall()
        now: datetime = row[0]
        return now.astimezone(UTC)

    def known(
        self, one: JobSet, *, since: timedelta = timedelta(days=20), until: timedelta | None = None
    ) -> None:
        """Make a version of the jobs known, first seen and last decided so long ago."""
        now = self.now()
        self.admin.execute(
            "INSERT INTO advlock.cron_set VALUES (%s, %s, %s, %s)",
            [one.digest(), one.definitions(), now - since, None if until is None else now - until],
        )

    def scheduler(self, one: JobSet, host: str = "web1", pid: int = 17) -> None:
        """Have a scheduler with these jobs be there for the rest of the test."""
        self.admin.execute(
            "INSERT INTO advlock.cron_host (id, host, pid, source, hash, seen_at)"
            " VALUES (gen_random_uuid(), %s, %s, 'jobs.toml', %s, now() + interval '1 hour')",
            [host, pid, one.digest()],
        )

    def tick(self, job: str, tick: datetime, state: str, **columns: Any) -> None:
        """Put down what became of a tick."""
        row = {"job": job, "scheduled_at": tick, "state": state, **columns}
        names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
        self.admin.execute(
            f"INSERT INTO advlock.cron_run ({names}) VALUES ({marks})", [*row.values()]
        )


@pytest.fixture(scope="module")
def home(server: Server) -> Iterator[str]:
    """A database of this module's own."""
    name = f"advlock_cron_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield server.dsn(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def cron(home: str, capfd: pytest.CaptureFixture[str]) -> Iterator[Cron]:
    """The command, with tables that have nothing in them."""
    assert main(["init", "--dsn", home]) == 0
    cron = Cron(home, capfd)
    with cron.admin:
        yield cron
        cron.admin.execute(
            "TRUNCATE advlock.cron_run, advlock.cron_set, advlock.cron_host, advlock.cron_pause"
        )


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file of jobs."""
    path = tmp_path / "jobs.toml"
    path.write_text(TOML.replace("CODE", str(tmp_path / "code")))
    (tmp_path / "code").write_text("0")
    return str(path)


# -- without a database ----------------------------------------------------------------------------


def test_check_explains_a_file(
    file: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job in English, when it runs, and what of it is not as usual; no database is needed."""
    monkeypatch.setenv("PGHOST", "/nowhere")
    assert main(["cron", "check", file]) == 0
    out, err = capfd.readouterr()
    assert "nightly\n  schedule   0 3 * * *  (At 03:00 every day)\n" in out
    assert out.count("UTC (03:00:00 in Europe/Berlin)") == 3
    assert "  policies   overlap = queue, timeout = 1h\n" in out
    assert err == f"advlock: {file}: 2 jobs, nothing wrong\n"
    assert main(["cron", "check", "--json", file]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [job["name"] for job in found["jobs"]] == ["nightly", "talk"]
    assert found["jobs"][0]["policies"] == {"overlap": "queue", "timeout": 3600.0}
    assert len(found["jobs"][0]["next"]) == 3


def test_check_says_everything_that_is_wrong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the file and the line, and 78."""
    path = tmp_path / "bad.toml"
    path.write_text('[jobs.a]\nschedule = "61 * * * *"\ncommand = ["x"]\novrlap = "skip"\n')
    assert main(["cron", "check", str(path)]) == 78
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{path}:2: " in err
    assert f"{path}:4: " in err


def test_next_of_a_file_needs_no_database(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Ticks by the zone's clocks and in UTC; a job that is not there is an error with a guess."""
    assert main(["cron", "next", "nightly", "-n", "3", "-f", file]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        there_shown, utc = line.split("  ")
        local, zone = there_shown.rsplit(" ", 1)
        assert (local[10:19], zone, utc[-4:]) == (" 03:00:00", "Europe/Berlin", " UTC")
        there = datetime.fromisoformat(local)
        assert there == datetime.fromisoformat(utc.replace(" UTC", "+00:00"))
    assert main(["cron", "next", "nigthly", "-f", file]) == 78
    assert "did you mean nightly?" in capfd.readouterr().err


def test_a_database_without_tables_says_what_makes_them(
    cron: Cron, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever looks before any scheduler ran is told what to type."""
    cron.admin.execute("DROP SCHEMA advlock CASCADE")
    _, err = cron("list", code=78)
    assert main(["init", "--dsn", cron.dsn]) == 0
    assert "advlock init" in err
    capfd.readouterr()
    out, err = cron("list")
    assert (out, err) == ("", "there are no jobs; advlock cron run FILE makes jobs known\n")
    _, err = cron("pause", "nightly", code=78)
    assert err == "no job 'nightly'; there are none yet; advlock cron run FILE makes jobs known\n"


# -- looking ---------------------------------------------------------------------------------------


def test_list_shows_how_each_job_stands(cron: Cron, file: str) -> None:
    """What is running, queued, paused, disabled or without a scheduler, the last run, the hosts."""
    here = jobs(busy=YEARLY.copy(), held={}, nightly={}, off={"enabled": False})
    cron.known(here)
    cron.scheduler(here)
    cron.known(jobs(gone={}, nightly={"overlap": "allow"}), until=timedelta(days=1))
    now = cron.now()
    ran = {"host": "web1", "pid": 17, "started_at": now - timedelta(seconds=60)}
    cron.tick("nightly", now - timedelta(seconds=61), "failed", finished_at=now, **ran)
    cron.tick("nightly", now - timedelta(days=1), "succeeded", finished_at=now, **ran)
    cron.tick("busy", now - timedelta(seconds=62), "running", **ran)
    for seconds in (5, 4):
        cron.tick("busy", now - timedelta(seconds=seconds), "queued")
    cron("pause", "held", "--for", "2d")
    out, err = cron("list")
    table, hosts = out.split("\n\n")
    assert table.split("\n")[0].split() == ["NAME", "SCHEDULE", "NEXT", "LAST", "STATE"]
    lines = {line.split()[0]: line for line in table.split("\n")[1:]}
    assert list(lines) == ["busy", "gone", "held", "nightly", "off"]
    assert f"{now.year + 1}-01-01 00:00:00 UTC" in lines["busy"]
    assert "running on web1:17 since " in lines["busy"]
    assert lines["busy"].endswith(" UTC (its lock is free), queued 2")
    assert "no scheduler since " in lines["gone"]
    assert "paused until " in lines["held"]
    assert " failed in 1m" in lines["nightly"]
    assert lines["nightly"].endswith("idle")
    assert "disabled" in lines["off"]
    assert hosts.split("\n")[1].split()[:3] == ["web1", "17", "jobs.toml"]
    assert err == ""
    # The same for programs, and of one file: that has another version of `nightly`.
    found = cron.json("list")
    assert {job["name"]: job["live"] for job in found["jobs"]}["gone"] is False
    assert (found["hosts"][0]["host"], found["warnings"]) == ("web1", [])
    out, err = cron("list", "-f", file)
    assert [line.split()[0] for line in out.split("\n\n")[0].split("\n")[1:]] == ["nightly", "talk"]
    assert "Europe/Berlin" in out
    assert err == "warning: schedulers have other versions than the file of: nightly\n"


def test_list_warns_of_schedulers_with_different_jobs(cron: Cron) -> None:
    """But not of those that have nothing in common."""
    files = [jobs(a={}, b={}), jobs(a={"retries": 1}, c={}), jobs(d={})]
    for pid, one in enumerate([*files, files[0]], 1):
        if pid <= len(files):
            cron.known(one)
        cron.scheduler(one, pid=pid)
    _, err = cron("list")
    assert err == (
        "warning: web1:1 and web1:2 have different jobs;"
        " different: a; only on web1:1: b; only on web1:2: c\n"
    )


def test_next_follows_the_version_that_counts(cron: Cron) -> None:
    """That of the newest scheduler; without any, the one that was decided last."""
    old, new = jobs(a={"schedule": "0 1 * * *"}), jobs(a={"schedule": "0 2 * * *"})
    cron.known(old, since=timedelta(days=9), until=timedelta(days=1))
    cron.known(new, since=timedelta(days=5), until=timedelta(days=2))
    assert " 01:00:00+00:00 UTC  " in cron("next", "a", "-n", "1")[0]
    cron.scheduler(old, pid=1)
    cron.scheduler(new, pid=2)
    assert " 02:00:00+00:00 UTC  " in cron("next", "a", "-n", "1")[0]
    cron("pause", "a", "--for", "30d", "--note", "later")
    out, err = cron("next", "a", "-n", "40")
    assert (len(out.splitlines()), "30 of them are skipped" in err) == (40, True)
    found = cron.json("next", "a", "-n", "2")
    assert (found["name"], len(found["ticks"])) == ("a", 2)


def test_history_shows_the_newest_first(cron: Cron) -> None:
    """As a table, with output, by state, or as JSON Lines."""
    cron.known(jobs(a={}, never={}))
    day = datetime(2026, 11, 26, 3, tzinfo=UTC)
    for number in range(3):
        tick = day - timedelta(days=number)
        ended: dict[str, Any] = {"state": "succeeded", "exit_code": 0}
        if number == 1:
            ended = {"state": "failed", "reason": "exit code 3", "exit_code": 3, "attempt": 2}
        ended |= {"host": "web1", "pid": 17, "output": f"line\nof {number}\n"}
        began, end = tick + timedelta(seconds=1), tick + timedelta(seconds=61)
        cron.tick("a", tick, started_at=began, finished_at=end, **ended)
    cron.tick("a", day - timedelta(hours=1), "skipped_paused", reason="paused until then")
    out, err = cron("history", "a")
    rows = [line.split() for line in out.splitlines()]
    assert [row[3] for row in rows[1:]] == ["succeeded", "skipped_paused", "failed", "succeeded"]
    failed = "2026-11-25 03:00:00 UTC failed web1:17 +1s 1m 3 2 exit code 3"
    assert (" ".join(rows[3]), err) == (failed, "")
    out, _ = cron("history", "a", "-n", "1", "--output")
    assert out.splitlines()[2:] == ["    line", "    of 0"]
    out, _ = cron("history", "a", "--state", "failed", "--state", "skipped_paused", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["state"] for one in found] == ["skipped_paused", "failed"]
    assert (found[1]["duration"], found[1]["latency"]) == (60.0, 1.0)
    assert found[1]["scheduled_at"] == "2026-11-25T03:00:00+00:00"
    assert "output" not in found[1]
    assert cron("history", "never") == ("", "never has no history yet\n")
    assert "did you mean never?" in cron("history", "nevver", code=78)[1]
    cron("history", "a", "--state", "fine", code=64)


def test_why_finds_the_tick_that_is_meant(cron: Cron) -> None:
    """The newest, one by the clock, one that was triggered, the one before what is no tick."""
    one = jobs(a={"schedule": "0 * * * *", "timezone": "Asia/Kolkata"}, b={})
    cron.known(one, until=timedelta(0))
    cron.scheduler(one)
    newest = Schedule.parse("0 * * * *", "Asia/Kolkata").last(cron.now())
    assert newest is not None
    before = newest - timedelta(hours=1)
    cron.tick("a", before, "skipped_missed", reason="seen 1h late")
    cron.tick("a", newest, "skipped_overlap", reason="its lock was held")
    by_hand = before + timedelta(minutes=9, microseconds=250)
    cron.tick("a", by_hand, "queued", triggered_by="ann@web1", reason="triggered by ann@web1")
    assert "skipped" in cron("why", "a")[0].replace("\n", " ")
    found = cron.json("why", "a", "--at", f"{before + timedelta(hours=5, minutes=30):%H:%M}")
    assert (found["verdict"], found["row"]["reason"]) == ("skipped_missed", "seen 1h late")
    for spelled in (by_hand.isoformat(), by_hand.replace(microsecond=0).isoformat()):
        found = cron.json("why", "a", "--at", spelled)
        assert (found["verdict"], found["row"]["triggered_by"]) == ("queued", "ann@web1")
    found = cron.json("why", "a", "--at", (before + timedelta(minutes=5)).isoformat())
    assert (found["tick"], found["following"]) == (before.isoformat(), newest.isoformat())
    assert "is no tick of a: the one before is " in found["text"]
    found = cron.json("why", "a", "--at", (before - timedelta(days=2)).isoformat())
    assert (found["verdict"], found["row"]) == ("missing", None)
    found = cron.json("why", "a", "--at", (newest + timedelta(hours=30, minutes=1)).isoformat())
    assert (found["verdict"], found["tick"]) == (
        "future",
        (newest + timedelta(hours=31)).isoformat(),
    )
    assert "did you mean" in cron("why", "aa", code=78)[1]
    assert "is no time; write 03:00" in cron("why", "a", "--at", "noon", code=64)[1]
    for year in ("9999-12-31T23:59:59", "0001-01-01T00:00+14:00"):
        assert "write a year from 1970" in cron("why", "a", "--at", year, code=64)[1]


def test_arguments_that_the_database_cannot_take_are_refused(cron: Cron) -> None:
    """Bytes that are no text, and numbers that are too large, are no bugs."""
    cron.known(jobs(a={}))
    bad = "h\udcff"
    for args in (["pause", "a", "--note", bad], ["pause", bad], ["trigger", bad], ["why", bad]):
        assert "is not UTF-8" in cron(*args, code=64)[1]
    assert "is not in the range" in cron("history", "a", "-n", "9" * 20, code=64)[1]


# -- control ---------------------------------------------------------------------------------------


def test_pause_and_resume_are_for_all_hosts(cron: Cron, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause has an end, a reason and somebody who wanted it; it is all jobs or none."""
    monkeypatch.setenv("USER", "ann")
    cron.known(jobs(a={}, b={}, c={}))
    _, err = cron("pause", "a", "b", "--note", "moving the disks")
    assert err.startswith("a is paused by ann@")
    assert err.endswith(" UTC: moving the disks\n")
    (left,) = cron.admin.execute("SELECT min(until) - now() FROM advlock.cron_pause").fetchall()
    assert timedelta(minutes=59) < left[0] <= timedelta(hours=1)
    assert cron.json("list")["jobs"][0]["paused"]["note"] == "moving the disks"
    assert "did you mean" in cron("pause", "c", "bb", code=78)[1]
    assert cron.json("list")["jobs"][2]["paused"] is None
    assert cron("resume", "b", "c")[1] == "b goes on\nc was not paused\n"
    assert cron("pause", "--all", "--for", "2h")[1].count(" is paused by ann@") == 3
    assert cron("resume", "--all")[1] == "a goes on\nb goes on\nc goes on\n"
    assert cron("resume", "--all")[1] == "nothing was paused\n"
    assert "no job 'x'" in cron("resume", "x", code=78)[1]
    cron.admin.execute("INSERT INTO advlock.cron_pause (job, until) VALUES ('a', 'infinity')")
    for verb in (["list"], ["why", "a"], ["next", "a"]):
        assert cron.json(*verb)
    assert cron("resume", "a")[1] == "a goes on\n"
    for wrong in (["pause"], ["resume", "a", "--all"], ["pause", "a", "--for", "31d"]):
        cron(*wrong, code=64)


def test_trigger_waits_in_the_queue_for_a_scheduler(cron: Cron) -> None:
    """Its tick is on stdout, and `why` finds it; who is waiting for nobody is told so."""
    cron.known(jobs(a={}))
    out, err = cron("trigger", "a")
    assert err == "no scheduler that has a is there now; it runs when one comes\n"
    found = cron.json("why", "a", "--at", out.strip())
    assert (found["verdict"], found["row"]["scheduled_at"]) == (
        "queued",
        datetime.fromisoformat(out.strip()).isoformat(),
    )
    assert "did you mean a?" in cron("trigger", "aa", code=78)[1]
    _, err = cron("list")
    assert err == "no scheduler is running; start one: advlock cron run FILE\n"


def test_waiting_goes_on_while_the_database_is_away(
    cron: Cron, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was triggered stays triggered, so nobody is sent to trigger it once more."""
    said: list[str] = []
    monkeypatch.setattr("advlock.cli.cron._control.say", said.append)
    cron.known(jobs(a={}))

    def interrupt() -> None:
        base, own = cron.admin.info.dbname, cron.admin.info.backend_pid
        with psycopg.connect(server.superuser_dsn, autocommit=True) as other:
            try:
                eventually(lambda: cron.admin.execute("SELECT FROM advlock.cron_run").fetchall())
                other.execute(f"ALTER DATABASE {base} ALLOW_CONNECTIONS false")
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = %s AND pid <> %s",
                    [base, own],
                )
                eventually(lambda: said and "waiting on" in said[-1], within=10.0)
            finally:
                cron.admin.execute("UPDATE advlock.cron_run SET state = 'lost', reason = 'so'")
                other.execute(f"ALTER DATABASE {base} ALLOW_CONNECTIONS true")

    with ThreadPoolExecutor() as pool:
        interrupted = pool.submit(interrupt)
        cron("trigger", "a", "--wait", code=1)
        interrupted.result()
    assert "waiting on" in said[1]
    assert said[2] == "a: lost: so"


def test_a_scheduler_runs_what_is_triggered(cron: Cron, file: str, tmp_path: Path) -> None:
    """`--wait` tells how it ended with its exit code, and shows what it wrote."""
    with closing(Cli(cron.dsn)) as cli:
        scheduler = cli.start("cron", "run", file)
        eventually(lambda: cron.json("list")["hosts"], within=20.0)
        out, err = cron("trigger", "talk", "--wait")
        tick, *lines = out.splitlines()
        assert sorted(lines) == ["said", "talk"]
        assert err.startswith("talk: succeeded on ")
        assert cron.json("why", "talk", "--at", tick)["verdict"] == "succeeded"
        (tmp_path / "code").write_text("3")
        cron("pause", "talk")
        _, err = cron("trigger", "talk", "--wait", code=1)
        assert err.endswith(": exit code 3\n")
        found = cron.json("list")
        assert found["jobs"][1]["last"]["state"] == "failed"
        assert found["jobs"][1]["live"] is True
        scheduler.send(signal.SIGTERM)
        assert scheduler.code() == 0
        assert cron.json("list")["hosts"] == []
