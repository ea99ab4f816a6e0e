"""What monitors are told of the runs of jobs. Pure."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Final

from advlock._checkins._plan import Ending, Healthchecks, Sentry, named
from advlock._cron._life import _LONGEST_WAIT
from advlock._cron._words import utc
from advlock._duration import brief
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from advlock._checkins._plan import Monitor
    from advlock._cron._facts import Claim
    from advlock._cron._job import Job
    from advlock._cron._life import Outcome

SENTRY_DSN: Final = "SENTRY_DSN"
_MINUTE: Final = 60
# What Sentry takes, in minutes (src/sentry/monitors/validators.py): 28 days, and seven.
_LONGEST_MARGIN: Final = 40_320
_LONGEST_RUN: Final = 10_080
# From the largest.
_UNITS: Final = (("day", 1440), ("hour", 60), ("minute", 1))


def unheard(jobs: Iterable[Job], env: Mapping[str, str]) -> str | None:
    """Say why Sentry is not told of jobs that ask for it; None if it is."""
    asking = [job.name for job in jobs if job.sentry_monitor is not None]
    if not asking:
        return None
    try:
        Sentry(env.get(SENTRY_DSN) or "", "")
    except ConfigError as error:
        why = str(error) if env.get(SENTRY_DSN) else f"{SENTRY_DSN} is not in the environment"
        return f"Sentry is not told of {', '.join(asking)}: {why}"
    return None


def monitors(job: Job, env: Mapping[str, str]) -> list[Monitor]:
    """Who is told of a job's runs.

    Args:
        job: The job.
        env: The scheduler's environment: where Sentry is.
    """
    found: list[Monitor] = []
    if job.ping is not None:
        found.append(Healthchecks(named(job.ping, job.name)))
    if job.sentry_monitor is not None:
        slug, environment = named(job.sentry_monitor, job.name), env.get("SENTRY_ENVIRONMENT")
        with contextlib.suppress(ConfigError):  # `unheard` has said so
            found.append(Sentry(env.get(SENTRY_DSN, ""), slug, environment, monitor_config(job)))
    return found


def monitor_config(job: Job) -> dict[str, Any] | None:
    """What Sentry makes the monitor of; None if it has no word for the schedule."""
    schedule: dict[str, Any]
    if job.schedule.period % _MINUTE:
        return None  # it counts in minutes
    if job.schedule.period:
        minutes = job.schedule.period // _MINUTE
        unit, size = next((u, s) for u, s in _UNITS if minutes % s == 0)
        schedule = {"type": "interval", "value": minutes // size, "unit": unit}
    else:
        schedule = {"type": "crontab", "value": job.schedule.fields}
    config = {
        "schedule": schedule,
        "timezone": job.schedule.timezone,
        "checkin_margin": _minutes(job.grace + job.jitter, _LONGEST_MARGIN),
    }
    if job.timeout is not None:
        config["max_runtime"] = _minutes(_longest(job), _LONGEST_RUN)
    return config


def _longest(job: Job) -> float:
    """How long a run may take, with all its attempts."""
    waits = (min(_LONGEST_WAIT, job.retry_wait * 2.0 ** min(n, 30)) for n in range(job.retries))
    return ((job.timeout or 0.0) + job.kill_after) * (job.retries + 1) + sum(waits)


def _minutes(seconds: float, most: int) -> int:
    return max(1, min(most, math.ceil(seconds / _MINUTE)))


def ending(claim: Claim, outcome: Outcome, host: str, seconds: float) -> Ending:
    """Say how a run ended, as monitors are told."""
    job, code = claim.job, outcome.exit_code
    first = f"{job.name} of {utc(claim.scheduled_at)} on {host}: {outcome.state}"
    first += f" after {brief(seconds)}"
    if outcome.attempt > 1:
        first += f", attempt {outcome.attempt}"
    reason, output = outcome.reason, outcome.output
    if not job.ping_output:
        if code is None and output:  # a function's: what was raised stands in both
            reason = None
        output = None
    summary = "\n".join(filter(None, (first, reason)))
    if outcome.state == "succeeded":
        code = 0
    elif code == 0:  # stopped, and well behaved
        code = None
    return Ending(code, summary, output, seconds)
