"""What the two shells share: their books, and what follows from a pass or from trouble."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from advlock import _observe
from advlock._backoff import Backoff
from advlock._cron import _life
from advlock._cron._agenda import Agenda
from advlock._cron._decide import utc
from advlock._cron._desk import Desk
from advlock._cron._tell import Watch, here, refused
from advlock._plan import PASSING, Expired, Refused, SessionLost
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import TypeAlias

    from advlock._client import Client
    from advlock._cron._agenda import Pass
    from advlock._cron._desk import Visit
    from advlock._cron._facts import Claim
    from advlock._cron._job import JobSet
    from advlock._cron._life import Outcome
    from advlock._plan import SessionPlan

    Report: TypeAlias = Callable[[], SessionPlan[Any]]

log = logging.getLogger("advlock.cron")
R = TypeVar("R", bound="AnyRun")
_tell = partial(_observe.tell, to=log)

STOPPED: Final = "stopped together with its scheduler"
# What talking to the database may end in while it is away; then we come again.
GONE: Final = (LockError, SessionLost, Expired)
PATIENCE: Final = 10.0  # seconds for a connection
PRESENCE: Final = 1.0  # seconds for the lock that says that we live
LOOK_EVERY: Final = 1.0  # seconds between two looks at a lock while nothing runs under it
LAST_WORDS: Final = 5.0  # seconds for what is still to be written down, or told, at the end
SOON: Final = 0.05  # seconds between two looks at what a thread is still to tell
_PASSING: Final = (*PASSING, "25")  # and a server that is read-only for a while
# Come again after this, twice this and so on, in seconds: when a run has ended whose job waits in
# the queue, because the server is yet to hear that the lock is free; and when a tick may replace a
# run of ours, because whoever has claimed it is yet to say so.
_FIRST_HASTE: Final = 0.01
_HASTE: Final = 0.32


class AnyRun:
    """One claim, in either world."""

    stoppable = True

    def __init__(self, shell: Shell[Any], claim: Claim) -> None:
        self.claim = claim
        self.stopped: str | None = None  # why it has to end
        self._shell = shell
        self._began = time.monotonic()
        self._visit: Visit | None = None

    def stop(self, reason: str) -> None:
        """Have the run end."""
        raise NotImplementedError

    def facts(self, event: str) -> dict[str, Any]:
        """What a log record says besides its message."""
        return {"event": f"cron.{event}"} | _life.described(self.claim)

    def _busy(self, reason: str | None) -> SessionPlan[str]:
        return _life.busy(self.claim, reason, self._shell.queued(self.claim.job.name))

    def _enough(self, outcome: Outcome) -> bool:
        """Whether there is to be no further attempt."""
        tries = self.claim.job.retries + 1
        return bool(self.stopped) or not outcome.worth_another_try or outcome.attempt >= tries

    def _check_in(self) -> None:
        self._visit = self._shell.desk.begun(self.claim)

    def check_out(self, outcome: Outcome) -> None:
        """Tell the job's monitors how the run ended, if they know that it has begun."""
        if self._visit is not None:
            self._visit.over(outcome)

    def _tell_retry(self, outcome: Outcome) -> None:
        name, reason, number = self.claim.job.name, outcome.reason, outcome.attempt + 1
        facts = self.facts("retry")
        _tell(logging.INFO, facts, "%s: %s; attempt %d follows", name, reason, number)

    def _tell_outcome(self, outcome: Outcome) -> None:
        why = f" ({outcome.reason})" if outcome.reason else ""
        ran_ms = round((time.monotonic() - self._began) * 1000, 3)
        facts = {"state": outcome.state, "exit_code": outcome.exit_code, "ran_ms": ran_ms}
        level = logging.INFO if outcome.state == "succeeded" else logging.WARNING
        facts = self.facts("finished") | facts
        _tell(level, facts, "%s: %s%s", self.claim.job.name, outcome.state, why)
        self.check_out(outcome)

    def _tell_gone(self, error: Exception) -> None:
        _tell(logging.WARNING, self.facts("gone"), "%s: %s", self.claim.job.name, error)
        self.check_out(_life.Outcome("lost", str(error)))

    def _tell_bug(self, error: Exception) -> None:
        facts = self.facts("error")
        _tell(logging.ERROR, facts, "%s: not run", self.claim.job.name, exc_info=error)
        self.check_out(_life.Outcome("failed", repr(error)))


class Shell(Generic[R]):
    """The part of a scheduler that neither waits nor talks to the server.

    Args:
        client: Whose sessions to use; it stays open.
        jobs: What to run.
        room: How many runs may go on at a time.
    """

    def __init__(self, client: Client, jobs: JobSet, room: int) -> None:
        self._client = client
        self._agenda = Agenda(jobs, here(), self._key)
        self.desk = Desk()
        self.desk.look(jobs.jobs.values())
        self._room = room
        self._running: dict[str, R] = {}
        self._agenda.running = self._running
        self._session: object = None
        self._joined = False
        self._unreported: list[Report] = []
        self._last: Pass | None = None
        self._watch = Watch()
        self._backoff = Backoff()
        self._stopping = False
        self._hurried = False
        self._presence: Any = None  # the lock that says that we live
        self._haste = _HASTE

    def reload(self, jobs: JobSet, room: int) -> None:
        """Go on with other jobs; what runs stays as it is. Where the passes are made."""
        self._room = room
        self._agenda.reload(jobs)
        self.desk.look(jobs.jobs.values())
        self._joined = False

    def _note_stop(self) -> None:
        self._hurried = self._stopping
        self._stopping = True

    @property
    def idle(self) -> bool:
        """Whether nothing runs here."""
        return not self._running

    def queued(self, job: str) -> int:
        """How many ticks of `job` wait, as far as we know."""
        rows = self._last.facts.active if self._last else ()
        return sum(row.job == job and row.state == "queued" for row in rows)

    @property
    def owner(self) -> int:
        """The key of the lock that we hold while we live."""
        return self._agenda.owner

    def earlier(self, claim: Claim) -> str | None:
        """Tell what is in the way of a claim here: an earlier run that has not ended yet.

        It may have lost its lock, and its command takes its time to end.
        """
        if claim.job.overlap == "allow":
            return None
        for run in list(self._running.values()):
            if run.claim.job.name == claim.job.name and run.claim.run_id != claim.run_id:
                return f"the run of {utc(run.claim.scheduled_at)} has not ended yet here"
        return None

    @property
    def line(self) -> datetime | None:
        """When our sessions ended last."""
        return self._agenda.broken_at

    def _key(self, name: str) -> int:
        key = self._client._ascii_key(name)
        assert key is not None, "a job's name is ASCII"
        return key.value

    def _left(self) -> int:
        return max(0, self._room - len(self._running))

    def _meet(self, session: object) -> None:
        """Note which session is asked: a new one means that the old one has ended."""
        if session is not self._session:
            self._agenda.broken = self._session is not None
            self._session = session

    def _seen(self, result: Pass, took: float) -> float:
        """Take note of a pass; tell after how many seconds to make the next one."""
        self._backoff.note(time.monotonic(), failed=False)
        self._watch.well()
        self._last = result
        for row in result.facts.active:
            run = self._running.get(row.run_id or "")
            if row.stop and run is not None:
                run.stop(row.stop)
        self._watch.clock(time.time(), result.facts.now, took)
        version = result.facts.sets.get(self._agenda.hash)
        if version is not None and version.decided_until is not None:
            self._watch.mark(version.decided_until, result.facts.now)
        if result.replaces:
            self._haste = _FIRST_HASTE
        if self._haste < _HASTE and (result.held_up or self._replaceable()):
            self._haste *= 2
            return min(self._haste, result.sleep)
        return result.sleep

    def _replaceable(self) -> bool:
        return any(run.claim.job.overlap == "replace" for run in list(self._running.values()))

    def _ended(self, run: R) -> None:
        self._running.pop(run.claim.run_id, None)
        self._haste = _FIRST_HASTE

    def _trouble(self, error: Exception) -> float:
        """Take note of a pass that failed; tell after how many seconds to try again."""
        if isinstance(error, Refused):
            self._joined = False  # somebody may have dropped the tables
            error = refused(error)
        self._last = None
        self._backoff.note(time.monotonic(), failed=True)
        self._watch.trouble(error)
        return self._backoff.pause(time.monotonic())

    def _may_pass(self, refusal: Refused) -> bool:
        """Tell whether a report that was refused is worth another try; say it, if it is not."""
        if refusal.sqlstate[:2] in _PASSING:
            return True
        _tell(logging.WARNING, {"event": "cron.refused"}, "%s", refused(refusal))
        return False

    def _stop_all(self) -> tuple[bool, float]:
        """Have everything stopped; tell whether that was anything, and how long it may take."""
        runs = list(self._running.values())
        for run in runs:
            run.stop(STOPPED)
        patience = [run.claim.job.kill_after + LAST_WORDS for run in runs if run.stoppable]
        return bool(runs), max(patience, default=0.0)

    def _give_up(self) -> None:
        """Have what still runs put down as lost: it ends with the process, or with its lock."""
        for run in list(self._running.values()):
            outcome = _life.Outcome("lost", STOPPED)
            self._unreported.append(partial(_life.finish, run.claim, outcome))
            run.check_out(outcome)
