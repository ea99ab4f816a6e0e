"""A job: what runs, when, and what is to happen when things go wrong. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from advlock._cron._schedule import Schedule

Overlap: TypeAlias = Literal["skip", "queue", "replace", "allow"]
Missed: TypeAlias = Literal["once", "skip", "all"]
OnCrash: TypeAlias = Literal["next_tick", "rerun"]
OnLost: TypeAlias = Literal["kill", "continue"]

DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Job:
    """One job, understood and checked; times are in seconds.

    Attributes:
        name: What it is called, everywhere and on every host.

        schedule: When its ticks are.

        command: The program and its arguments; empty for a Python function.

        overlap: What becomes of a tick while an earlier run is still going.

        missed: What becomes of ticks that are older than `grace` when somebody first sees them.

        max_missed: How many of them `missed="all"` runs at most, the newest.

        grace: So long after its time a tick is merely late, and runs.

        timeout: So long a run may take; None for ever.

        kill_after: Between TERM and KILL.

        retries: How often a failed run is tried again, under the same lock.

        retry_wait: Before the first of these; doubles each time, up to five minutes.

        jitter: A tick starts up to so much later, by a hash of the job and the tick; but before
            the next one.

        enabled: Whether its ticks run at all; by hand it always does.

        on_crash: What becomes of a tick whose run was lost: nothing, or it runs again.

        on_lost: Whether the command is stopped when its lock is lost.

        keep: How many rows of history it keeps.

        max_age: How old they may become.

        output: How many bytes of its output's tail are kept with them.

        env: Variables it gets on top of the scheduler's own environment.

        cwd: The directory it runs in; None for the scheduler's own.

        description: For people.

        ping: Where Healthchecks is told of its runs; a secret, as whoever knows it may ping.

        ping_output: Whether it is sent the tail of their output, too.

        sentry_monitor: The slug of the monitor where Sentry is told of them.
    """

    name: str
    schedule: Schedule
    command: tuple[str, ...] = ()
    overlap: Overlap = "skip"
    missed: Missed = "once"
    max_missed: int = 10
    grace: float = 300.0
    timeout: float | None = None
    kill_after: float = 10.0
    retries: int = 0
    retry_wait: float = 10.0
    jitter: float = 0.0
    enabled: bool = True
    on_crash: OnCrash = "next_tick"
    on_lost: OnLost = "kill"
    keep: int = 200
    max_age: float = 30 * DAY
    output: int = 16 * 1024
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    description: str = ""
    ping: str | None = field(default=None, repr=False)
    ping_output: bool = True
    sentry_monitor: str | None = None

    def due(self, tick: datetime) -> datetime:
        """When the run of `tick` is to start: the same on every host, and before the next tick."""
        if not self.jitter:
            return tick
        seed = hashlib.sha256(f"{self.name}\0{tick.timestamp()}".encode()).digest()
        following = self.schedule.after(tick) or tick
        span = min(self.jitter, (following - tick).total_seconds())
        return tick + timedelta(seconds=span * int.from_bytes(seed[:8], "big") / 2**64)

    def lock_name(self, tick: datetime) -> str:
        """The name of the lock under which the run of `tick` goes on."""
        if self.overlap == "allow":
            return f"cron:{self.name}@{tick.isoformat()}"
        return f"cron:{self.name}"

    def definition(self) -> dict[str, Any]:
        """What other hosts may know of it: the command and its environment are not in it."""
        secret = json.dumps([self.command, self.env, self.cwd]).encode()
        return {
            "schedule": self.schedule.text,
            "timezone": self.schedule.timezone,
            "overlap": self.overlap,
            "missed": self.missed,
            "max_missed": self.max_missed,
            "grace": self.grace,
            "timeout": self.timeout,
            "jitter": self.jitter,
            "kill_after": self.kill_after,
            "retries": self.retries,
            "retry_wait": self.retry_wait,
            "output": self.output,
            "enabled": self.enabled,
            "on_crash": self.on_crash,
            "on_lost": self.on_lost,
            "keep": self.keep,
            "max_age": self.max_age,
            "description": self.description,
            "runs": hashlib.sha256(secret).hexdigest()[:16],
        }


@dataclass(frozen=True, slots=True)
class JobSet:
    """The jobs of one file, or of one program.

    Attributes:
        jobs: By name, in the order of the file.

        source: The file they come from, for messages.

        max_running: How many may run at a time on one host; None for the scheduler's default.

        warnings: What is allowed and probably not meant, for people.
    """

    jobs: Mapping[str, Job]
    source: str = ""
    max_running: int | None = None
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def definitions(self) -> str:
        """All definitions, as JSON that is the same wherever the jobs are the same."""
        every = {name: job.definition() for name, job in self.jobs.items()}
        return json.dumps(every, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """A hash that tells one version of the jobs from another."""
        return hashlib.sha256(self.definitions().encode()).hexdigest()[:32]
