"""The shell for threads: passes in one, each run in one of its own. Its twin is `_aengine.py`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from advlock import _schema
from advlock._cron import _life
from advlock._cron._bell import Bell
from advlock._cron._life import Begun, Outcome
from advlock._cron._shell import (
    GONE,
    LAST_WORDS,
    LOOK_EVERY,
    PATIENCE,
    PRESENCE,
    AnyRun,
    Shell,
    log,
)
from advlock._cron._tell import refused
from advlock._plan import Expired, Refused, SessionLost
from advlock.errors import DatabaseUnavailable, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from advlock._cron._facts import Claim
    from advlock._cron._job import JobSet
    from advlock._cron._shell import Report
    from advlock._locks import Locks
    from advlock._plan import SessionPlan
    from advlock._session import Session


class Grip:
    """The lock of a run: what it is held with."""

    token: int | None = None

    @property
    def lost(self) -> bool:
        """Whether it is not to be believed in any more."""
        raise NotImplementedError

    def ask(self, plan: SessionPlan[Any]) -> Any:
        """Drive a plan while the lock is held."""
        raise NotImplementedError


class Run(AnyRun):
    """One claim. Subclasses know how to take the lock, and what to do under it."""

    def __init__(self, engine: Engine, claim: Claim) -> None:
        super().__init__(engine, claim)
        self.engine = engine
        self.bell = Bell()

    def stop(self, reason: str) -> None:
        """Have the run end; from any thread."""
        self.stopped = self.stopped or reason
        self.bell.ring()

    def locked(self) -> AbstractContextManager[Grip | str]:
        """Take the lock, or say who has it; until the block ends."""
        raise NotImplementedError

    def work(self, grip: Grip, attempt: int) -> Outcome:
        """Do what the job is for."""
        raise NotImplementedError

    def live(self) -> None:
        """From the claim to its row."""
        with self.locked() as grip:
            if isinstance(grip, str):
                self.engine.report(partial(self._busy, grip))
                return
            if earlier := self.engine.earlier(self.claim):
                self.engine.report(partial(self._busy, earlier))
                return
            engine = self.engine
            begun, why = grip.ask(_life.begin(self.claim, engine.line, grip.token, engine.owner))
            if begun is Begun.DOUBT:
                self.engine.report(partial(self._busy, why))
            elif begun is Begun.YES:
                self._check_in()
                self._finish(grip, self._attempts(grip))

    def _attempts(self, grip: Grip) -> Outcome:
        attempt = 1
        while True:
            outcome = self.work(grip, attempt)._replace(attempt=attempt)
            if self._enough(outcome):
                return outcome
            attempt += 1
            self._tell_retry(outcome)
            if not self._pause(grip, _life.pause_before(self.claim, attempt)):
                return outcome
            self.engine.report(partial(_life.again, self.claim, attempt, outcome.reason))

    def _pause(self, grip: Grip, seconds: float) -> bool:
        """Let `seconds` pass, and look after the lock; False if the run has to end."""
        until = time.monotonic() + seconds
        while not (self.stopped or grip.lost):
            left = until - time.monotonic()
            if left <= 0:
                return True
            self.bell.wait(min(left, LOOK_EVERY))  # it may ring for what is over
        return False

    def _finish(self, grip: Grip, outcome: Outcome) -> None:
        self._tell_outcome(outcome)
        try:
            grip.ask(_life.finish(self.claim, outcome))
        except (*GONE, Refused):
            self.engine.report(partial(_life.finish, self.claim, outcome))


class Engine(Shell[Run]):
    """Runs until it is stopped; `make` makes a run of a claim."""

    def __init__(
        self, client: Locks, jobs: JobSet, room: int, make: Callable[[Engine, Claim], Run]
    ) -> None:
        super().__init__(client, jobs, room)
        self.client = client
        self.bell = Bell()
        self._make = make
        self._turn = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()

    # -- from outside ----------------------------------------------------------------------------

    def prepare(self, *more: SessionPlan[Any]) -> None:
        """Connect, make the tables where they are missing, and say that we are here.

        Args:
            more: What else has to work before it begins.

        Raises:
            DatabaseUnavailable: there is no connection.
            ConfigError: the tables are not there, or not for this role.
            UnsafeServer: locks would not be safe there.
        """
        try:
            self._join()
            for plan in more:
                self._ask(plan)
        except Refused as refusal:
            raise refused(refusal) from None
        except (SessionLost, Expired) as error:
            raise DatabaseUnavailable(f"the session ended at once: {error}; try again") from None

    def run(self) -> None:
        """Make passes until `stop`; what runs then goes on."""
        while not self._stopping:
            self.bell.wait(self.once())
            while self._calls:
                self._calls.popleft()()

    def until_idle(self) -> None:
        """Make passes until nothing is due and nothing runs, or until `stop`.

        Raises:
            DatabaseUnavailable: the database went away before anything was begun.
        """
        while not self._stopping:
            sleep = self.once()
            if not self._running:
                if self._last is None:
                    raise DatabaseUnavailable("the database went away; try again")
                if not self._last.decided:
                    return
            self.bell.wait(sleep if self._running else 0.0)

    def stop(self) -> None:
        """Begin nothing any more; the second time, do not wait for what runs, either.

        From any thread, or a signal handler.
        """
        self._note_stop()
        self.bell.ring()

    def soon(self, call: Callable[[], object]) -> None:
        """Have `call` called where the passes are made. From any thread, or a signal handler."""
        self._calls.append(call)
        self.bell.ring()

    def report(self, plan: Report) -> None:
        """Write something down, now or as soon as the database is there."""
        try:
            self._ask(plan())
        except GONE:
            self._unreported.append(plan)
        except Refused as refusal:
            if self._may_pass(refusal):
                self._unreported.append(plan)

    # -- passes ----------------------------------------------------------------------------------

    def once(self) -> float:
        """Make one pass; tell after how many seconds to make the next one."""
        began = time.monotonic()
        try:
            if not self._joined:
                self._join()
            self._show_presence()
            self._flush()
            result = self._ask(self._agenda.turn(self._left()))
        except (*GONE, Refused) as error:
            return self._trouble(error)
        for claim in result.claims:
            self._begin(claim)
        return self._seen(result, time.monotonic() - began)

    def _begin(self, claim: Claim) -> None:
        run = self._make(self, claim)
        self._running[claim.run_id] = run
        name = f"advlock-cron-{claim.job.name}"
        try:
            threading.Thread(target=self._live, args=(run,), name=name, daemon=True).start()
        except RuntimeError as error:  # no thread to be had: others will take the claim up
            run._tell_gone(error)
            self._ended(run)

    def _live(self, run: Run) -> None:
        try:
            run.live()
        except (*GONE, Refused) as error:
            run._tell_gone(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the scheduler goes on
            run._tell_bug(error)
        finally:
            self._ended(run)
            self.bell.ring()

    def _show_presence(self) -> None:
        """Hold a lock for as long as we live: nobody is to call lost what we are yet to report."""
        if self._presence is None or self._presence.lost:
            name = f"cron-host:{self._agenda.host.id}"
            self._presence = None
            with contextlib.suppress(LockTimeout):  # a session of ours that the server still has
                self._presence = self.client._hold(name, wait=PRESENCE, owned=False)

    def _flush(self) -> None:
        while self._unreported:
            try:
                self._ask(self._unreported[0]())
            except Refused as refusal:  # or one that is refused for ever would end all passes
                if self._may_pass(refusal):
                    raise
            del self._unreported[0]

    def _join(self) -> None:
        if missing := self._ask(_schema.prepare(_schema.CRON)):
            log.info("made the tables of advlock (version %d)", missing[-1])
        self._ask(self._agenda.join())
        self._joined = True
        for message in self._ask(self._agenda.others()):
            self._watch.other(message)

    def ask_on(self, session: Session, plan: SessionPlan[Any]) -> Any:
        """Drive a plan on a session of the client, in its turn."""
        # A session wakes everybody who waits for its turn; hundreds of runs that begin at the same
        # second would wake each other all the time (`python3 dev.py bench --cron`).
        with self._turn:
            return self.client._beside(session, plan, time.monotonic() + PATIENCE)

    def _ask(self, plan: SessionPlan[Any]) -> Any:
        sessions = self.client._sessions
        session = sessions.shared or sessions.connect(time.monotonic() + PATIENCE)
        self._meet(session)
        return self.ask_on(session, plan)

    # -- the end ---------------------------------------------------------------------------------

    def drain(self, patience: float) -> bool:
        """Wait for what runs, `patience` seconds; then have it stopped. Tell whether all ended.

        A second call of `stop` ends the waiting.
        """
        self._room = 0
        until = time.monotonic() + patience
        while self._running and time.monotonic() < until and not self._hurried:
            self.bell.wait(min(self.once(), until - time.monotonic()))
        stopped, patience = self._stop_all()
        until = time.monotonic() + patience
        while self._running and time.monotonic() < until:
            self.bell.wait(until - time.monotonic())
        self._say_goodbye()
        if not self._hurried:
            self.desk.wait(LAST_WORDS)
        return not stopped

    def _say_goodbye(self) -> None:
        self._give_up()
        until = time.monotonic() + LAST_WORDS
        while time.monotonic() < until:
            try:
                self._flush()
                self._ask(self._agenda.leave())
                self.client._let_go_all([self._presence] if self._presence else [])
            except (*GONE, Refused) as error:
                if not self._unreported:
                    return
                time.sleep(self._trouble(error))
            else:
                return
