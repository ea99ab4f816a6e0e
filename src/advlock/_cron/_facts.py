"""What one look at the database tells. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advlock._cron._job import Job

ACTIVE = ("claimed", "queued", "running")


@dataclass(frozen=True, slots=True)
class Active:
    """A tick that is not over.

    Attributes:
        job: Of which job.

        scheduled_at: Which tick; for one that was triggered, when that was.

        state: `claimed`, `queued` or `running`.

        run_id: Of who claimed it last; None while nobody has.

        host: Where that was.

        pid: The scheduler's process there.

        claimed_at: When.

        started_at: When it began to run.

        expires_at: Until when it may wait in the queue; None for ever.

        losses: How often a run of it was lost.

        stop: Why it is asked to stop; None while it is not.

        by_hand: Whether somebody triggered it.

        locked: Whether anybody holds the lock of its last claim.

        owner: The key of the lock that the scheduler of that claim holds while it lives.

        owned: Whether it lives.
    """

    job: str
    scheduled_at: datetime
    state: str
    run_id: str | None = None
    host: str | None = None
    pid: int | None = None
    claimed_at: datetime | None = None
    started_at: datetime | None = None
    expires_at: datetime | None = None
    losses: int = 0
    stop: str | None = None
    by_hand: bool = False
    locked: bool = False
    owner: int | None = None
    owned: bool = False


class Pause(NamedTuple):
    """Somebody wants a job not to run for a while."""

    until: datetime
    note: str | None
    by: str | None

    def __str__(self) -> str:
        """Say who, until when, and why."""
        by = f" by {self.by}" if self.by else ""
        note = f": {self.note}" if self.note else ""
        return f"paused{by} until {self.until:%Y-%m-%d %H:%M:%S} UTC{note}"


class Version(NamedTuple):
    """One version of the jobs, as somebody's file has or had it.

    Attributes:
        created_at: When it was first seen.

        decided_until: Until when all its ticks are decided; None while none are.
    """

    created_at: datetime
    decided_until: datetime | None


@dataclass(frozen=True, slots=True)
class Facts:
    """One look.

    Attributes:
        now: The time, by the database's clock.

        server_since: When that server was started.

        sets: Every version of the jobs, by its hash.

        pauses: What is paused, by job.

        active: What is not over, by job and tick.
    """

    now: datetime
    server_since: datetime
    sets: Mapping[str, Version] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    active: Sequence[Active] = ()


class Claim(NamedTuple):
    """A tick that is ours to run.

    Attributes:
        job: The job.

        scheduled_at: The tick.

        run_id: Our claim to it.

        was: How it stood in the queue; None if it comes straight from the schedule.
    """

    job: Job
    scheduled_at: datetime
    run_id: str
    was: Active | None = None


def read_facts(text: str | None) -> Facts:
    """Read the answer to `LOOK`."""
    told = json.loads(text or "{}")
    return Facts(
        read_moment(told["now"]),
        read_moment(told["server_since"]),
        {
            hash_: Version(read_moment(since), moment(until))
            for hash_, (since, until) in (told["sets"] or {}).items()
        },
        {
            job: Pause(read_moment(until), note, by)
            for job, (until, note, by) in (told["pauses"] or {}).items()
        },
        [_active(row) for row in told["active"] or []],
    )


def moment(text: str | None) -> datetime | None:
    """Read a time that may be missing, in UTC: a lock's name must not follow a role's TimeZone."""
    return None if text is None else read_moment(text)


def read_moment(text: str) -> datetime:
    """Read a time, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _active(row: dict[str, Any]) -> Active:
    times = ("scheduled_at", "claimed_at", "started_at", "expires_at")
    return Active(**row | {name: moment(row[name]) for name in times})
