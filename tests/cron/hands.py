"""Schedulers that are driven by hand, pass by pass, against a real database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from advlock import Locks
from advlock._cron import _life, _sql
from advlock._cron._agenda import Agenda
from advlock._cron._job import Job, JobSet
from advlock._cron._life import Begun, Outcome
from advlock._cron._schedule import Schedule
from advlock._cron._tell import here

if TYPE_CHECKING:
    import threading

    from psycopg import Connection

    from advlock._cron._agenda import Pass
    from advlock._cron._facts import Claim
    from advlock._plan import Rows as Answer
    from advlock._plan import Script, SessionPlan

NOTHING = timedelta()


def job(name: str = "j", schedule: str = "*/5 * * * *", **policies: Any) -> Job:
    """Make a job."""
    return Job(name, Schedule.parse(schedule, name=name), **policies)


class Hand:
    """One scheduler: its agenda, and a client to drive plans with.

    Attributes:
        ahead: By so much its view of the database's clock is ahead.
        scripts: What it has asked, as SQL texts.
        gate: Where it waits between its look and its word, for others who have looked.
    """

    def __init__(self, dsn: str, *jobs: Job, description: str = "here", room: int = 1000) -> None:
        self.client = Locks(dsn)
        self.jobs = JobSet({one.name: one for one in jobs}, description)
        self.room = room
        self.ahead = NOTHING
        self.scripts: list[list[str]] = []
        self.gate: threading.Barrier | None = None
        self.forget()

    def forget(self) -> None:
        """Begin a new life, with no memory."""
        self.agenda = Agenda(self.jobs, here(), self._key)

    def _key(self, name: str) -> int:
        key = self.client._ascii_key(name)
        assert key is not None
        return key.value

    def join(self) -> None:
        """Say that we are here."""
        self.ask(self.agenda.join())

    def ask(self, plan: SessionPlan[Any]) -> Any:
        """Drive a plan; what it sees of the clock is shifted."""
        session = self.client._sessions.shared or self.client._sessions.connect(None)
        return self.client._beside(session, self._shifted(plan))

    def _shifted(self, plan: SessionPlan[Any]) -> SessionPlan[Any]:
        try:
            script = next(plan)
            while True:
                self.scripts.append([step.sql for step in script.steps])
                if self.gate is not None and script.steps[0].sql != _sql.LOOK:
                    self.gate.wait(10)
                script = plan.send(self._answer(script, (yield script)))
        except StopIteration as stop:
            return stop.value

    def _answer(self, script: Script, answer: Answer) -> Answer:
        if script.steps[0].sql != _sql.LOOK or not self.ahead:
            return answer
        told = json.loads(answer[0][0][0] or "{}")
        self._shift(told, "now")
        for row in told["active"] or ():  # else what was claimed just now would look old
            self._shift(row, "claimed_at", "started_at")
        return [[(json.dumps(told),)]]

    def _shift(self, row: dict[str, Any], *names: str) -> None:
        for name in names:
            if row[name] is not None:
                row[name] = (datetime.fromisoformat(row[name]) + self.ahead).isoformat()

    def turn(self) -> Pass:
        """Make one pass."""
        result: Pass = self.ask(self.agenda.turn(self.room))
        return result

    def claims(self) -> list[Claim]:
        """Make one pass; what is ours to run."""
        return [*self.turn().claims]

    def begin(self, claim: Claim, line: datetime | None = None) -> Begun:
        """Begin a run."""
        begun: Begun = self.ask(_life.begin(claim, line, None))[0]
        return begun

    def finish(self, claim: Claim, state: str = "succeeded") -> None:
        """Put down what came of a run."""
        self.ask(_life.finish(claim, Outcome(state)))

    def run(self, claim: Claim) -> None:
        """Run, from the start to the end."""
        assert self.begin(claim) is Begun.YES
        self.finish(claim)


class Rows:
    """What the tables say."""

    def __init__(self, admin: Connection[Any]) -> None:
        self.admin = admin

    def __call__(self, job: str = "j") -> list[str]:
        """The states of a job's ticks, in their order."""
        found = self.admin.execute(
            "SELECT state FROM advlock.cron_run WHERE job = %s ORDER BY scheduled_at", (job,)
        )
        return [state for (state,) in found]

    def ask(self, sql: str, *params: object) -> Any:
        """The only column of the only row."""
        (answer,) = self.admin.execute(sql, params or None).fetchone() or (None,)  # type: ignore[arg-type]
        return answer

    def of(self, job: str, column: str, tick: datetime | None = None) -> Any:
        """One column of a job's only, newest or given tick."""
        found = self.admin.execute(
            f"SELECT {column} FROM advlock.cron_run WHERE job = %s "  # type: ignore[arg-type]
            "AND scheduled_at = coalesce(%s, scheduled_at) ORDER BY scheduled_at DESC LIMIT 1",
            (job, tick),
        )
        return (found.fetchone() or (None,))[0]

    def set(self, sql: str, *params: object) -> None:
        """Change what the tables say."""
        self.admin.execute(sql, params or None)  # type: ignore[arg-type]


def now() -> datetime:
    """The time; of this machine, which the servers of the tests run on."""
    return datetime.now(UTC)
