"""Jobs that are Python functions: made of a decorator's arguments, called, and judged."""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar

from advlock._cron._job import Job, JobSet
from advlock._cron._keys import READERS, check_name, whole
from advlock._cron._life import Outcome
from advlock._cron._schedule import Schedule
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from advlock._cron._facts import Claim
    from advlock._cron._job import Missed, OnCrash, Overlap
    from advlock._held import BaseHeld

F = TypeVar("F", bound="Callable[..., Any]")

_TAIL: Final = 16 * 1024  # characters of a traceback


class JobPolicies(TypedDict, total=False):
    """What is to happen when things go wrong, or come together; each may be left out.

    Attributes:
        overlap: What becomes of a tick while an earlier run is still going: `skip` (as without
            it), `queue`, `replace` (ends the earlier run; tasks only), or `allow`.

        missed: What becomes of ticks that nobody saw in time: `once` (as without it) runs one for
            all of them, `skip` none, `all` each, one after the other.

        max_missed: How many of them `all` runs, the newest; 10.

        grace: So long, in seconds or as `"5m"`, a tick is late and not missed; five minutes.

        timeout: How long a run may take, in seconds or as `"1h"`; tasks only, as a thread cannot
            be stopped.

        retries: How often a failed run is tried again, under the same lock; 0.

        retry_wait: How long before the first of these; it doubles each time, up to five minutes.

        jitter: Start up to so much later, the same on every host, and before the next tick.

        enabled: False to let its ticks pass.

        on_crash: What becomes of a tick whose run was lost: `next_tick`, nothing (at most once; as
            without it), or `rerun` (at least once, though three times at most).

        keep: How many rows of history are kept; 200.

        max_age: How old they become; `"30d"`.

        description: For people who look at the list of jobs.

        ping: A URL of Healthchecks, which is told of each run; `{job}` in it is the job's name.

        ping_output: False to keep tracebacks from it.

        sentry_monitor: The slug of a monitor of the Sentry whose DSN is `SENTRY_DSN`.
    """

    overlap: Overlap
    missed: Missed
    max_missed: int
    grace: float | str | timedelta
    timeout: float | str | timedelta
    retries: int
    retry_wait: float | str | timedelta
    jitter: float | str | timedelta
    enabled: bool
    on_crash: OnCrash
    keep: int
    max_age: float | str | timedelta
    description: str
    ping: str
    ping_output: bool
    sentry_monitor: str


JobPolicies.__module__ = "advlock"  # nothing but fields may stand in the class


@dataclass(frozen=True, slots=True)
class CronRun:
    """What a job's function learns of its run, if it has a parameter for it.

    Attributes:
        job: The job's name.

        scheduled_at: The tick, in UTC; also if the run is late.

        run_id: A number of its own for this run; a further attempt has the same.

        attempt: Which attempt it is, from 1.

        held: The lock of the run: a `Held`, or an `AsyncHeld`.
    """

    __module__ = "advlock"

    job: str
    scheduled_at: datetime
    run_id: str
    attempt: int
    held: Any


class Functions:
    """The jobs of one scheduler, by name, with their functions."""

    def __init__(self, timezone: str, max_running: int, *, awaited: bool) -> None:
        self.room = _checked("max_running", whole(1), max_running)
        self._timezone = timezone
        self._awaited = awaited
        Schedule.parse("@daily", timezone)  # a zone that does not exist is refused now
        self._jobs: dict[str, Job] = {}
        self._functions: dict[str, Callable[..., Any]] = {}

    def add(
        self, function: F, schedule: str, name: str | None, zone: str | None, policies: JobPolicies
    ) -> F:
        """Take a function as a job.

        Raises:
            ConfigError: something about it cannot be right.
        """
        name = name or getattr(function, "__name__", "").strip("<>")
        check_name(name)
        if name in self._jobs:
            raise ConfigError(f"there are two jobs called {name!r}; pass name=… to one of them")
        _check_parameters(function, name)
        if inspect.iscoroutinefunction(function) is not self._awaited:
            what, instead = (
                ("not async", "Scheduler") if self._awaited else ("async", "AsyncScheduler")
            )
            raise ConfigError(f"the job {name!r} is {what}; use {instead}")
        unknown = policies.keys() - JobPolicies.__annotations__.keys()
        if unknown:
            raise ConfigError(f"there is no {min(unknown)!r} for a job; see advlock.JobPolicies")
        fields = {key: _checked(key, READERS[key], value) for key, value in policies.items()}
        when = Schedule.parse(schedule, zone or self._timezone, name=name)
        self._jobs[name] = Job(name, when, **fields)
        self._functions[name] = function
        return function

    def job_set(self) -> JobSet:
        """All of them, as the engine takes them."""
        return JobSet(dict(self._jobs), "Python")

    def call(self, claim: Claim, held: BaseHeld, attempt: int) -> Any:
        """Call the function of a claim; what it returns may have to be awaited."""
        function = self._functions[claim.job.name]
        run = CronRun(claim.job.name, claim.scheduled_at, claim.run_id, attempt, held)
        return function(run) if _wants_run(function) else function()


def failed(error: BaseException, attempt: int) -> Outcome:
    """Describe what a function raised."""
    tail = "".join(traceback.format_exception(error))[-_TAIL:]
    reason = traceback.format_exception_only(error)[-1].strip()
    return Outcome("failed", _storable(reason), output=_storable(tail), attempt=attempt)


def _storable(text: str) -> str:
    """What PostgreSQL can hold: no NUL, and no half of a character, as file names may have."""
    return text.replace("\0", "�").encode(errors="replace").decode()


def lost(claim: Claim) -> Outcome:
    """Describe a run that went on without its lock, for how long nobody knows."""
    return Outcome("lost", f"the lock of {claim.job.name!r} was lost while it ran")


def _check_parameters(function: Callable[..., Any], name: str) -> None:
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    by_keyword = [one.name for one in required if one.kind is one.KEYWORD_ONLY]
    if len(required) > 1 or by_keyword:
        raise ConfigError(
            f"the job {name!r} needs more than the one argument it can get: a CronRun. Give the "
            f"others defaults, or wrap it: def {name}(run): …"
        )


def _wants_run(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(
        one.default is one.empty and one.kind <= one.POSITIONAL_OR_KEYWORD for one in parameters
    )


def _checked(key: str, read: Callable[[object], Any], value: Any) -> Any:
    try:
        return read(value.total_seconds() if isinstance(value, timedelta) else value)
    except ConfigError as error:
        raise ConfigError(f"{key} {error}") from None
