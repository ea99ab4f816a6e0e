"""Why a job did or did not run: every state of a row, and every reason for which there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from driven import drive

from advlock._cron._facts import Pause
from advlock._cron._job import Job, Missed
from advlock._cron._schedule import Schedule
from advlock._cron._views import About, Here, Tick, Version
from advlock._cron._why import Case, explain, look, place, read_moment
from advlock._cron._why_row import _STATES
from advlock._cron._zone import zone_of
from advlock.errors import ConfigError

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
TICK = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
EARLY = datetime(2026, 10, 1, tzinfo=UTC)
HOST = Here("web2", 20, "jobs.toml", "h", EARLY)
PAUSE = Pause(NOW + timedelta(days=2), "moving the disks", "ann@web1")


def job(schedule: str = "0 3 * * *", zone: str = "UTC", **policies: Any) -> Job:
    """A job at three."""
    return Job("nightly", Schedule.parse(schedule, zone), **policies)


def version(
    one: Job, since: datetime = EARLY, until: datetime | None = NOW, *, live: bool = True
) -> Version:
    """A version of it that was decided until now."""
    return Version(one.definition(), since, until, live)


def case(
    one: Job | None = None,
    *versions: Version,
    tick: datetime = TICK,
    hosts: tuple[Here, ...] = (HOST,),
    pause: Pause | None = None,
    **known: Any,
) -> Case:
    """A tick of a job that a scheduler has."""
    one = one or job()
    about = About("nightly", NOW, versions or (version(one),), hosts, pause)
    return Case(about, tick, one, **known)


def row(state: str, **columns: Any) -> Tick:
    """A row of the tick, as a run on web1 leaves it."""
    started = TICK + timedelta(milliseconds=20)
    ran: dict[str, Any] = {"host": "web1", "pid": 17, "claimed_at": TICK, "started_at": started}
    if state in {"succeeded", "failed", "timeout", "lost"}:
        ran["finished_at"] = started + timedelta(minutes=3)
    return Tick("nightly", TICK, state, **ran | columns)


# -- what has a row --------------------------------------------------------------------------------


ROWS: list[tuple[Tick, Job, list[str]]] = [
    (
        row("succeeded"),
        job(),
        [
            "The tick of nightly at 2026-11-26 03:00:00 UTC ran on web1 (pid 17) and succeeded.",
            "began 20ms after its time and took 3m",
        ],
    ),
    (row("succeeded", attempt=3), job(), ["with 3 attempts"]),
    (row("succeeded", losses=1), job(), ["Before, it was lost once."]),
    (
        row("succeeded", triggered_by="ann@web1", reason="triggered by ann@web1"),
        job(),
        [
            "nightly was triggered by ann@web1 at 2026-11-26 03:00:00 UTC; it ran on web1",
            "It began 20ms after that",
        ],
    ),
    (row("failed", reason="exit code 3", exit_code=3), job(), ["failed: exit code 3. It began"]),
    (
        row("failed", reason="ended by SIGKILL", exit_code=137),
        job(),
        ["ended by SIGKILL (exit code 137)"],
    ),
    (
        row("timeout", reason="its timeout was over"),
        job(timeout=180.0),
        ["was stopped: its timeout was over (timeout = 3m)"],
    ),
    (
        row("lost", reason="its lock was found free", losses=1),
        job(),
        ["was lost: its lock was found free", "not run again (on_crash = next_tick)"],
    ),
    (
        row("lost", reason="its lock was found free", losses=4),
        job(on_crash="rerun"),
        ["lost 4 times, and is not run again"],
    ),
    (row("lost", reason="gone", started_at=None), job(), ["web1 (pid 17) and never began: gone"]),
    (
        row("skipped_overlap", reason="its lock is held by pid 9"),
        job(),
        ["an earlier run was in the way: its lock is held by pid 9 (overlap = skip)"],
    ),
    (
        row("skipped_missed", reason="seen 1h late"),
        job(missed="skip"),
        ["it was missed: seen 1h late (missed = skip, grace = 5m)"],
    ),
    (
        row("skipped_paused", reason=str(PAUSE)),
        job(),
        ["the job was paused by ann@web1 until 2026-11-28 12:00:00 UTC: moving the disks"],
    ),
    (row("running", locked=True), job(), ["is running on web1 (pid 17): it began 8h59m ago"]),
    (
        row("running", locked=False, attempt=2, reason="exit code 1", stop="replaced"),
        job(),
        ["attempt 2, after: exit code 1", "asked to stop: replaced", "nobody holds its lock"],
    ),
    (
        row("queued", host=None, pid=None, started_at=None, reason="its lock was held"),
        job(),
        ["waits in the queue: its lock was held", "A scheduler takes it"],
    ),
    (
        row("queued", expires_at=NOW + timedelta(minutes=5)),
        job(enabled=False),
        ["The job is disabled", "given up at 2026-11-26 12:05:00 UTC"],
    ),
    (row("claimed", locked=True), job(), ["claimed by web1 (pid 17) 9h ago", "has not begun yet"]),
    (row("claimed", locked=False), job(), ["That is too long"]),
]


@pytest.mark.parametrize(("tick", "one", "words"), ROWS, ids=[r.state for r, *_ in ROWS])
def test_a_row_is_told_in_words(tick: Tick, one: Job, words: list[str]) -> None:
    """Who ran it, when it began, how it ended, and which policy was at work."""
    verdict = explain(case(one, row=tick))
    assert verdict.code == tick.state
    for part in words:
        assert part in verdict.text


def test_every_state_has_words() -> None:
    """No state of the table is without a sentence."""
    from advlock._schema_sql import MIGRATIONS  # noqa: PLC0415 - for this alone

    (table,) = (sql for sql in MIGRATIONS[1] if "cron_run (" in sql and "CHECK" in sql)
    assert all(f"'{state}'" in table for state in _STATES)
    assert table.split("CHECK")[1].split("))")[0].count("'") == 2 * len(_STATES)


def test_what_waits_says_for_what() -> None:
    """A scheduler, the end of a pause, or, if it was triggered, only a scheduler."""
    waits = row("queued", reason="its lock was held")
    assert "runs when one comes" in explain(case(row=waits, hosts=())).text
    assert "moving the disks" in explain(case(row=waits, pause=PAUSE)).text
    by_hand = replace(waits, triggered_by="ann@web1", reason="triggered by ann@web1")
    text = explain(case(row=by_hand, pause=PAUSE)).text
    assert "waits in the queue. A scheduler takes it" in text
    assert "moving the disks" not in text


def test_a_run_whose_lock_is_free_waits_for_a_scheduler_to_see_it() -> None:
    """Without one, nobody can put it down as lost."""
    text = explain(case(row=row("running", locked=False), hosts=())).text
    assert "the next scheduler that comes puts that down" in text


def test_history_is_told_without_the_job() -> None:
    """A job that no file has any more can still be asked about."""
    about = About("nightly", NOW, ())
    for state in _STATES:
        assert explain(Case(about, TICK, None, row(state))).code == state


# -- what has none ---------------------------------------------------------------------------------

LATER = NOW + timedelta(hours=15)
OTHER = job("0 5 * * *")
OFF = job(enabled=False)
BEFORE = TICK - timedelta(hours=1)
AFTER = TICK + timedelta(hours=1)

NONE: dict[str, tuple[Case, str, str]] = {
    "future": (case(tick=LATER), "future", "is still to come, in 15h."),
    "future, disabled": (case(OFF, tick=LATER), "future", "will not run: the job is disabled"),
    "future, paused": (case(tick=LATER, pause=PAUSE), "future", "skipped: the job is paused by"),
    "future, after the pause": (
        case(tick=LATER, pause=PAUSE._replace(until=NOW)),
        "future",
        "is still to come, in 15h.",
    ),
    "future, nobody": (case(tick=LATER, hosts=()), "future", "No scheduler has nightly"),
    "jitter": (
        case(job("@hourly", jitter=600.0), tick=NOW),
        "jitter",
        "(jitter = 10m)",
    ),
    "due": (
        case(job("@every 2s"), tick=NOW - timedelta(seconds=2)),
        "due",
        "a scheduler takes it within a second",
    ),
    "too old": (
        case(tick=TICK - timedelta(days=40)),
        "pruned",
        "history is kept for 30d (max_age)",
    ),
    "too many since": (case(newer=200), "pruned", "keeps 200 ticks of the job (keep)"),
    "unseen": (
        case(None, version(job(), AFTER)),
        "unseen",
        "before the job was first seen, at 2026-11-26 04:00:00 UTC",
    ),
    "another schedule": (
        case(None, version(job(), AFTER), version(OTHER, until=BEFORE, live=False)),
        "unseen",
        "another schedule, '0 5 * * *' in UTC",
    ),
    "disabled": (case(OFF), "disabled", "was disabled (enabled = false) then, and still is"),
    "disabled then": (
        case(None, version(job(), AFTER), version(OFF, until=AFTER, live=False)),
        "disabled",
        "but is enabled now",
    ),
    "no scheduler": (
        case(None, version(job(), until=BEFORE, live=False), hosts=()),
        "no_scheduler",
        "one last decided its ticks at 2026-11-26 02:00:00 UTC",
    ),
    "never a scheduler": (
        case(None, version(job(missed="all"), until=None), hosts=(), pause=PAUSE),
        "no_scheduler",
        "none ever decided any",
    ),
    "undecided": (
        case(None, version(job(), until=BEFORE)),
        "undecided",
        "a scheduler is there (web2:20)",
    ),
    "missing": (case(), "missing", "has no row, although all ticks up to then were decided"),
}


@pytest.mark.parametrize(("one", "code", "words"), NONE.values(), ids=NONE)
def test_what_has_no_row_has_a_reason(one: Case, code: str, words: str) -> None:
    """Each way in which a tick can have no row is told from the others."""
    verdict = explain(one)
    assert (verdict.code, words in verdict.text) == (code, True), verdict.text
    assert verdict.text.startswith("The tick of nightly at ")


@pytest.mark.parametrize("missed", get_args(Missed))
def test_what_a_scheduler_would_make_of_it_depends_on_the_policy(missed: Any) -> None:
    """What was missed is made up for once, not at all, or up to a number."""
    one = job(missed=missed)
    text = explain(case(one, version(one, until=BEFORE), hosts=())).text
    assert f"(missed = {missed})" in text


def test_a_time_that_is_no_tick_names_those_around_it() -> None:
    """The one before is the one that is explained."""
    asked = TICK + timedelta(minutes=17)
    verdict = explain(case(asked=asked, following=TICK + timedelta(days=1), row=row("succeeded")))
    assert verdict.text.startswith(
        "2026-11-26 03:17:00 UTC is no tick of nightly: the one before is 2026-11-26 03:00:00 UTC,"
        " the next is 2026-11-27 03:00:00 UTC. The tick of nightly at 2026-11-26 03:00:00 UTC ran"
    )


def test_a_tick_is_shown_by_the_clocks_of_its_zone_too() -> None:
    """With the day, where that is another one."""
    text = explain(case(job("0 12 * * *", "Asia/Tokyo"), row=row("succeeded"))).text
    assert "2026-11-26 03:00:00 UTC (12:00:00 in Asia/Tokyo)" in text
    text = explain(case(job("0 18 * * *", "Pacific/Honolulu"), tick=TICK)).text
    assert "(2026-11-25 17:00:00 in Pacific/Honolulu)" in text


# -- the time that is asked for --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("03:00", "UTC", TICK),
        ("3:00", "UTC", TICK),
        ("03:00:07", "UTC", TICK + timedelta(seconds=7)),
        ("13:00", "UTC", datetime(2026, 11, 25, 13, tzinfo=UTC)),
        ("04:00", "Europe/Berlin", TICK),
        ("04:00+01:00", "America/New_York", TICK),
        ("03:00 UTC", "Asia/Tokyo", TICK),
        ("03:00Z", "Asia/Tokyo", TICK),
        ("2026-11-26T04:00", "Europe/Berlin", TICK),
        ("2026-11-26 03:00:00 UTC", "Europe/Berlin", TICK),
        ("2026-11-26T03:00:00.250000+00:00", "UTC", TICK + timedelta(milliseconds=250)),
        ("2026-11-27", "UTC", datetime(2026, 11, 27, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, zone: str, expected: datetime) -> None:
    """By the clocks of the job's zone, unless it says otherwise; without a day, the last time."""
    assert place(read_moment(text), NOW, zone_of(zone)) == expected


@pytest.mark.parametrize("text", ["", "noon", "25:00", "3", "03:00 CET", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigError, match="is no time; write 03:00"):
        read_moment(text)


def test_a_job_that_is_not_known_is_refused_with_what_was_meant() -> None:
    """Not without asking whether history has something of it."""
    nothing = [
        [('{"now": "2026-11-26T12:00:00+00:00", "versions": null, "hosts": null, "pause": null}',)]
    ]
    names = [[('{"jobs": ["nightly", "hourly"], "paused": null}',)]]
    with pytest.raises(ConfigError, match=r"no job 'nigthly'; did you mean nightly\?"):
        drive(look("nigthly", None), nothing, [[(None,)]], names)
