"""What one scheduler has to decide next, and the plan of a pass over it. Pure.

A pass looks, decides, and acts: two round trips, and one where nothing is due. Memory only saves
work: what is decided stands in the database, and the primary key there has the last word.
"""

from __future__ import annotations

import json
import random
from bisect import bisect
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock._cron import _decide, _sql
from advlock._cron._act import Act
from advlock._cron._facts import Facts, read_facts
from advlock._plan import Refused, Script, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from advlock._cron._facts import Claim
    from advlock._cron._job import Job, JobSet
    from advlock._plan import SessionPlan

# So many ticks are claimed at a time, so that other hosts get their share, and the first runs begin
# while the next are claimed.
_MOST_CLAIMS: Final = 200
_LONGEST_SLEEP: Final = 1.0  # seconds; so soon a trigger or a request to stop is seen
_BEAT_EVERY: Final = timedelta(seconds=5)
# So many ticks are decided at a time: after a long outage of many jobs a pass must end, too.
_MOST_TICKS: Final = 5000
_DEPLOY: Final = timedelta(minutes=1)  # in which hosts may have different versions of a job
_TINY: Final = timedelta(microseconds=1)
NO_SUCH_CHARACTER: Final = ("22P05", "22021")  # as in a database that is not in UTF-8
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Host(NamedTuple):
    """One scheduler: which one it is, and where."""

    id: str
    host: str
    pid: int


class Pass(NamedTuple):
    """What came of a pass.

    Attributes:
        facts: What was seen.

        claims: What is ours to run now.

        sleep: After how many seconds to come again; sooner if a run ends.

        held_up: Whether a job of ours waits in the queue for a lock that no run is known to hold.

        replaces: Whether a tick was due that replaces an earlier run of its job.

        decided: Whether anything was decided, so that more may follow from it.
    """

    facts: Facts
    claims: Sequence[Claim]
    sleep: float
    held_up: bool
    replaces: bool
    decided: bool


class Due(NamedTuple):
    """What is to be decided of one job.

    Attributes:
        job: The job.

        ripe: Its ticks whose time has come, ascending.

        until: Decided up to here, because of ticks whose jitter is not over; None for no such.

        following: When to look at it again.
    """

    job: Job
    ripe: Sequence[datetime]
    until: datetime | None
    following: datetime


@dataclass(slots=True)
class Agenda:
    """The jobs of one scheduler, and how far it has come with them.

    Attributes:
        jobs: The jobs.

        host: Who we are.

        key: The number of a lock's name.

        broken_at: When our sessions ended last; None if they never did.

        broken: Whether they did since the last look.

        running: The claims of what runs here.
    """

    jobs: JobSet
    host: Host
    key: Callable[[str], int]
    broken_at: datetime | None = None
    broken: bool = False
    running: Collection[str] = ()
    _hash: str = ""
    _versions: dict[str, Mapping[str, tuple[str, str, bool]]] = field(default_factory=dict)
    _seen: dict[str, datetime] = field(default_factory=dict)
    _next: dict[str, datetime] = field(default_factory=dict)  # when to look at the job again
    _waiting: dict[str, datetime] = field(default_factory=dict)  # decided up to a tick to come
    _beaten: datetime | None = None

    def join(self) -> SessionPlan[None]:
        """Put down who we are and what jobs we have."""
        self._hash = self.jobs.digest()
        definitions = self.jobs.definitions()
        self._versions[self._hash] = _schedules(json.loads(definitions))
        own, host = _sql.JOIN
        try:
            yield Script((Step(own, (self._hash, definitions)), Step(host, self.here())))
        except Refused as refusal:
            if refusal.sqlstate not in NO_SUCH_CHARACTER:
                raise
            plain = definitions.encode("ascii", "replace").decode()
            yield Script((Step(own, (self._hash, plain)), Step(host, self.here())))

    def here(self) -> tuple[str, ...]:
        """Say who we are, as the second statement of `JOIN` wants to have it."""
        return (self.host.id, self.host.host, str(self.host.pid), self.jobs.source, self._hash)

    def leave(self) -> SessionPlan[None]:
        """Take back that we are here."""
        yield Script((Step(_sql.LEAVE, (self.host.id,)),))

    def reload(self, jobs: JobSet) -> None:
        """Go on with other jobs; `join` has to follow."""
        self.jobs = jobs
        self._next.clear()
        self._waiting.clear()  # or one that is gone would hold the mark back for ever

    def others(self) -> SessionPlan[list[str]]:
        """Say who else runs other versions of our jobs, and what is different."""
        answer = yield Script((Step(_sql.OTHERS, (self.host.id,)),))
        rows = json.loads(answer[0][0][0] or "[]")
        hashes = {row["hash"] for row in rows} - {self._hash}
        answer = yield Script((Step(_sql.SETS, (json.dumps(sorted(hashes)),)),))
        sets = json.loads(answer[0][0][0] or "{}")
        ours = json.loads(self.jobs.definitions())
        theirs = ((row, sets[row["hash"]]) for row in rows if row["hash"] in sets)
        return [_differs(row, ours, jobs) for row, jobs in theirs if ours.keys() & jobs.keys()]

    # -- a pass ----------------------------------------------------------------------------------

    def turn(self, room: int) -> SessionPlan[Pass]:
        """Look, decide, act.

        Args:
            room: How many runs may begin here.
        """
        facts = read_facts((yield Script((Step(_sql.LOOK),)))[0][0][0])
        if self.broken:
            self.broken, self.broken_at = False, facts.now
        unknown = sorted(facts.sets.keys() - self._versions.keys())
        if unknown:
            answer = yield Script((Step(_sql.SETS, (json.dumps(unknown),)),))
            sets = json.loads(answer[0][0][0] or "{}")
            self._versions |= {hash_: _schedules(jobs) for hash_, jobs in sets.items()}
        if self._hash not in facts.sets:
            yield from self.join()
            facts = read_facts((yield Script((Step(_sql.LOOK),)))[0][0][0])
        act = Act(self, facts, min(room, _MOST_CLAIMS))
        if act.steps:
            act.read((yield Script(tuple(act.steps))))
        act.settle()
        held_up = _decide.held_up(self.jobs.jobs, facts)
        more = act.unseen or (act.cut and room > _MOST_CLAIMS)
        sleep = 0.0 if more else self._sleep(facts.now)
        return Pass(facts, act.claims, sleep, held_up, act.replaces, act.decided)

    def line(self, facts: Facts) -> datetime:
        """When sessions were last known to have ended all at once."""
        return max(facts.server_since, self.broken_at or facts.server_since)

    @property
    def owner(self) -> int:
        """The key of the lock that we hold while we live."""
        return self.key(f"cron-host:{self.host.id}")

    def us(self, facts: Facts) -> _decide.Us:
        """Say what we know of ourselves, and of other people's jobs."""
        known: set[str] = set()
        if any(row.job not in self.jobs.jobs for row in facts.active):
            for hash_, version in facts.sets.items():
                if facts.now - (version.decided_until or version.created_at) < _decide.FORGOTTEN:
                    known.update(self._versions.get(hash_, ()))
        return _decide.Us(self.owner, self.running, known)

    def due(self, facts: Facts) -> tuple[list[Due], list[datetime]]:
        """Find the ticks that nobody has decided, as far as we know, by job.

        After a long outage not all at once: of the jobs that are left for the next pass it tells
        until when each is decided. Those that were decided before come first, and the others in
        another order on each host, so that hosts that share the work do not do the same.
        """
        ripe = [job for job in self.jobs.jobs.values() if self._is_ripe(job, facts.now)]
        random.shuffle(ripe)
        ripe.sort(key=lambda job: job.name not in self._seen)
        found: list[Due] = []
        left: list[datetime] = []
        count = 0
        for job in ripe:
            after = self._decided_until(job, facts)
            if count > _MOST_TICKS:
                left.append(after)
                continue
            found.append(self._due(job, after, facts.now))
            count += len(found[-1].ripe)
        return found, left

    def _is_ripe(self, job: Job, now: datetime) -> bool:
        return self._next.get(job.name, now) <= now

    def _due(self, job: Job, after: datetime, now: datetime) -> Due:
        ticks = job.schedule.newest(after, now, max(job.keep, job.max_missed + 1))
        split = bisect(ticks, now, key=job.due) if job.jitter else len(ticks)
        ripe, waiting = ticks[:split], ticks[split:]
        # Not when the next one's jitter is over: from the tick on, the mark has to wait for it.
        following = job.schedule.after(now) or _NEVER
        until = waiting[0] - _TINY if waiting else None
        return Due(job, ripe, until, min([following, *map(job.due, waiting)]))

    def settle(self, due: Sequence[Due], facts: Facts) -> None:
        """Note that these were decided, up to what still waits for its time."""
        for one in due:
            name = one.job.name
            self._next[name] = one.following
            self._seen[name] = one.until or facts.now
            self._waiting.pop(name, None)
            if one.until is not None:
                self._waiting[name] = one.until

    def decided_until(self, now: datetime) -> datetime:
        """Until when everything was decided, but for what has to be looked at again."""
        return min(self._waiting.values(), default=now)

    def beat(self, now: datetime) -> bool:
        """Whether it is time to say that we are still here."""
        if self._beaten is not None and now - self._beaten < _BEAT_EVERY:
            return False
        self._beaten = now
        return True

    @property
    def hash(self) -> str:
        """Which version of the jobs we have."""
        return self._hash

    def _decided_until(self, job: Job, facts: Facts) -> datetime:
        """Until when the ticks of `job` were decided, by any version that had its schedule.

        A schedule that is new is not made up for; nor is the time in which the job had another one.
        """
        wanted = (job.schedule.text, job.schedule.timezone, job.enabled)
        same: list[datetime] = []
        other: list[datetime] = []
        for hash_, version in facts.sets.items():
            schedule = self._versions.get(hash_, {}).get(job.name)
            if schedule is not None and version.decided_until is not None:
                (same if schedule == wanted else other).append(version.decided_until)
        marks = [max(same, default=facts.sets[self._hash].created_at)]
        if other and same:
            marks.append(max(other) - _DEPLOY)
        if job.name in self._seen:
            marks.append(self._seen[job.name])
        return max(marks)

    def _sleep(self, now: datetime) -> float:
        # What was looked at and could not be decided waits for the end of a run, not for a time.
        first = min((when for when in self._next.values() if when > now), default=_NEVER)
        return min(_LONGEST_SLEEP, (first - now).total_seconds())


def _schedules(definitions: Mapping[str, Any]) -> dict[str, tuple[str, str, bool]]:
    return {
        name: (job["schedule"], job["timezone"], job["enabled"])
        for name, job in definitions.items()
    }


def _differs(row: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    parts = [
        f"{what} {', '.join(map(repr, names[:3]))}{' …' if len(names) > 3 else ''}"  # noqa: PLR2004
        for what, names in (
            ("only here", sorted(ours.keys() - theirs.keys())),
            ("only there", sorted(theirs.keys() - ours.keys())),
            ("different", sorted(n for n in ours.keys() & theirs.keys() if ours[n] != theirs[n])),
        )
        if names
    ]
    return (
        f"{row['host']} (pid {row['pid']}) runs another version of these jobs: {'; '.join(parts)}"
    )
