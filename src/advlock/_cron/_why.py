"""Why a job did or did not run at a time, in words. Pure.

Where the tick has a row, the row knows. Where it has none, it is reasoned out, in the order of
`_REASONS`: the first that holds is the one that is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._cron import _views
from advlock._cron._why_row import told
from advlock._cron._words import at, utc
from advlock._cron._zone import zone_of
from advlock._duration import brief
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from advlock._cron._job import Job
    from advlock._cron._views import About, Tick, Version
    from advlock._plan import SessionPlan

# Passes are a second apart at most; after so long without a row, something is in the way.
_SOON: Final = timedelta(seconds=5)
_TINY: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)
_CLOCK: Final = re.compile(r"\d\d?:\d\d")
_YEARS: Final = range(1970, 3000)
_SPELLINGS: Final = "03:00, 03:00:30, 2026-11-26T03:00 or 2026-11-26T03:00:00+01:00"


class Moment(NamedTuple):
    """A time as somebody typed it: what is missing is completed by `place`."""

    day: date | None
    clock: time


class Verdict(NamedTuple):
    """Why, for programs and for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a tick.

    Attributes:
        about: The job, its versions and its schedulers.

        tick: Which tick.

        job: The job as it is now; None if only its history is left.

        row: What history has of the tick.

        newer: How many newer ticks history has.

        asked: The time somebody asked for, where that is no tick.

        following: The tick after that.
    """

    about: About
    tick: datetime
    job: Job | None = None
    row: Tick | None = None
    newer: int = 0
    asked: datetime | None = None
    following: datetime | None = None


# -- the question ----------------------------------------------------------------------------------


def read_moment(text: str) -> Moment:
    """Read a time: a clock's, or a full one.

    Raises:
        ConfigError: It is none.
    """
    stripped = re.sub(r"\s*(UTC|Z)$", "+00:00", text.strip())
    try:
        if _CLOCK.match(stripped):
            padded = stripped if stripped[2] == ":" else f"0{stripped}"
            return Moment(None, time.fromisoformat(padded))
        full = datetime.fromisoformat(stripped)
    except ValueError:
        raise ConfigError(f"{text!r} is no time; write {_SPELLINGS}") from None
    if full.year not in _YEARS:
        raise ConfigError(f"{text!r} is out of range; write a year from 1970 to 2999")
    return Moment(full.date(), full.timetz())


def place(moment: Moment, now: datetime, zone: tzinfo) -> datetime:
    """Return the time that is meant, in UTC: without a day the last time the clock showed it.

    Args:
        moment: As it was typed.
        now: The database's time.
        zone: The job's.
    """
    where = moment.clock.tzinfo or zone
    clock = moment.clock.replace(tzinfo=None)
    if moment.day is not None:
        return datetime.combine(moment.day, clock, where).astimezone(UTC)
    today = now.astimezone(where).date()
    found = datetime.combine(today, clock, where).astimezone(UTC)
    if found <= now:
        return found
    return datetime.combine(today - timedelta(days=1), clock, where).astimezone(UTC)


def look(name: str, moment: Moment | None) -> SessionPlan[Case]:
    """Find the tick that is asked for, and what is known of it.

    Raises:
        ConfigError: there is no such job.
    """
    about = yield from _views.about(name)
    if not about.versions:
        return (yield from _left(about, moment))
    job = about.job()
    schedule = job.schedule
    asked = None if moment is None else place(moment, about.now, zone_of(schedule.timezone))
    if asked is None:
        tick = schedule.last(about.now) or schedule.after(about.now)
    elif schedule.last(asked) == asked:
        tick, asked = asked, None
    else:
        if rows := (yield from _within(name, asked)):
            return Case(about, rows[0].scheduled_at, job, rows[0])
        tick = schedule.after(asked) if asked > about.now else schedule.last(asked)
    if tick is None:
        raise ConfigError(f"job {name!r} has no tick there; see advlock cron next {name}")
    rows = yield from _views.ticks(name, tick, tick)
    newer = 0 if rows else (yield from _views.newer(name, tick))
    following = schedule.after(asked) if asked else None
    return Case(about, tick, job, rows[0] if rows else None, newer, asked, following)


def _left(about: About, moment: Moment | None) -> SessionPlan[Case]:
    """Find a tick of a job of which only history is left."""
    if moment is None:
        rows = yield from _views.ticks(about.name)
    else:
        rows = yield from _within(about.name, place(moment, about.now, UTC))
    if not rows:
        raise (yield from _views.unknown([about.name]))
    return Case(about, rows[0].scheduled_at, None, rows[0])


def _within(name: str, asked: datetime) -> SessionPlan[list[Tick]]:
    """Find what was triggered in the second that is asked for, or a tick of another schedule."""
    end = asked if asked.microsecond else asked + _SECOND - _TINY
    return (yield from _views.ticks(name, asked, end))


# -- the answer ------------------------------------------------------------------------------------


def explain(case: Case) -> Verdict:
    """Say why."""
    if case.row is not None:
        return Verdict(case.row.state, _nearest(case) + told(case.row, case.about, case.job))
    assert case.job is not None
    subject = f"The tick of {case.job.name} at {at(case.tick, case.job.schedule.timezone)}"
    for code, reason in _REASONS:
        if why := reason(case, case.job):
            return Verdict(code, f"{_nearest(case)}{subject} {why}")
    why = (
        "has no row, although all ticks up to then were decided. Either somebody deleted it, or "
        "the job had another schedule or was disabled for a while."
    )
    return Verdict("missing", f"{_nearest(case)}{subject} {why}")


def _nearest(case: Case) -> str:
    if case.asked is None or case.job is None:
        return ""
    before = case.job.schedule.last(case.asked)
    both = [
        f"the {word} {utc(tick)}"
        for word, tick in (("one before is", before), ("next is", case.following))
        if tick is not None
    ]
    return f"{utc(case.asked)} is no tick of {case.job.name}: {', '.join(both)}. "


def _future(case: Case, job: Job) -> str | None:
    about = case.about
    left = (case.tick - about.now).total_seconds()
    if left <= 0:
        return None
    why = f"is still to come, in {brief(left)}."
    if not job.enabled:
        return f"{why} It will not run: the job is disabled."
    if about.pause is not None and about.pause.until > job.due(case.tick):
        return f"{why} It will be skipped: the job is {about.pause}. {_resume(job)}"
    if not about.hosts:
        return f"{why} {_nobody_now(job)}"
    return why


def _jitter(case: Case, job: Job) -> str | None:
    due = job.due(case.tick)
    if due <= case.about.now:
        return None
    left = brief((due - case.about.now).total_seconds())
    return f"has come, and begins in {left}, at {utc(due)} (jitter = {brief(job.jitter)})."


def _due(case: Case, job: Job) -> str | None:
    fresh = case.about.now - job.due(case.tick) < _SOON
    if not fresh or not case.about.hosts or not job.enabled:
        return None
    return "has just come; a scheduler takes it within a second or so. Ask again."


def _aged(case: Case, job: Job) -> str | None:
    if case.about.now - case.tick <= timedelta(seconds=job.max_age):
        return None
    return (
        f"is too long ago: history is kept for {brief(job.max_age)} (max_age), "
        "so nobody knows any more."
    )


def _unseen(case: Case, job: Job) -> str | None:
    first = min(version.created_at for version in _same(case, job))
    if case.tick > first:
        return None
    then = _then(case)
    if then:
        text, zone = then[0].timing
        return (
            f"did not exist then: until {utc(first)} the job had another schedule, "
            f"{text!r} in {zone}."
        )
    return (
        f"was before the job was first seen, at {utc(first)}; "
        "what was before that is not made up for."
    )


def _pruned(case: Case, job: Job) -> str | None:
    if case.newer < job.keep:
        return None
    return (
        f"is too long ago: history keeps {job.keep} ticks of the job (keep), and there are "
        f"{case.newer} newer ones, so nobody knows any more."
    )


def _disabled(case: Case, job: Job) -> str | None:
    then = _then(case)
    if not then or any(version.definition["enabled"] for version in then):
        return None
    now = "but is enabled now" if job.enabled else "and still is"
    return f"did not run: the job was disabled (enabled = false) then, {now}."


def _nobody(case: Case, job: Job) -> str | None:
    if _decided(case, job) or case.about.hosts:
        return None
    marks = [version.decided_until for version in _same(case, job) if version.decided_until]
    last = f"one last decided its ticks at {utc(max(marks))}" if marks else "none ever decided any"
    paused = f" But the job is {case.about.pause}." if case.about.pause else ""
    return (
        f"has not run: no scheduler had the job then; {last}. {_nobody_now(job)} "
        f"When one comes, {_made_up(job)}.{paused}"
    )


def _undecided(case: Case, job: Job) -> str | None:
    if _decided(case, job):
        return None
    there = ", ".join(map(str, case.about.hosts))
    return (
        f"has not run yet, although a scheduler is there ({there}). It may run as many jobs as it "
        "may already (--max-running), or it hangs: see advlock cron list, and its log."
    )


_REASONS: Final[tuple[tuple[str, Callable[[Case, Job], str | None]], ...]] = (
    ("future", _future),
    ("jitter", _jitter),
    ("due", _due),
    ("pruned", _aged),
    ("unseen", _unseen),
    ("pruned", _pruned),
    ("disabled", _disabled),
    ("no_scheduler", _nobody),
    ("undecided", _undecided),
)


def _then(case: Case) -> list[Version]:
    """The versions of the job that counted at its tick, as far as that can be known.

    A file that is changed and changed back is one version, whose time spans the other's: then
    both may have counted.
    """
    before = [v for v in case.about.versions if v.created_at < case.tick]
    spans = [v for v in before if v.decided_until and v.decided_until >= case.tick]
    return spans or sorted(before, key=lambda version: version.created_at)[-1:]


def _same(case: Case, job: Job) -> list[Version]:
    """The versions of the job with the schedule that it has now."""
    wanted = (job.schedule.text, job.schedule.timezone)
    return [version for version in case.about.versions if version.timing == wanted]


def _decided(case: Case, job: Job) -> bool:
    marks = (version.decided_until for version in _same(case, job))
    return any(mark is not None and mark >= case.tick for mark in marks)


def _nobody_now(job: Job) -> str:
    return f"No scheduler has {job.name} at the moment; start one: advlock cron run FILE."


def _made_up(job: Job) -> str:
    return {
        "once": "the newest of the ticks that were missed runs, once (missed = once)",
        "skip": f"the newest runs if it is less than {brief(job.grace)} late (missed = skip)",
        "all": f"the newest {job.max_missed} of the ticks that were missed run (missed = all)",
    }[job.missed]


def _resume(job: Job) -> str:
    return f"To end that: advlock cron resume {job.name}."
