"""What a row of history says of a tick, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock._cron import _decide
from advlock._cron._views import span
from advlock._cron._words import at, utc
from advlock._duration import brief

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._cron._job import Job
    from advlock._cron._views import About, Tick


def told(row: Tick, about: About, job: Job | None) -> str:
    """Tell what became of a tick.

    Args:
        row: The tick.
        about: Its job, and who runs it.
        job: The job as it is now; None if only history is left.
    """
    if row.triggered_by:
        when = utc(row.scheduled_at)
        subject = f"{row.job} was triggered by {row.triggered_by} at {when}; it"
    else:
        zone = "UTC" if job is None else job.schedule.timezone
        subject = f"The tick of {row.job} at {at(row.scheduled_at, zone)}"
    return f"{subject} {_STATES[row.state](row, about, job)}"


def _ran(row: Tick, _about: About, _job: Job | None) -> str:
    return f"ran on {_where(row)} and succeeded.{_course(row)}"


def _failed(row: Tick, _about: About, _job: Job | None) -> str:
    return f"ran on {_where(row)} and failed: {_reason(row)}{_code(row)}.{_course(row)}"


def _timed_out(row: Tick, _about: About, job: Job | None) -> str:
    limit = f" (timeout = {brief(job.timeout)})" if job and job.timeout else ""
    return f"ran on {_where(row)} and was stopped: {_reason(row)}{limit}.{_course(row)}"


def _lost(row: Tick, _about: About, job: Job | None) -> str:
    if row.started_at is None:
        return f"was claimed by {_where(row)} and never began: {_reason(row)}."
    again = ""
    if job is not None and job.on_crash == "next_tick":
        again = " It is not run again (on_crash = next_tick); later ticks are."
    elif row.losses:
        again = f" It was lost {_times(row.losses)}, and is not run again."
    return (
        f"began on {_where(row)} and was lost: {_reason(row)}. How far it came, only its own "
        f"traces can tell.{_course(row)}{again}"
    )


def _skipped_overlap(row: Tick, _about: About, job: Job | None) -> str:
    policy = f" (overlap = {job.overlap})" if job else ""
    return f"was skipped, because an earlier run was in the way: {_reason(row)}{policy}."


def _skipped_missed(row: Tick, _about: About, job: Job | None) -> str:
    policy = f" (missed = {job.missed}, grace = {brief(job.grace)})" if job else ""
    return f"was skipped, because it was missed: {_reason(row)}{policy}."


def _skipped_paused(row: Tick, _about: About, _job: Job | None) -> str:
    return f"was skipped, because the job was {row.reason or 'paused'}."


def _running(row: Tick, about: About, _job: Job | None) -> str:
    since = span(row.started_at, about.now) or 0.0
    late = f", {brief(row.latency)} after its time" if row.latency is not None else ""
    parts = [f"is running on {_where(row)}: it began {brief(since)} ago{late}."]
    if row.attempt > 1:
        parts.append(f"This is attempt {row.attempt}, after: {_reason(row)}.")
    if row.stop:
        parts.append(f"It was asked to stop: {row.stop}.")
    if row.locked is False:
        parts.append(
            "But nobody holds its lock any more: "
            + ("a scheduler is about to find that out." if about.hosts else _when_one_comes(row))
        )
    return " ".join(parts)


def _queued(row: Tick, about: About, job: Job | None) -> str:
    by_hand = row.triggered_by is not None
    why = "" if by_hand and (row.reason or "").startswith("triggered") else f": {_reason(row)}"
    parts = [f"waits in the queue{why}."]
    if not about.hosts:
        parts.append(f"No scheduler has the job at the moment; {_when_one_comes(row)}")
    elif about.pause is not None and not by_hand:
        parts.append(f"The job is {about.pause}; it goes on after that.")
    elif job is not None and not job.enabled and not by_hand:
        parts.append("The job is disabled; it goes on when that has ended.")
    else:
        parts.append("A scheduler takes it as soon as the job is not running and it has room.")
    if row.expires_at is not None:
        parts.append(f"It is given up at {utc(row.expires_at)}.")
    return " ".join(parts)


def _claimed(row: Tick, about: About, _job: Job | None) -> str:
    since = span(row.claimed_at, about.now) or 0.0
    stale = ""
    if since > _decide.CLAIM_PATIENCE and not row.locked:
        stale = " That is too long: the next scheduler that looks puts it back into the queue."
    why = f" ({row.reason})" if row.reason and not row.triggered_by else ""
    return f"was claimed by {_where(row)} {brief(since)} ago{why}, and has not begun yet.{stale}"


_STATES: Final[dict[str, Callable[[Tick, About, Job | None], str]]] = {
    "succeeded": _ran,
    "failed": _failed,
    "timeout": _timed_out,
    "lost": _lost,
    "skipped_overlap": _skipped_overlap,
    "skipped_missed": _skipped_missed,
    "skipped_paused": _skipped_paused,
    "running": _running,
    "queued": _queued,
    "claimed": _claimed,
}


def _where(row: Tick) -> str:
    return "a host that is not known" if row.host is None else f"{row.host} (pid {row.pid})"


def _reason(row: Tick) -> str:
    return row.reason or "no reason was put down"


def _code(row: Tick) -> str:
    words = "" if row.exit_code is None else f"exit code {row.exit_code}"
    return "" if not words or words in _reason(row) else f" ({words})"


def _course(row: Tick) -> str:
    """When it began, how long it took, and at which attempt."""
    if row.latency is None:
        return ""
    took = "" if row.duration is None else f" and took {brief(row.duration)}"
    rerun = row.state != "lost"
    attempts = f", with {row.attempt} attempts" if row.attempt > 1 else ""
    lost = f" Before, it was lost {_times(row.losses)}." if row.losses and rerun else ""
    time = "that" if row.triggered_by else "its time"
    return f" It began {brief(row.latency)} after {time}{took}{attempts}.{lost}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _when_one_comes(row: Tick) -> str:
    return {
        "running": "the next scheduler that comes puts that down.",
        "queued": "it runs when one comes: advlock cron run FILE.",
    }[row.state]
