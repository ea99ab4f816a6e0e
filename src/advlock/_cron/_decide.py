"""What becomes of ticks: one job's policies, applied to what a look has told. Pure.

The rules, in the order in which they count:

1. A tick that somebody has decided stays decided: the row of its tick says so.
2. A paused job's ticks are skipped, each with a row that says who paused it.
3. A tick is late until `grace` is over, and missed afterwards. However many ticks there are at a
   time, `once` and `skip` run one of them at most, the newest; `all` queues them.
4. Whether the job runs already is not asked here: the lock knows, and `overlap` comes then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._duration import brief

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from advlock._cron._facts import Active, Facts, Pause
    from advlock._cron._job import Job

# A claim that was not started after so long was not made by a process that lives; in seconds.
CLAIM_PATIENCE: Final = 5.0
# How often one tick may be lost and run again: what kills its host must not kill them all.
RERUNS: Final = 3
MOST_QUEUED: Final = 10
FORGOTTEN: Final = timedelta(days=1)
NOT_STARTED: Final = "whoever claimed it did not start it"
FOUND_FREE: Final = "its lock was found free: its host, its scheduler or its session is gone"


@dataclass(frozen=True, slots=True)
class Fate:
    """What is to become of a tick that nobody has decided yet."""

    job: str
    scheduled_at: datetime
    state: str
    reason: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """What is to become of a tick that is not over, if it still is as it was seen."""

    row: Active
    state: str
    reason: str | None
    expires_at: datetime | None = None
    losses: int = 0


def fates(
    job: Job, ticks: Sequence[datetime], now: datetime, pause: Pause | None, waiting: int = 0
) -> Iterator[Fate]:
    """Decide the ticks of a job that are due, ascending; at most one is `claimed` to run.

    But for `missed="all"` with `overlap="allow"`, where all are. `waiting` says how many ticks of
    the job are in the queue already.
    """
    if not ticks or not job.enabled:
        return
    if pause is not None:
        yield from (Fate(job.name, tick, "skipped_paused", str(pause)) for tick in ticks)
    elif job.missed == "all":
        yield from _run_all(job, ticks, waiting)
    elif job.overlap == "queue" and waiting:
        yield from (_behind(fate, waiting) for fate in _run_newest(job, ticks, now))
    else:
        yield from _run_newest(job, ticks, now)


def _behind(fate: Fate, waiting: int) -> Fate:
    """Have a tick stand in the queue, and not overtake it."""
    if fate.state != "claimed":
        return fate
    if waiting >= MOST_QUEUED:
        return replace(fate, state="skipped_overlap", reason=f"{waiting} ticks wait already")
    return replace(fate, state="queued", reason=f"behind {waiting} that waited already")


def _run_all(job: Job, ticks: Sequence[datetime], waiting: int) -> Iterator[Fate]:
    split = max(0, len(ticks) - job.max_missed)
    why = f"more than {job.max_missed} ticks were missed at a time (max_missed)"
    yield from (Fate(job.name, tick, "skipped_missed", why) for tick in ticks[:split])
    overtakes = job.overlap == "queue" and waiting
    at_once = job.overlap == "allow" or (len(ticks) == 1 and not overtakes)
    state = "claimed" if at_once else "queued"
    why_late = None if at_once else "late, together with others; they run one after the other"
    yield from (Fate(job.name, tick, state, why_late) for tick in ticks[split:])


def _run_newest(job: Job, ticks: Sequence[datetime], now: datetime) -> Iterator[Fate]:
    *older, newest = ticks
    late = (now - job.due(newest)).total_seconds()
    runs = late <= job.grace or job.missed == "once"
    for tick in older:
        age = brief((now - job.due(tick)).total_seconds())
        instead = f"; the tick of {_clock(newest, now)} runs instead" if runs else ""
        why = f"nobody began it in time, or had room to: seen {age} late{instead}"
        yield Fate(job.name, tick, "skipped_missed", why)
    if late <= job.grace:
        yield Fate(job.name, newest, "claimed")
    elif job.missed == "once":
        yield Fate(job.name, newest, "claimed", f"missed; made up for {brief(late)} later")
    else:
        why = f"seen {brief(late)} late, over the grace of {brief(job.grace)}"
        yield Fate(job.name, newest, "skipped_missed", why)


class Us(NamedTuple):
    """What we know of ourselves.

    Attributes:
        owner: The key of the lock that we hold while we live.

        running: What we run: its claims.

        known: The jobs that anybody has had within a day.
    """

    owner: int | None = None
    running: Collection[str] = ()
    known: Collection[str] = ()


def moves(
    jobs: Mapping[str, Job], facts: Facts, line: datetime, us: Us | None = None
) -> Iterator[Move]:
    """Decide what becomes of ticks that are not over and make no progress.

    Args:
        jobs: Ours. Others decide theirs, as long as there are any.
        facts: What was seen.
        line: When the server's sessions were last known to end all at once.
        us: What we know of ourselves.
    """
    us = us or Us()
    for row in facts.active:
        job = jobs.get(row.job)
        if job is None:
            if row.job not in us.known:
                yield from _of_nobody(row, facts.now)
        elif row.state == "running" and _is_lost(row, job, facts.now, line, us):
            again = job.on_crash == "rerun" and row.losses < RERUNS
            yield Move(row, "queued" if again else "lost", FOUND_FREE, losses=1)
        elif row.state == "claimed" and _stale(row, facts.now):
            until = facts.now + timedelta(seconds=job.grace) if job.missed == "skip" else None
            yield Move(row, "queued", NOT_STARTED, until)
        elif row.state == "queued" and expired(row, facts.now):
            yield Move(row, "skipped_missed", f"{NOT_STARTED}, nor anybody else in time")
        elif row.state == "queued" and not (job.enabled or row.by_hand):
            yield Move(row, "skipped_missed", "the job was disabled while it waited")


def _is_lost(row: Active, job: Job, now: datetime, line: datetime, us: Us) -> bool:
    if row.locked:
        return False
    if row.owner is not None and row.owner == us.owner:
        return row.run_id not in us.running  # what we run, we report ourselves
    return not row.owned and not in_doubt(row, job, now, line)


def _of_nobody(row: Active, now: datetime) -> Iterator[Move]:
    since = row.started_at or row.claimed_at or row.scheduled_at
    if row.locked or now - since < FORGOTTEN:
        return
    state = "lost" if row.state == "running" else "skipped_missed"
    yield Move(row, state, "no scheduler has had this job for a day")


def expired(row: Active, now: datetime) -> bool:
    """Whether a tick has waited in the queue for too long."""
    return row.expires_at is not None and row.expires_at < now


def _stale(row: Active, now: datetime) -> bool:
    since = row.claimed_at or row.scheduled_at
    return not row.locked and now - since > timedelta(seconds=CLAIM_PATIENCE)


def in_doubt(row: Active, job: Job, now: datetime, line: datetime) -> bool:
    """Whether a run without a lock may still go on, and its host not know that the lock is gone."""
    if row.started_at is None or row.started_at >= line:
        return False
    return now < line + timedelta(seconds=doubt(job))


def doubt(job: Job) -> float:
    """How long after the end of its session a command may still be at work, in seconds.

    A host that lives stops it at once, and kills it `kill_after` later; the rest is for one that
    has other things to do.
    """
    return job.kill_after + 10.0


def takes(jobs: Mapping[str, Job], facts: Facts) -> Iterator[Active]:
    """Choose what may leave the queue: the oldest tick of each job that nobody runs."""
    busy = {row.job for row in facts.active if row.state != "queued"}
    for row in facts.active:
        job = jobs.get(row.job)
        if row.state != "queued" or row.locked or job is None or expired(row, facts.now):
            continue
        if not row.by_hand and (facts.pauses.get(row.job) or not job.enabled):
            continue
        if job.overlap == "allow":
            yield row
        elif row.job not in busy:
            busy.add(row.job)
            yield row


def waits(job: Job, row: Active) -> bool:
    """Whether a tick that was in the queue goes back to it when the job turns out to be busy.

    Not so one that only came there because nobody had begun it, if an earlier run is still going.
    """
    return row.by_hand or row.losses > 0 or job.overlap != "skip" or job.missed == "all"


def held_up(jobs: Mapping[str, Job], facts: Facts) -> bool:
    """Whether something waits in the queue only because its lock is yet to become free."""
    busy = {row.job for row in facts.active if row.state != "queued"}
    return any(
        row.state == "queued" and row.locked and row.job in jobs and row.job not in busy
        for row in facts.active
    )


def utc(moment: datetime) -> str:
    """Spell a moment for people."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _clock(moment: datetime, now: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M:%S}"
