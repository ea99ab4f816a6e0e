"""The tables of the cron in memory, and schedulers that are driven over them by hand.

A model answers each `Step` by the SQL constant that it carries. Every statement is atomic, and so
is each script, as on the server. `Tables.broken` names a protection that is switched off.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from advlock._cron import _decide, _life, _sql
from advlock._cron._agenda import Agenda, Host
from advlock._cron._facts import ACTIVE
from advlock._cron._job import Job, JobSet
from advlock._cron._life import Begun, Outcome
from advlock._cron._schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._cron._agenda import Pass
    from advlock._cron._facts import Claim
    from advlock._plan import Script, SessionPlan, Step

START = datetime(2026, 3, 2, 12, 0, 1, tzinfo=UTC)
_PATIENT = timedelta(seconds=10)
Row = dict[str, Any]


def job(name: str = "j", schedule: str = "@every 5m", **policies: Any) -> Job:
    """Make a job."""
    return Job(name, Schedule.parse(schedule, name=name), **policies)


def key_of(name: str) -> int:
    """A number for a lock's name."""
    return uuid.uuid5(uuid.NAMESPACE_OID, name).int >> 65


@dataclass
class Tables:
    """What is in the database.

    Attributes:
        now: Its clock.
        server_since: When it was started.
        runs: Rows, by job and tick.
        locks: By key, which run holds it.
        inserted: How often a row was made for a tick, also if it was pruned since.
        starts: How often a tick began to run.
        broken: The protection that is switched off: "key", "state", "mark", "prune", or none.
    """

    now: datetime = START
    server_since: datetime = START - timedelta(days=9)
    sets: dict[str, list[Any]] = field(default_factory=dict)
    pauses: dict[str, list[Any]] = field(default_factory=dict)
    runs: dict[tuple[str, datetime], Row] = field(default_factory=dict)
    locks: dict[int, str] = field(default_factory=dict)
    inserted: dict[tuple[str, datetime], int] = field(default_factory=dict)
    starts: dict[tuple[str, datetime], int] = field(default_factory=dict)
    broken: str = ""

    def answer(self, script: Script) -> list[list[tuple[str | None, ...]]]:
        """Do what a script says."""
        return [[tuple(row) for row in self._step(step)] for step in script.steps]

    def drive(self, plan: SessionPlan[Any]) -> Any:
        """Drive a plan to its end."""
        try:
            script = next(plan)
            while True:
                script = plan.send(self.answer(script))
        except StopIteration as stop:
            return stop.value

    def decided(self, name: str) -> datetime:
        """Until when the ticks of a job are decided."""
        marks = [until for jobs, _, until in self.sets.values() if until and name in jobs]
        return max(marks, default=START)

    def _step(self, step: Step) -> list[list[str | None]]:
        told = _STATEMENTS[step.sql](self, *step.params)
        return [] if told is _NOTHING else [[told if told is None else json.dumps(told)]]

    # -- a pass ----------------------------------------------------------------------------------

    def _look(self) -> Any:
        active = [row for row in self.runs.values() if row["state"] in ACTIVE]
        return {
            "now": self.now.isoformat(),
            "server_since": self.server_since.isoformat(),
            "sets": {hash_: [_text(a), _text(b)] for hash_, (_, a, b) in self.sets.items()},
            "pauses": {n: [_text(p[0]), *p[1:]] for n, p in self.pauses.items()} or None,
            "active": [self._seen(row) for row in sorted(active, key=_by_key)] or None,
        }

    def _seen(self, row: Row) -> Row:
        times = ("scheduled_at", "claimed_at", "started_at", "expires_at")
        plain = ("job", "state", "run_id", "host", "pid", "losses", "stop")
        return (
            {name: row[name] for name in plain}
            | {name: _text(row[name]) for name in times}
            | {"by_hand": False, "locked": row["key"] in self.locks}
        )

    def _sets(self, hashes: str) -> Any:
        wanted = json.loads(hashes)
        return {hash_: self.sets[hash_][0] for hash_ in wanted if hash_ in self.sets} or None

    def _claim(self, text: str, hash_: str, room: str, seen: str) -> Any:
        in_time = self.now < datetime.fromisoformat(seen) + _PATIENT
        ticks = json.loads(text) if in_time else []
        until = self.sets[hash_][2]
        free = [
            tick
            for tick in ticks
            if (until is None or _moment(tick["scheduled_at"]) > until or self.broken == "mark")
            and (_key(tick) not in self.runs or self.broken == "key")
        ]
        wanted = [tick for tick in free if tick["state"] == "claimed"]
        chosen = sorted(wanted, key=lambda tick: tick["place"])[: int(room)]
        chosen += [tick for tick in free if tick["state"] != "claimed"]
        for tick in chosen:
            row = {"losses": 0, "stop": None, "started_at": None, "expires_at": None}
            row |= {"run_id": None, "key": None}
            row |= tick | {"scheduled_at": _moment(tick["scheduled_at"]), "claimed_at": self.now}
            self.runs[_key(tick)] = row
            self.inserted[_key(tick)] = self.inserted.get(_key(tick), 0) + 1
        got = [tick for tick in chosen if tick["state"] == "claimed"]
        claimed = [[tick["job"], tick["scheduled_at"], tick["run_id"]] for tick in got]
        left = sorted({tick["job"] for tick in wanted if tick not in chosen})
        return {"claimed": claimed, "left": left, "in_time": in_time}

    def _take(self, text: str) -> Any:
        taken = []
        for tick in json.loads(text):
            row = self.runs.get(_key(tick))
            if row is not None and row["state"] == "queued":
                row |= tick | {"scheduled_at": row["scheduled_at"], "claimed_at": self.now}
                row |= {"state": "claimed", "started_at": None}
                taken.append([tick["job"], tick["scheduled_at"], tick["run_id"]])
        return taken or None

    def _move(self, text: str) -> Any:
        for tick in json.loads(text):
            row = self.runs.get(_key(tick))
            if row and row["state"] == tick["was"] and row["run_id"] == tick["run_id"]:
                row |= {"state": tick["state"], "reason": tick["reason"]}
                row["expires_at"] = tick["expires_at"] and _moment(tick["expires_at"])
                row["losses"] += tick["losses"]

    def _mark(self, hash_: str, until: str, seen: str) -> Any:
        if self.now >= datetime.fromisoformat(seen) + _PATIENT:
            return _NOTHING
        mark = self.sets[hash_]
        mark[2] = max(_moment(until), mark[2] or _moment(until))
        return True

    def _prune(self, text: str) -> Any:
        for of in json.loads(text):
            ticks = sorted(tick for name, tick in self.runs if name == of["job"])
            for tick in ticks[: -of["keep"]]:
                if tick >= self.decided(of["job"]) and self.broken != "prune":
                    continue
                if self.runs[of["job"], tick]["state"] not in ACTIVE:
                    del self.runs[of["job"], tick]

    def _join(self, hash_: str, jobs: str) -> Any:
        self.sets.setdefault(hash_, [json.loads(jobs), self.now, None])

    # -- one run ---------------------------------------------------------------------------------

    def _start(self, *params: str | None) -> Any:
        name, tick, run_id, since, doubt, reruns, alone, *_ = params
        mine = self.runs.get((name or "", _moment(tick or "")))
        line = max(self.server_since, _moment(since) if since else self.server_since)
        unsure = self.now < line + timedelta(seconds=float(doubt or 0))
        others = [
            row
            for row in self.runs.values()
            if row["job"] == name and row["state"] == "running" and row is not mine
        ]
        others = others if alone == "true" else []
        doubtful = [row["scheduled_at"] for row in others if row["started_at"] < line and unsure]
        if doubtful:
            return {"started_at": None, "doubt": _text(min(doubtful))}
        for row in others:
            row["state"] = "queued" if int(reruns or 0) > row["losses"] else "lost"
            row["losses"] += 1
        fine = mine and mine["run_id"] == run_id and mine["state"] == "claimed"
        if not mine or not (fine or self.broken == "state"):
            return {"started_at": None, "doubt": None}
        mine |= {"state": "running", "started_at": self.now, "expires_at": None}
        self.starts[_key(mine)] = self.starts.get(_key(mine), 0) + 1
        return {"started_at": _text(self.now), "doubt": None}

    def _finish(self, name: str, tick: str, run_id: str, state: str, *rest: Any) -> Any:
        row = self.runs.get((name, _moment(tick)))
        if row and row["run_id"] == run_id and row["state"] in ("running", "lost"):
            row["state"] = state
        return _NOTHING


@dataclass
class Scheduler:
    """One scheduler over the tables: an agenda, a pass that may be cut in two, and its claims.

    Attributes:
        sees: Of the script that the pass waits to send; None between two passes.
        claims: What is ours and has not begun.
        running: What runs here.
    """

    tables: Tables
    jobs: JobSet
    room: int = 100
    claims: list[Claim] = field(default_factory=list)
    running: list[Claim] = field(default_factory=list)
    _plan: Any = None
    _script: Any = None

    def __post_init__(self) -> None:
        self.wake()

    def wake(self) -> None:
        """Begin a life: with no memory, and no claims."""
        host = Host(str(uuid.uuid4()), "host", 1)
        self.agenda = Agenda(self.jobs, host, key_of)
        self.claims, self.running, self._plan = [], [], None
        self.tables.drive(self.agenda.join())

    def die(self) -> None:
        """Lose everything; the server lets go of the locks."""
        for claim in self.running:
            self._let_go(claim)
        self.wake()

    def look(self) -> None:
        """Make the first half of a pass: look."""
        self._plan = self.agenda.turn(max(0, self.room - len(self.claims) - len(self.running)))
        self._advance(next(self._plan))

    def _advance(self, script: Script) -> Pass | None:
        try:
            self._script = self._plan.send(self.tables.answer(script))
        except StopIteration as stop:
            self._plan = None
            result: Pass = stop.value
            self.claims += result.claims
            return result
        return None

    @property
    def half_way(self) -> bool:
        """Whether a pass waits to act."""
        return self._plan is not None

    def act(self) -> Pass:
        """Make the rest of the pass."""
        while True:
            result = self._advance(self._script)
            if result is not None:
                return result

    def turn(self) -> Pass:
        """Make a whole pass."""
        result: Pass = self.tables.drive(self.agenda.turn(self.room))
        self.claims += result.claims
        return result

    def start(self, claim: Claim) -> Begun | None:
        """Take the lock of a claim, and begin; None if the lock is not free."""
        key = key_of(claim.job.lock_name(claim.scheduled_at))
        if claim in self.claims:
            self.claims.remove(claim)
        if key in self.tables.locks:
            self.tables.drive(_life.busy(claim, "its lock is held", 0))
            return None
        self.tables.locks[key] = claim.run_id
        begun, _ = self.tables.drive(_life.begin(claim, self.agenda.broken_at, None))
        if begun is Begun.YES:
            self.running.append(claim)
        else:
            self._let_go(claim)
        return Begun(begun)

    def finish(self, claim: Claim, state: str = "succeeded") -> None:
        """End a run."""
        self.running.remove(claim)
        self.tables.drive(_life.finish(claim, Outcome(state)))
        self._let_go(claim)

    def _let_go(self, claim: Claim) -> None:
        del self.tables.locks[key_of(claim.job.lock_name(claim.scheduled_at))]


def schedulers(tables: Tables, count: int, *jobs: Job) -> list[Scheduler]:
    """Make some that have the same jobs."""
    everything = JobSet({one.name: one for one in jobs}, "here")
    return [Scheduler(tables, everything) for _ in range(count)]


_NOTHING = object()


def _ignored(_tables: Tables, *_: Any) -> Any:
    return _NOTHING


_STATEMENTS: dict[str, Callable[..., Any]] = {
    _sql.LOOK: Tables._look,
    _sql.SETS: Tables._sets,
    _sql.CLAIM: Tables._claim,
    _sql.TAKE: Tables._take,
    _sql.MOVE: Tables._move,
    _sql.MARK: Tables._mark,
    _sql.PRUNE: Tables._prune,
    _sql.START: Tables._start,
    _sql.FINISH: Tables._finish,
    _sql.JOIN[0]: Tables._join,
} | dict.fromkeys((_sql.JOIN[1], *_sql.FORGET, *_sql.REPLACE), _ignored)


def _key(tick: Row) -> tuple[str, datetime]:
    when = tick["scheduled_at"]
    return tick["job"], when if isinstance(when, datetime) else _moment(when)


def _by_key(row: Row) -> tuple[str, datetime]:
    return _key(row)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


# Long enough for whoever claimed a tick to be given up.
PATIENCE = timedelta(seconds=_decide.CLAIM_PATIENCE + 0.1)
