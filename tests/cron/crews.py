"""Two worlds in which schedulers run: threads, and tasks of an event loop in a thread of its own.

Tests are plain functions in both; what a job does is a plain function, too. While it is to go on,
`Job.lasts` is an event that is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from advlock import AsyncLocks, AsyncScheduler, Locks, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advlock import CronRun

PATIENCE = 20.0


class World:
    """Makes schedulers and runs them.

    Attributes:
        calls: Each run that was seen, as its function got it.
        ended: How runs ended that were cut short: what was raised in them.
    """

    def __init__(self, name: str) -> None:
        self.is_sync = name == "sync"
        self.calls: list[CronRun] = []
        self.ended: list[BaseException] = []
        self._events: list[threading.Event] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the loop."""
        self._release()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        if pending:
            self._loop.run_until_complete(asyncio.wait(pending, timeout=PATIENCE))
        self._loop.close()

    def scheduler(self, where: Any, **settings: Any) -> Any:
        """Make a scheduler."""
        kind = Scheduler if self.is_sync else AsyncScheduler
        return kind(where, **settings)

    def client(self, dsn: str) -> Any:
        """Make a client."""
        return Locks(dsn) if self.is_sync else AsyncLocks(dsn)

    def job(
        self,
        scheduler: Any,
        name: str,
        schedule: str = "@every 1s",
        *,
        does: Callable[[CronRun], object] = lambda _run: None,
        lasts: threading.Event | None = None,
        **policies: Any,
    ) -> None:
        """Give a scheduler a job, which notes its call, does something, and waits for an event."""
        if lasts is not None:
            self._events.append(lasts)

        def note(run: CronRun) -> None:
            self.calls.append(run)
            does(run)

        def wait(run: CronRun) -> None:
            note(run)
            if lasts is not None:
                lasts.wait(PATIENCE)

        async def await_(run: CronRun) -> None:
            note(run)
            try:
                while lasts is not None and not lasts.is_set():  # noqa: ASYNC110 - a thread's
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError as error:
                self.ended.append(error)
                raise

        scheduler.job(schedule, name=name, **policies)(wait if self.is_sync else await_)

    @contextlib.contextmanager
    def running(self, *schedulers: Any) -> Iterator[None]:
        """Run them by `with`, or `async with`."""
        with contextlib.ExitStack() as stack:
            for one in schedulers:
                stack.enter_context(one if self.is_sync else self._entered(one))
            try:
                yield
            except BaseException:
                self._release()  # a test that failed is not to wait for what it left running
                raise

    def _release(self) -> None:
        for event in self._events:
            event.set()

    @contextlib.contextmanager
    def _entered(self, scheduler: Any) -> Iterator[None]:
        self.await_(scheduler.__aenter__())
        try:
            yield
        finally:
            self.await_(scheduler.__aexit__(None, None, None))

    def await_(self, what: Any) -> Any:
        """Await something in the loop."""

        async def outcome() -> Any:
            return await what

        return asyncio.run_coroutine_threadsafe(outcome(), self._loop).result(PATIENCE)

    def call(self, what: Any) -> Any:
        """The outcome of a call, which in the async world has to be awaited."""
        return what if self.is_sync else self.await_(what)

    def start(self, scheduler: Any, **options: Any) -> Any:
        """Begin `run`; what is returned has a `result`."""
        if not self.is_sync:
            return asyncio.run_coroutine_threadsafe(scheduler.run(**options), self._loop)
        return _Call(lambda: scheduler.run(**options))

    def ran(self, job: str) -> list[CronRun]:
        """What was seen of a job."""
        return [run for run in [*self.calls] if run.job == job]


class _Call:
    """A call in a thread."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is asked for
            self._error = error

    def done(self) -> bool:
        """Whether it has returned."""
        return not self._thread.is_alive()

    def result(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)
        assert self.done(), f"still going after {timeout} s"
        if self._error is not None:
            raise self._error


def timed(call: Callable[[], object]) -> float:
    """How long a call takes, in seconds."""
    began = time.monotonic()
    call()
    return time.monotonic() - began
