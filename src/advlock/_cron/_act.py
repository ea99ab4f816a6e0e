"""What a pass says to the database, in one request, and what it makes of the answer. Pure."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from advlock._cron import _decide, _sql
from advlock._cron._facts import Claim, read_moment
from advlock._plan import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from advlock._cron._agenda import Agenda
    from advlock._cron._decide import Fate, Move
    from advlock._cron._facts import Active, Facts
    from advlock._cron._job import Job

_TINY: Final = timedelta(microseconds=1)
_FEW: Final = 400


class Act:
    """What a pass says to the database, and what it makes of the answer."""

    def __init__(self, agenda: Agenda, facts: Facts, room: int) -> None:
        self.steps: list[Step] = []
        self.claims: list[Claim] = []
        self._agenda = agenda
        self._facts = facts
        self._readers: dict[int, Callable[[str | None], None]] = {}
        self._taken: dict[str, Active] = {}
        self._wanted: list[Fate] = []
        self._left: set[str] = set()  # the jobs that there was no room for
        self._room = room
        self._due, self._unseen = agenda.due(facts)
        us = agenda.us(facts)
        self._move(list(_decide.moves(agenda.jobs.jobs, facts, agenda.line(facts), us)))
        self._take(list(_decide.takes(agenda.jobs.jobs, facts)))
        beat = agenda.beat(facts.now)
        if self._claim() or beat:
            self._mark()
        if beat:
            self.steps += [Step(_sql.JOIN[1], agenda.here()), *map(Step, _sql.FORGET)]

    def read(self, answers: list[list[tuple[str | None, ...]]]) -> None:
        """Take in what came of it."""
        for index, reader in self._readers.items():
            reader(answers[index][0][0])

    def _ask(self, step: Step, reader: Callable[[str | None], None] | None = None) -> None:
        if reader is not None:
            self._readers[len(self.steps)] = reader
        self.steps.append(step)

    def _move(self, moves: list[Move]) -> None:
        self._moved = bool(moves)
        if moves:
            self._ask(Step(_sql.MOVE, (move_rows(moves),)))

    def _take(self, rows: list[Active]) -> None:
        rows = rows[: self._room]
        self._room -= len(rows)
        if not rows:
            return
        ticks = []
        for row in rows:
            run_id = str(uuid.uuid4())
            self._taken[run_id] = row
            job = self._agenda.jobs.jobs[row.job]
            ticks.append(self._ours(job, row.scheduled_at, run_id))
        self._ask(Step(_sql.TAKE, (_json(ticks),)), self._read_taken)

    def _read_taken(self, text: str | None) -> None:
        for name, tick, run_id in json.loads(text or "[]"):
            job = self._agenda.jobs.jobs[name]
            was = self._taken[run_id]
            self.claims.append(Claim(job, read_moment(tick), run_id, was))

    def _claim(self) -> bool:
        others: list[Fate] = []
        waiting = Counter(row.job for row in self._facts.active if row.state == "queued")
        for job, ripe, *_ in self._due:
            pause = self._facts.pauses.get(job.name)
            for fate in _decide.fates(job, ripe, self._facts.now, pause, waiting[job.name]):
                (self._wanted if fate.state == "claimed" else others).append(fate)
        # Each host in an order of its own, or all would want the same ones first; and no more than
        # it may have a use for, as most of them may be somebody else's by now.
        random.shuffle(self._wanted)
        most = max(_FEW, 4 * self._room)
        self._left = {fate.job for fate in self._wanted[most:]}
        ticks = [self._fate(place, fate) for place, fate in enumerate(self._wanted[:most] + others)]
        if ticks:
            seen = self._facts.now.isoformat()
            arguments = (_json(ticks), self._agenda.hash, str(self._room), seen)
            self._ask(Step(_sql.CLAIM, arguments), self._read_claimed)
        if skipped := {fate.job for fate in others if fate.state.startswith("skipped")}:
            jobs = [self._agenda.jobs.jobs[name] for name in sorted(skipped)]
            self._ask(Step(_sql.PRUNE, (prune_rows(jobs),)))
        return bool(ticks)

    def _fate(self, place: int, fate: Fate) -> dict[str, Any]:
        job = self._agenda.jobs.jobs[fate.job]
        facts = {
            "job": fate.job,
            "scheduled_at": fate.scheduled_at.isoformat(),
            "state": fate.state,
            "reason": fate.reason,
            "place": place,
            "host": self._agenda.host.host,
            "pid": self._agenda.host.pid,
        }
        if fate.state == "claimed":
            facts |= self._ours(job, fate.scheduled_at, str(uuid.uuid4()))
        return facts

    def _ours(self, job: Job, tick: datetime, run_id: str) -> dict[str, Any]:
        return {
            "job": job.name,
            "scheduled_at": tick.isoformat(),
            "run_id": run_id,
            "key": self._agenda.key(job.lock_name(tick)),
            "owner": self._agenda.owner,
            "host": self._agenda.host.host,
            "pid": self._agenda.host.pid,
        }

    def _read_claimed(self, text: str | None) -> None:
        told = json.loads(text or "{}")
        self._left |= set(told["left"])
        if not told["in_time"]:
            self._left |= {due.job.name for due in self._due if due.ripe}
        for name, tick, run_id in told["claimed"]:
            job = self._agenda.jobs.jobs[name]
            self.claims.append(Claim(job, read_moment(tick), run_id))

    def _mark(self) -> None:
        until = self._agenda.decided_until(self._facts.now)
        left = [due.until for due in self._due if due.until is not None] + self._unseen
        if len(self._wanted) > self._room:  # the answer may be better, but comes too late for this
            left += [fate.scheduled_at - _TINY for fate in self._wanted]
        seen = self._facts.now.isoformat()
        self._ask(Step(_sql.MARK, (self._agenda.hash, min([until, *left]).isoformat(), seen)))

    @property
    def cut(self) -> bool:
        """Whether there was no room for all, or no time: then some are still undecided."""
        return bool(self._left)

    @property
    def unseen(self) -> bool:
        """Whether there are jobs that this pass has not come to."""
        return bool(self._unseen)

    @property
    def decided(self) -> bool:
        """Whether anything became of any tick."""
        return bool(self._readers) or self._moved

    @property
    def replaces(self) -> bool:
        """Whether a tick was due that replaces an earlier run."""
        return any(due.ripe and due.job.overlap == "replace" for due in self._due)

    def settle(self) -> None:
        """Note what is decided: what there was room for and we did not get, others have."""
        decided = [due for due in self._due if due.job.name not in self._left]
        self._agenda.settle(decided, self._facts)


def _json(rows: list[dict[str, Any]]) -> str:
    # Not escaped: a database in SQL_ASCII takes any bytes, but no escaped characters.
    return json.dumps(rows, ensure_ascii=False)


def move_rows(moves: Sequence[Move]) -> str:
    """Spell moves for `MOVE`."""
    rows = [
        {
            "job": move.row.job,
            "scheduled_at": move.row.scheduled_at.isoformat(),
            "was": move.row.state,
            "run_id": move.row.run_id,
            "state": move.state,
            "reason": move.reason,
            "expires_at": move.expires_at and move.expires_at.isoformat(),
            "losses": move.losses,
        }
        for move in moves
    ]
    return _json(rows)


def prune_rows(jobs: Sequence[Job]) -> str:
    """Spell the bounds of history for `PRUNE`."""
    return json.dumps([{"job": j.name, "keep": j.keep, "max_age": j.max_age} for j in jobs])
