"""The shell for tasks of one event loop. Its twin is `_engine.py`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from advlock import _schema
from advlock._cron import _life
from advlock._cron._life import Begun, Outcome
from advlock._cron._shell import (
    GONE,
    LAST_WORDS,
    LOOK_EVERY,
    PATIENCE,
    PRESENCE,
    SOON,
    AnyRun,
    Shell,
    log,
)
from advlock._cron._tell import refused
from advlock._plan import Expired, Refused, SessionLost
from advlock.errors import DatabaseUnavailable, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from advlock._alocks import AsyncLocks
    from advlock._asession import AsyncSession
    from advlock._cron._facts import Claim
    from advlock._cron._job import JobSet
    from advlock._cron._shell import Report
    from advlock._plan import SessionPlan


class AsyncGrip:
    """The lock of a run: what it is held with."""

    token: int | None = None

    @property
    def lost(self) -> bool:
        """Whether it is not to be believed in any more."""
        raise NotImplementedError

    async def ask(self, plan: SessionPlan[Any]) -> Any:
        """Drive a plan while the lock is held."""
        raise NotImplementedError


class AsyncRun(AnyRun):
    """One claim. Subclasses know how to take the lock, and what to do under it."""

    def __init__(self, engine: AsyncEngine, claim: Claim) -> None:
        super().__init__(engine, claim)
        self.engine = engine
        self.bell = asyncio.Event()

    def stop(self, reason: str) -> None:
        """Have the run end."""
        self.stopped = self.stopped or reason
        self.bell.set()

    def locked(self) -> AbstractAsyncContextManager[AsyncGrip | str]:
        """Take the lock, or say who has it; until the block ends."""
        raise NotImplementedError

    async def work(self, grip: AsyncGrip, attempt: int) -> Outcome:
        """Do what the job is for."""
        raise NotImplementedError

    async def live(self) -> None:
        """From the claim to its row."""
        async with self.locked() as grip:
            if isinstance(grip, str):
                await self.engine.report(partial(self._busy, grip))
                return
            if earlier := self.engine.earlier(self.claim):
                await self.engine.report(partial(self._busy, earlier))
                return
            engine = self.engine
            begin = _life.begin(self.claim, engine.line, grip.token, engine.owner)
            begun, why = await grip.ask(begin)
            if begun is Begun.DOUBT:
                await self.engine.report(partial(self._busy, why))
            elif begun is Begun.YES:
                self._check_in()
                await self._finish(grip, await self._attempts(grip))

    async def _attempts(self, grip: AsyncGrip) -> Outcome:
        attempt = 1
        while True:
            outcome = (await self.work(grip, attempt))._replace(attempt=attempt)
            if self._enough(outcome):
                return outcome
            attempt += 1
            self._tell_retry(outcome)
            if not await self._pause(grip, _life.pause_before(self.claim, attempt)):
                return outcome
            await self.engine.report(partial(_life.again, self.claim, attempt, outcome.reason))

    async def _pause(self, grip: AsyncGrip, seconds: float) -> bool:
        """Let `seconds` pass, and look after the lock; False if the run has to end."""
        until = time.monotonic() + seconds
        while not (self.stopped or grip.lost):
            left = until - time.monotonic()
            if left <= 0:
                return True
            await wait_for(self.bell, min(left, LOOK_EVERY))
        return False

    async def _finish(self, grip: AsyncGrip, outcome: Outcome) -> None:
        self._tell_outcome(outcome)
        try:
            await grip.ask(_life.finish(self.claim, outcome))
        except (*GONE, Refused):
            await self.engine.report(partial(_life.finish, self.claim, outcome))


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set, `seconds` at most, and clear it."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()


class AsyncEngine(Shell[AsyncRun]):
    """Runs until it is stopped; `make` makes a run of a claim."""

    def __init__(
        self,
        client: AsyncLocks,
        jobs: JobSet,
        room: int,
        make: Callable[[AsyncEngine, Claim], AsyncRun],
    ) -> None:
        super().__init__(client, jobs, room)
        self.client = client
        self.bell = asyncio.Event()
        self._make = make
        self._tasks: set[asyncio.Task[None]] = set()

    # -- from outside ----------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Connect, make the tables where they are missing, and say that we are here.

        Raises:
            DatabaseUnavailable: there is no connection.
            ConfigError: the tables are not there, or not for this role.
            UnsafeServer: locks would not be safe there.
        """
        try:
            await self._join()
        except Refused as refusal:
            raise refused(refusal) from None
        except (SessionLost, Expired) as error:
            raise DatabaseUnavailable(f"the session ended at once: {error}; try again") from None

    async def run(self) -> None:
        """Make passes until `stop`; what runs then goes on."""
        while not self._stopping:
            await wait_for(self.bell, await self.once())

    def stop(self) -> None:
        """Begin nothing any more; the second time, do not wait for what runs, either."""
        self._note_stop()
        self.bell.set()

    async def report(self, plan: Report) -> None:
        """Write something down, now or as soon as the database is there."""
        try:
            await self._ask(plan())
        except GONE:
            self._unreported.append(plan)
        except Refused as refusal:
            if self._may_pass(refusal):
                self._unreported.append(plan)

    # -- passes ----------------------------------------------------------------------------------

    async def once(self) -> float:
        """Make one pass; tell after how many seconds to make the next one."""
        began = time.monotonic()
        try:
            if not self._joined:
                await self._join()
            await self._show_presence()
            await self._flush()
            result = await self._ask(self._agenda.turn(self._left()))
        except (*GONE, Refused) as error:
            return self._trouble(error)
        for claim in result.claims:
            self._begin(claim)
        return self._seen(result, time.monotonic() - began)

    def _begin(self, claim: Claim) -> None:
        run = self._make(self, claim)
        self._running[claim.run_id] = run
        task = asyncio.create_task(self._live(run), name=f"advlock-cron-{claim.job.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, run: AsyncRun) -> None:
        try:
            await run.live()
        except (*GONE, Refused) as error:
            run._tell_gone(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the scheduler goes on
            run._tell_bug(error)
        finally:
            self._ended(run)
            self.bell.set()

    async def _show_presence(self) -> None:
        """Hold a lock for as long as we live: nobody is to call lost what we are yet to report."""
        if self._presence is None or self._presence.lost:
            name = f"cron-host:{self._agenda.host.id}"
            self._presence = None
            with contextlib.suppress(LockTimeout):  # a session of ours that the server still has
                self._presence = await self.client._hold(name, wait=PRESENCE, owned=False)

    async def _flush(self) -> None:
        while self._unreported:
            try:
                await self._ask(self._unreported[0]())
            except Refused as refusal:  # or one that is refused for ever would end all passes
                if self._may_pass(refusal):
                    raise
            del self._unreported[0]

    async def _join(self) -> None:
        if missing := await self._ask(_schema.prepare(_schema.CRON)):
            log.info("made the tables of advlock (version %d)", missing[-1])
        await self._ask(self._agenda.join())
        self._joined = True
        for message in await self._ask(self._agenda.others()):
            self._watch.other(message)

    async def ask_on(self, session: AsyncSession, plan: SessionPlan[Any]) -> Any:
        """Drive a plan on a session of the client; what is sent goes on when time runs out."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.client._beside(session, plan)
        except TimeoutError:
            raise Expired from None

    async def _ask(self, plan: SessionPlan[Any]) -> Any:
        sessions = self.client._bind()
        deadline = sessions.loop.time() + PATIENCE
        session = sessions.shared or await sessions.connect(deadline)
        self._meet(session)
        return await self.ask_on(session, plan)

    # -- the end ---------------------------------------------------------------------------------

    async def drain(self, patience: float) -> bool:
        """Wait for what runs, `patience` seconds; then have it stopped. Tell whether all ended.

        A second call of `stop` ends the waiting.
        """
        self._room = 0
        until = time.monotonic() + patience
        while self._running and time.monotonic() < until and not self._hurried:
            await wait_for(self.bell, min(await self.once(), until - time.monotonic()))
        stopped, patience = self._stop_all()
        until = time.monotonic() + patience
        while self._running and time.monotonic() < until:
            await wait_for(self.bell, until - time.monotonic())
        await self._say_goodbye()
        until = time.monotonic() + LAST_WORDS
        while not (self.desk.idle or self._hurried) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(SOON)
        self.desk.wait(0)  # and say what is given up
        return not stopped

    async def _say_goodbye(self) -> None:
        self._give_up()
        until = time.monotonic() + LAST_WORDS
        while time.monotonic() < until:
            try:
                await self._flush()
                await self._ask(self._agenda.leave())
                await self.client._let_go_all([self._presence] if self._presence else [])
            except (*GONE, Refused) as error:
                if not self._unreported:
                    return
                await asyncio.sleep(self._trouble(error))
            else:
                return
