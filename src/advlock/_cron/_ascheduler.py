"""Functions by the clock, in tasks of one event loop. Its twin is `_scheduler.py`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

from advlock._alocks import AsyncLocks
from advlock._client import wait_seconds
from advlock._cron._aengine import AsyncEngine, AsyncGrip, AsyncRun
from advlock._cron._function import Functions, failed, lost
from advlock._cron._life import Outcome
from advlock._cron._shell import STOPPED
from advlock.errors import ConfigError, LockError, LockLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Self, Unpack

    from advlock._aheld import AsyncHeld
    from advlock._client import Seconds
    from advlock._cron._facts import Claim
    from advlock._cron._function import JobPolicies
    from advlock._plan import SessionPlan

F = TypeVar("F", bound="Callable[..., Any]")
_WAIT: Final = 25.0  # seconds; as for threads


class AsyncScheduler:
    """Runs async functions by the clock, each tick in exactly one process.

    Parameters and errors are those of `Scheduler`. Jobs run in tasks of the event loop that `run`
    is awaited in. A job whose lock is lost, whose time is over, or that is replaced, is cancelled.
    """

    __module__ = "advlock"

    def __init__(
        self,
        locks: AsyncLocks | str | None = None,
        *,
        timezone: str = "UTC",
        max_running: int = 32,
    ) -> None:
        self._functions = Functions(timezone, max_running, awaited=True)
        self._own = not isinstance(locks, AsyncLocks)
        self._locks = locks if isinstance(locks, AsyncLocks) else AsyncLocks(locks)
        self._engine: AsyncEngine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def job(
        self,
        schedule: str,
        *,
        name: str | None = None,
        timezone: str | None = None,
        **policies: Unpack[JobPolicies],
    ) -> Callable[[F], F]:
        """Make the decorated async function a job; see `Scheduler.job`."""

        def decorate(function: F) -> F:
            if self._engine is not None:
                raise ConfigError("this scheduler runs already; declare its jobs before")
            return self._functions.add(function, schedule, name, timezone, policies)

        return decorate

    async def run(self, *, wait: Seconds = _WAIT) -> None:
        """Run the jobs until `stop` is called; then wait for what runs, and cancel what remains.

        Cancelling `run` itself stops at once: what runs is cancelled. See `Scheduler.run`.
        """
        await self._begin()
        await self._go(wait_seconds(wait) or 0.0)

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = AsyncEngine(
            self._locks, self._functions.job_set(), self._functions.room, self._make
        )
        try:
            await self._engine.prepare()
        except BaseException:
            await self._end()
            raise

    async def _go(self, wait: float) -> None:
        assert self._engine is not None
        try:
            if not self._stopping:
                await self._engine.run()
            await self._engine.drain(wait)
        except asyncio.CancelledError:
            await self._engine.drain(0.0)
            raise
        finally:
            await self._end()

    async def _end(self) -> None:
        self._engine = None
        if self._own:
            await self._locks.close()

    def stop(self) -> None:
        """Begin nothing any more, and let `run` return. From any thread, or a signal handler."""
        self._stopping = True
        engine, loop = self._engine, self._loop
        if engine is not None and loop is not None:
            loop.call_soon_threadsafe(engine.stop)

    async def __aenter__(self) -> Self:
        """Run the jobs in a task of their own, until the block ends; raises what `run` does."""
        await self._begin()
        self._task = asyncio.create_task(self._go(_WAIT), name="advlock-cron")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop, and wait for what runs."""
        if not self._stopping:  # a second time would end the waiting
            self.stop()
        if self._task is not None:
            await self._task

    def _make(self, engine: AsyncEngine, claim: Claim) -> AsyncRun:
        return _FunctionRun(engine, claim, self._functions)


async def _without_exit(call: Awaitable[object]) -> SystemExit | None:
    """Await what a job returned; a job that calls sys.exit() ends the job and not the loop."""
    try:
        await call
    except SystemExit as error:
        return error
    return None


class _HeldGrip(AsyncGrip):
    """A lock on one of the client's sessions."""

    def __init__(self, engine: AsyncEngine, held: AsyncHeld) -> None:
        self.held = held
        self._engine = engine

    @property
    def lost(self) -> bool:
        return self.held.lost

    async def ask(self, plan: SessionPlan[Any]) -> Any:
        return await self._engine.ask_on(self.held._ticket.session, plan)


class _FunctionRun(AsyncRun):
    """Awaits the job's function in a task that can be cancelled."""

    def __init__(self, engine: AsyncEngine, claim: Claim, functions: Functions) -> None:
        super().__init__(engine, claim)
        self._functions = functions
        self._work: asyncio.Task[Any] | None = None

    def stop(self, reason: str) -> None:
        super().stop(reason)
        self._cancel()

    def _cancel(self, _held: object = None) -> None:
        if self._work is not None:
            self._work.cancel()

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[AsyncGrip | str]:
        client = self.engine.client
        name = self.claim.job.lock_name(self.claim.scheduled_at)
        with contextlib.suppress(LockLost):
            async with client.attempt(name) as held:
                if held is not None:
                    held.on_lost(self._cancel)
                    yield _HeldGrip(self.engine, held)
                    return
                holding = [one for one in await client.holders(name) if not one.waiting]
                yield f"its lock is held by {holding[0]}" if holding else "its lock was held"

    async def work(self, grip: AsyncGrip, attempt: int) -> Outcome:
        assert isinstance(grip, _HeldGrip)
        if self.stopped:
            return self._ended(grip)
        call = self._functions.call(self.claim, grip.held, attempt)
        self._work = asyncio.ensure_future(_without_exit(call))
        done, _ = await asyncio.wait([self._work], timeout=self.claim.job.timeout)
        timed_out = not done
        while not done:  # the lock stays for as long as it works, even if it does not want to end
            self._work.cancel()
            done, _ = await asyncio.wait([self._work], timeout=self.claim.job.kill_after)
        return self._judge(grip, attempt, timed_out=timed_out)

    def _judge(self, grip: _HeldGrip, attempt: int, *, timed_out: bool) -> Outcome:
        work = self._work
        assert work is not None
        if timed_out:
            return Outcome("timeout", "its timeout was over")
        if work.cancelled():
            return self._ended(grip)
        error = work.exception() or work.result()
        if error is None:
            return lost(self.claim) if grip.lost else Outcome("succeeded")
        if isinstance(error, LockError) and grip.lost:
            return lost(self.claim)
        return failed(error, attempt)

    def _ended(self, grip: _HeldGrip) -> Outcome:
        if self.stopped:
            return Outcome("lost" if self.stopped == STOPPED else "failed", self.stopped)
        return lost(self.claim) if grip.lost else Outcome("failed", "it was cancelled")
