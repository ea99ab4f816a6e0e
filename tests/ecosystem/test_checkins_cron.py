"""Check-ins of the cron: each run that begins, and how it ends; none for what did not run."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any

import pytest
from cli.crons import Crons, shell, until
from cron.crews import World
from waiting import eventually

from advlock._cron._job import Job
from advlock._cron._monitors import monitor_config
from advlock._cron._schedule import Schedule

from .receiver import PATIENCE, Receiver, Told, receiving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg import Connection

pytestmark = pytest.mark.newest

TABLES = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'advlock'"
# Obeys TERM, and calls that a success.
KIND = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


@pytest.fixture
def monitor() -> Iterator[Receiver]:
    """A monitor's server."""
    with receiving() as made:
        yield made


@pytest.fixture
def crons(dsn: str, admin: Connection[Any], tmp_path: Path) -> Iterator[Crons]:
    """Schedulers that know no Sentry."""
    made = Crons(dsn, admin, tmp_path)
    made.cli.env = {k: v for k, v in made.cli.env.items() if not k.startswith("SENTRY_")}
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Threads and `Scheduler`, or tasks and `AsyncScheduler`."""
    made = World(request.param)
    yield made
    made.close()


def of(monitor: Receiver, job: str) -> list[Told]:
    """What was told of a job."""
    return [told for told in list(monitor.requests) if told.path.split("/")[1] == job]


def pair(monitor: Receiver, job: str) -> tuple[Told, Told]:
    """The start and the end of the first run of a job."""

    def first() -> list[Told]:
        told = of(monitor, job)
        same = [one for one in told if one.query["rid"] == told[0].query["rid"]] if told else []
        return same if len(same) == 2 else []

    start, end = eventually(first, within=PATIENCE, message=f"{job}: {monitor.requests}")
    assert start.action == "start"
    return start, end


def test_each_way_to_end_is_told(crons: Crons, monitor: Receiver) -> None:
    """With the exit code, the reason and the output; a command that obeys TERM did not succeed."""
    ping = f"{monitor.base}/{{job}}"
    jobs = {
        "good": shell("echo well done; echo $ADVLOCK_RUN_ID"),
        "bad": shell("echo oh no >&2; exit 3"),
        "late": shell(KIND, timeout="200ms"),
        "secret": shell("echo secret; exit 4", ping_output=False),
        "missing": {"command": ["no-such-command"]},
    }
    scheduler = crons.run({name: job | {"ping": ping} for name, job in jobs.items()})
    ends = {job: pair(monitor, crons.name(job))[1] for job in jobs}
    scheduler.end()
    actions = {job: end.action for job, end in ends.items()}
    assert actions == {"good": "0", "bad": "3", "late": "fail", "secret": "4", "missing": "127"}
    head, _, output = ends["good"].body.partition("\n\n")
    assert head.startswith(f"{crons.name('good')} of 20")
    assert ": succeeded after " in head
    assert output == f"well done\n{ends['good'].query['rid']}\n"
    assert ends["bad"].body.endswith("\nexit code 3\n\noh no\n")
    assert "its timeout was over" in ends["late"].body
    assert "secret\n" not in ends["secret"].body.partition("\n")[2]
    assert "command not found" in ends["missing"].body
    assert monitor.base not in scheduler.err()
    tables = [f"advlock.{name}" for (name,) in crons.admin.execute(TABLES)]
    kept = [crons.admin.execute(f"SELECT t::text FROM {name} t").fetchall() for name in tables]  # type: ignore[call-overload]
    assert crons.name("good") in str(kept)
    assert monitor.base not in str(kept), "it is a secret, and nothing for other hosts"


def test_only_what_runs_checks_in(crons: Crons, monitor: Receiver) -> None:
    """Of two schedulers the one that has the run; a tick that is skipped tells nothing."""
    go = crons.directory / "go"
    file = crons.file({"long": shell(until(go), ping=f"{monitor.base}/{{job}}")})
    both = [crons.run(file), crons.run(file)]
    eventually(
        lambda: [row for row in crons.rows("long") if row.state == "skipped_overlap"],
        within=PATIENCE,
        message="a tick is skipped",
    )
    assert monitor.actions == ["start"]
    go.touch()
    pair(monitor, crons.name("long"))
    for one in both:
        one.end()
    told = [told.query["rid"] for told in monitor.requests]
    ran = [row.run_id for row in crons.rows("long") if row.started_at]
    assert sorted(told) == sorted(str(run) for run in ran * 2)


def test_a_scheduler_that_ends_tells_of_what_it_stopped(crons: Crons, monitor: Receiver) -> None:
    """It is a failure, and told before the process is gone."""
    up = crons.directory / "up"
    kind = KIND.replace("while", f"touch {up}; while")
    scheduler = crons.run({"stopped": shell(kind, ping=f"{monitor.base}/{{job}}")}, "--wait", "0")
    eventually(up.exists, within=PATIENCE)
    scheduler.send(signal.SIGTERM)
    scheduler.code()
    assert monitor.actions == ["start", "fail"]
    assert "stopped together with its scheduler" in monitor.requests[1].body


def test_a_monitor_that_never_answers_delays_no_tick(crons: Crons, monitor: Receiver) -> None:
    """Runs begin and end as without it; the failed check-ins are said, and fail no run."""
    monitor.silent = True
    scheduler = crons.run({"job": shell("true", ping=f"{monitor.base}/{{job}}")})
    rows = crons.over("job", "succeeded", 2)
    # The monitor is given ten seconds.
    assert (rows[1].scheduled_at - rows[0].scheduled_at).total_seconds() < 5
    assert all((row.finished_at - row.started_at).total_seconds() < 5 for row in rows[:2])  # type: ignore[operator]
    scheduler.process.kill()  # at its end it would wait for the monitor


def test_functions_check_in(
    world: World, dsn: str, monitor: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both worlds, to both services; Sentry is told of the schedule, too."""
    monkeypatch.setenv("SENTRY_DSN", monitor.sentry)
    monkeypatch.delenv("SENTRY_ENVIRONMENT", raising=False)
    scheduler = world.scheduler(dsn, timezone="Europe/Berlin")

    def fails(_run: object) -> None:
        raise ValueError("the reason")

    name = "w" + ("-sync" if world.is_sync else "-async")
    ping = f"{monitor.base}/{{job}}"
    world.job(scheduler, f"{name}-good", ping=ping, sentry_monitor="{job}", grace="2m")
    world.job(scheduler, f"{name}-bad", does=fails, ping=ping)
    world.job(scheduler, f"{name}-quiet", does=fails, ping=ping, ping_output=False)
    with world.running(scheduler):
        good, bad, quiet = (pair(monitor, f"{name}-{job}")[1] for job in ("good", "bad", "quiet"))
        sentry = f"/api/42/cron/{name}-good/publickey/"
        eventually(lambda: [t.path for t in monitor.requests].count(sentry) >= 2, within=PATIENCE)
    assert [one.action for one in (good, bad, quiet)] == ["0", "fail", "fail"]
    assert bad.body.endswith("ValueError: the reason\n")
    assert "Traceback" in bad.body
    assert "the reason" not in quiet.body
    told = [one.json for one in monitor.requests if one.path == sentry][:2]
    assert [one["status"] for one in told] == ["in_progress", "ok"]
    assert "monitor_config" not in told[0]  # it has no word for seconds


def test_a_monitor_of_sentry_without_a_dsn_is_said(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, when the scheduler begins; the jobs run."""
    monkeypatch.delenv("SENTRY_DSN", raising=False)
    world = World("sync")
    scheduler = world.scheduler(dsn)
    world.job(scheduler, "no-dsn", sentry_monitor="nightly")
    with caplog.at_level(logging.WARNING, "advlock.cron"), world.running(scheduler):
        eventually(lambda: world.calls, within=PATIENCE)
    world.close()
    said = [
        r.getMessage() for r in caplog.records if getattr(r, "event", "") == "cron.checkin_failed"
    ]
    assert said == ["Sentry is not told of no-dsn: SENTRY_DSN is not in the environment"]


@pytest.mark.parametrize(
    ("schedule", "policies", "expected"),
    [
        (
            "H 3 * * *",
            {"timeout": 3600.0, "retries": 2, "retry_wait": 60.0, "kill_after": 0.0},
            {
                "schedule": {"type": "crontab", "value": "2 3 * * *"},
                "timezone": "Europe/Berlin",
                "checkin_margin": 5,
                "max_runtime": 183,
            },
        ),
        (
            "@daily",
            {"grace": 0.0, "jitter": 30.0},
            {
                "schedule": {"type": "crontab", "value": "0 0 * * *"},
                "timezone": "Europe/Berlin",
                "checkin_margin": 1,
            },
        ),
        (
            "@every 2h",
            {"grace": 1e9},
            {
                "schedule": {"type": "interval", "value": 2, "unit": "hour"},
                "timezone": "Europe/Berlin",
                "checkin_margin": 40320,
            },
        ),
        ("@every 90s", {}, None),
    ],
)
def test_sentry_is_told_what_it_has_words_for(
    schedule: str, policies: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """The schedule with H written out, the margin for lateness, and all attempts together."""
    job = Job("j", Schedule.parse(schedule, "Europe/Berlin", name="j"), **policies)
    assert monitor_config(job) == expected
