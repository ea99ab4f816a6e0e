"""Functions by the clock, in threads. Its twin is `_ascheduler.py`."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from advlock._client import wait_seconds
from advlock._cron._engine import Engine, Grip, Run
from advlock._cron._function import Functions, failed, lost
from advlock._cron._life import Outcome
from advlock._locks import Locks
from advlock.errors import ConfigError, LockError, LockLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self, Unpack

    from advlock._client import Seconds
    from advlock._cron._facts import Claim
    from advlock._cron._function import JobPolicies
    from advlock._held import Held
    from advlock._plan import SessionPlan

F = TypeVar("F", bound="Callable[..., Any]")
_WAIT: Final = 25.0  # seconds; less than the 30 s that process managers give


class Scheduler:
    """Runs functions by the clock, each tick in exactly one of all processes that have the job.

    Every process declares the same jobs and runs a scheduler. The database's clock says when a
    tick is due, a row that it was run, and a lock who runs it now. Jobs run in threads, under
    locks that share one connection.

    Args:
        locks: The client to use, which stays open; or an address for one of its own; None as for
            `Locks`.
        timezone: In which the schedules are meant, if they do not say otherwise: an IANA name.
        max_running: How many jobs may run at a time in this process.

    Raises:
        ConfigError: a setting cannot be right, or there is no address.
    """

    __module__ = "advlock"

    def __init__(
        self,
        locks: Locks | str | None = None,
        *,
        timezone: str = "UTC",
        max_running: int = 32,
    ) -> None:
        self._functions = Functions(timezone, max_running, awaited=False)
        self._own = not isinstance(locks, Locks)
        self._locks = locks if isinstance(locks, Locks) else Locks(locks)
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def job(
        self,
        schedule: str,
        *,
        name: str | None = None,
        timezone: str | None = None,
        **policies: Unpack[JobPolicies],
    ) -> Callable[[F], F]:
        """Make the decorated function a job.

        It is called without arguments, or with a `CronRun` if it has a parameter for it. What it
        raises makes the run a failed one; what it returns is not looked at.

        Args:
            schedule: Five fields as in a crontab, with `H` for a minute (or hour, …) that follows
                from the job's name; `@hourly` to `@yearly`; or `@every 90s`.
            name: What the job is called on every host; by default the function's name.
            timezone: In which the schedule is meant; by default the scheduler's.
            policies: See `JobPolicies`.

        Raises:
            ConfigError: something of this cannot be right.
        """
        if "timeout" in policies or policies.get("overlap") == "replace":
            raise ConfigError(
                "a thread cannot be stopped, so there is no timeout and no overlap='replace' here; "
                "use AsyncScheduler, or make it a command of `advlock cron run`"
            )

        def decorate(function: F) -> F:
            if self._engine is not None:
                raise ConfigError("this scheduler runs already; declare its jobs before")
            return self._functions.add(function, schedule, name, timezone, policies)

        return decorate

    def run(self, *, wait: Seconds = _WAIT) -> None:
        """Run the jobs until `stop` is called; then wait for what runs.

        Args:
            wait: How long to wait for running jobs at the end, in seconds. Those that still run
                then are put down as lost; their threads end with the process.

        Raises:
            DatabaseUnavailable: there is no connection at the beginning; later it is waited for.
            ConfigError: the tables of the cron are not there, and may not be made.
            UnsafeServer: locks would not be safe there.
        """
        self._begin()
        self._go(wait_seconds(wait) or 0.0)

    def _begin(self) -> None:
        self._engine = Engine(
            self._locks, self._functions.job_set(), self._functions.room, self._make
        )
        try:
            self._engine.prepare()
        except BaseException:
            self._end()
            raise

    def _go(self, wait: float) -> None:
        assert self._engine is not None
        try:
            if not self._stopping:
                self._engine.run()
            self._engine.drain(wait)
        finally:
            self._end()

    def _end(self) -> None:
        self._engine = None
        if self._own:
            self._locks.close()

    def stop(self) -> None:
        """Begin nothing any more, and let `run` return. From any thread, or a signal handler."""
        self._stopping = True
        if (engine := self._engine) is not None:
            engine.stop()

    def __enter__(self) -> Self:
        """Run the jobs in a thread of their own, until the block ends; raises what `run` does."""
        self._begin()
        self._thread = threading.Thread(target=self._go, args=(_WAIT,), name="advlock-cron")
        self._thread.daemon = True
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop, and wait for what runs."""
        if not self._stopping:  # a second time would end the waiting
            self.stop()
        if self._thread is not None:
            self._thread.join()

    def _make(self, engine: Engine, claim: Claim) -> Run:
        return _FunctionRun(engine, claim, self._functions)


class _HeldGrip(Grip):
    """A lock on one of the client's sessions."""

    def __init__(self, engine: Engine, held: Held) -> None:
        self.held = held
        self._engine = engine

    @property
    def lost(self) -> bool:
        return self.held.lost

    def ask(self, plan: SessionPlan[Any]) -> Any:
        return self._engine.ask_on(self.held._ticket.session, plan)


class _FunctionRun(Run):
    """Calls the job's function in this thread."""

    stoppable = False

    def __init__(self, engine: Engine, claim: Claim, functions: Functions) -> None:
        super().__init__(engine, claim)
        self._functions = functions

    @contextlib.contextmanager
    def locked(self) -> Iterator[Grip | str]:
        client = self.engine.client
        name = self.claim.job.lock_name(self.claim.scheduled_at)
        with contextlib.suppress(LockLost), client.attempt(name) as held:
            if held is not None:
                yield _HeldGrip(self.engine, held)
                return
            holding = [one for one in client.holders(name) if not one.waiting]
            yield f"its lock is held by {holding[0]}" if holding else "its lock was held"

    def work(self, grip: Grip, attempt: int) -> Outcome:
        assert isinstance(grip, _HeldGrip)
        try:
            self._functions.call(self.claim, grip.held, attempt)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: it is the job that ends
            if isinstance(error, LockError) and grip.lost:
                return lost(self.claim)
            return failed(error, attempt)
        return lost(self.claim) if grip.lost else Outcome("succeeded")
