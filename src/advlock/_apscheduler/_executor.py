"""An executor that claims each tick of a job before it runs it.

The rules:

1. A tick is a job of a store and a scheduled run time. It is claimed with `once`: whoever gets the
   claim runs it, and what it ended with, also an error, is recorded while the claim is held.
2. Who does not get it waits for as long as the tick could still be begun (`misfire_grace_time`), in
   case the one who has it dies. It is no event of the scheduler: the tick is somebody else's.
3. The inner executor runs jobs as it always does. It is given one tick at a time, of a job whose id
   is a number of ours, and by that number it reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.executors.base import BaseExecutor
from apscheduler.executors.pool import BasePoolExecutor, ThreadPoolExecutor
from apscheduler.job import Job
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.triggers.interval import IntervalTrigger
from apscheduler.util import iscoroutinefunction_partial

from advlock import _observe
from advlock._apscheduler._claims import Claims
from advlock.errors import ConfigError, DatabaseUnavailable, LockError, LockLost, LockTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from advlock._once._done import Done

_RETRY: Final = 0.25  # seconds between two tries to reach the database
_LAST: Final = 2.0  # seconds for the last one
_CLOSING: Final = 10.0  # seconds that `shutdown(wait=True)` waits for the last records

log = logging.getLogger("advlock.apscheduler")


class ClaimingExecutor(BaseExecutor):
    """An executor for schedulers of which several share one job store: each tick is run once.

    Every scheduler on the store has one. Other stores in the same database, whose alias and job ids
    are the same, need another `namespace`. A job that another scheduler runs
    raises no event here but `EVENT_JOB_SUBMITTED`, which comes before anybody knows.

    Args:
        executor: What runs the jobs: a `ThreadPoolExecutor` (by default), a `ProcessPoolExecutor`,
            or for an `AsyncIOScheduler` an `AsyncIOExecutor`.
        dsn: Where claims are kept; by default what `AsyncLocks` finds in the environment.
        settings: Those of `AsyncLocks`: `namespace`, `liveness`, `lease` …

    Raises:
        ConfigError: it is an executor that is not supported; or, when the scheduler is started, a
            setting cannot be right.
    """

    def __init__(
        self, executor: BaseExecutor | None = None, *, dsn: str | None = None, **settings: Any
    ) -> None:
        super().__init__()
        inner = ThreadPoolExecutor() if executor is None else executor
        if not isinstance(inner, BasePoolExecutor | AsyncIOExecutor):
            raise ConfigError(
                f"ClaimingExecutor works with a ThreadPoolExecutor, a ProcessPoolExecutor or an "
                f"AsyncIOExecutor, not with {inner!r}"
            )
        self._inner = inner
        self._dsn, self._settings = dsn, settings
        self._numbers = itertools.count(1)
        self._runs: dict[str, asyncio.Future[list[Any]]] = {}
        self._claims: Claims | None = None

    # -- what a scheduler calls --------------------------------------------------------------------

    def start(self, scheduler: Any, alias: str) -> None:
        """Start, with the scheduler."""
        super().start(scheduler, alias)
        if self._claims is not None:  # of an earlier start; perhaps the job store failed then
            self._claims.leave()
            self._claims.close(None)
        self._claims = Claims(self._dsn, self._settings)
        self._inner.start(scheduler, alias)
        self._inner._run_job_success = self._ended
        self._inner._run_job_error = self._broke

    def shutdown(self, wait: bool = True) -> None:  # noqa: FBT001, FBT002 - APScheduler's
        """End: what waits for a claim leaves it to the others, what runs comes to its end."""
        claims = self._claims
        if claims is None:
            return
        claims.leave()
        if isinstance(self._inner, AsyncIOExecutor):
            # It would cancel those of threads, too, which go on: their claims would be free.
            pending = self._inner._pending_futures
            self._inner._pending_futures = {f for f in pending if isinstance(f, asyncio.Task)}
        self._inner.shutdown(wait)
        # In the loop of an AsyncIOScheduler nothing may be waited for.
        here = isinstance(self._inner, AsyncIOExecutor) or not wait
        claims.close(None if here else _CLOSING)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        claims = self._claims
        assert claims is not None
        self._refuse(job)
        claims.begin(lambda: self._run_all(claims, job, run_times))

    def _refuse(self, job: Any) -> None:
        in_threads = not isinstance(self._inner, AsyncIOExecutor)
        if in_threads and iscoroutinefunction_partial(job.func):
            raise ConfigError(
                f"the function of {job.id!r} is async, and would be called but not awaited: give "
                f"ClaimingExecutor(AsyncIOExecutor()) to an AsyncIOScheduler"
            )
        stores = getattr(self._scheduler, "_jobstores", {})
        if not isinstance(stores.get(job._jobstore_alias), MemoryJobStore):
            return
        # Each process has made its own job. With `cron` and `date` the ticks are the same in all of
        # them; an interval that begins "now", to the microsecond, and jitter are not.
        if any(map(_is_by_chance, _triggers(job.trigger))):
            raise ConfigError(
                f"the ticks of {job.id!r} are not the same in any two processes, so each would run "
                f"its own: give its trigger a start_date and no jitter, or keep it in a job store "
                f"that the schedulers share"
            )

    # -- in the thread of the claims ---------------------------------------------------------------

    async def _run_all(self, claims: Claims, job: Any, run_times: list[datetime]) -> None:
        events: list[Any] = []
        try:
            for run_time in run_times:
                if not claims.leaving:
                    events += await self._tick(claims, job, run_time)
        except asyncio.CancelledError:
            pass  # shut down while it waited
        except Exception as error:  # noqa: BLE001 - as any error of an executor
            await self._elsewhere(super()._run_job_error, job.id, error, error.__traceback__)
            return
        await self._elsewhere(super()._run_job_success, job.id, events)

    async def _tick(self, claims: Claims, job: Any, run_time: datetime) -> list[Any]:
        """Claim and run one tick; the events of that, none if it is another scheduler's."""
        name = f"{job._jobstore_alias}:{job.id}:{run_time.astimezone(UTC).isoformat()}"
        events: list[Any] | None = None
        trouble: LockError | None = None
        while True:
            grace = _left(job, run_time)
            # Time is up, and nobody was seen at it: it may have been done at that very moment.
            last = trouble is not None and grace == 0
            try:
                async with _waits(claims), claims.once(name, _LAST if last else grace) as todo:
                    if not todo:
                        self._skipped(job, run_time, todo)
                        return []
                    claims.waiting.discard(asyncio.current_task())
                    events = await self._run(job, run_time)
                await claims.prune()
            except LockTimeout as error:
                if error.holders:
                    self._skipped(job, run_time, error)
                    return []
                trouble = trouble or error
            except LockError as error:
                if events is not None:
                    self._unrecorded(job, error)
                    return events
                trouble, last = error, last or not isinstance(error, DatabaseUnavailable)
            if events is not None:
                return events
            if last and trouble is not None:
                return [self._failed(job, run_time, trouble)]
            async with _waits(claims):
                await asyncio.sleep(_RETRY)

    async def _run(self, job: Any, run_time: datetime) -> list[Any]:
        """Have the inner executor run it; return its events."""
        number = f"{job.id}#{next(self._numbers)}"
        carried = _copy(job, number)
        self._runs[number] = done = asyncio.get_running_loop().create_future()
        if isinstance(self._inner, AsyncIOExecutor):
            loop = self._inner._eventloop
            loop.call_soon_threadsafe(self._submit, carried, run_time)
        else:
            self._submit(carried, run_time)
        try:
            events: list[Any] = await done
        finally:
            del self._runs[number]
        for event in events:
            event.job_id = job.id
        return events

    # -- what the inner executor calls, in whatever thread -----------------------------------------

    def _submit(self, carried: Any, run_time: datetime) -> None:
        try:
            self._inner._do_submit_job(carried, [run_time])
        except Exception as error:  # noqa: BLE001 - it was shut down, or cannot pickle the job
            self._broke(carried.id, error)

    def _ended(self, number: str, events: list[Any]) -> None:
        self._settle_soon(number, events, None)

    def _broke(self, number: str, error: BaseException, _traceback: Any = None) -> None:
        self._settle_soon(number, [], error)

    def _settle_soon(self, number: str, events: list[Any], error: BaseException | None) -> None:
        if (done := self._runs.get(number)) is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits for it
                done.get_loop().call_soon_threadsafe(self._settle, done, events, error)

    @staticmethod
    def _settle(
        done: asyncio.Future[list[Any]], events: list[Any], error: BaseException | None
    ) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(events)
        elif isinstance(error, asyncio.CancelledError):
            done.set_exception(RuntimeError("the job was cancelled, with its executor"))
        else:
            done.set_exception(error)

    # -- telling -----------------------------------------------------------------------------------

    async def _elsewhere(self, report: Any, *args: Any) -> None:
        """Report to the scheduler where listeners expect it: they may take their time."""
        if isinstance(self._inner, AsyncIOExecutor):
            loop = self._inner._eventloop
            if not loop.is_closed():
                loop.call_soon_threadsafe(report, *args)
            return
        try:
            reporting = asyncio.get_running_loop().run_in_executor(None, report, *args)
        except RuntimeError:  # the interpreter ends, and begins no thread any more
            report(*args)
        else:
            await reporting

    def _failed(self, job: Any, run_time: datetime, error: LockError) -> Any:
        what = "tick %s of job %r is not run here, it cannot be claimed: %s"
        self._tell(logging.ERROR, "tick.failed", what, run_time, job.id, error)
        alias = job._jobstore_alias
        return JobExecutionEvent(EVENT_JOB_ERROR, job.id, alias, run_time, exception=error)

    def _skipped(self, job: Any, run_time: datetime, why: Done | LockTimeout) -> None:
        what = "tick %s of job %r is another scheduler's: %s"
        self._tell(logging.DEBUG, "tick.skipped", what, run_time, job.id, why)

    def _unrecorded(self, job: Any, error: LockError) -> None:
        lost = "its claim was lost" if isinstance(error, LockLost) else "it is not recorded"
        what = "job %r was run here, but %s, so another scheduler may have run it, too: %s"
        self._tell(logging.WARNING, "tick.lost", what, job.id, lost, error)

    @staticmethod
    def _tell(level: int, event: str, what: str, *args: object) -> None:
        _observe.tell(level, {"event": event}, what, *args, to=log)


@contextlib.asynccontextmanager
async def _waits(claims: Claims) -> AsyncIterator[None]:
    """Wait in this block, so that a shutdown may end it."""
    task: Any = asyncio.current_task()
    claims.waiting.add(task)
    try:
        yield
    finally:
        claims.waiting.discard(task)


def _triggers(trigger: Any) -> Iterator[Any]:
    """It, and those it is combined of."""
    yield trigger
    for part in getattr(trigger, "triggers", ()):
        yield from _triggers(part)


def _is_by_chance(trigger: Any) -> bool:
    began = getattr(trigger, "start_date", None)
    interval = isinstance(trigger, IntervalTrigger) and began and began.microsecond
    return bool(interval or getattr(trigger, "jitter", None))


def _left(job: Any, run_time: datetime) -> float | None:
    """How long the tick may still be begun, in seconds; None for ever."""
    if job.misfire_grace_time is None:
        return None
    late = (datetime.now(UTC) - run_time).total_seconds()
    return float(max(0.0, job.misfire_grace_time - late))


def _copy(job: Any, number: str) -> Any:
    """Make the same job with another id; `copy.copy` would ask for what can be pickled."""
    made = Job.__new__(Job)
    for slot in Job.__slots__:
        if slot != "__weakref__" and hasattr(job, slot):
            setattr(made, slot, getattr(job, slot))
    made.id = number
    return made
