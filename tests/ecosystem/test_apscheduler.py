"""`advlock.apscheduler`: several schedulers on one job store, and each tick is run once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from apscheduler import events
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.executors.debug import DebugExecutor
from apscheduler.executors.pool import ProcessPoolExecutor, ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from waiting import aeventually, eventually

import advlock
from advlock._apscheduler import _claims
from advlock.apscheduler import ClaimingExecutor, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
PATIENCE = 40.0  # seconds, on a busy machine
SECONDS = float(os.environ.get("ADVLOCK_TEST_SECONDS", "12"))
_RAN = "CREATE TABLE ran (crew text, at timestamptz, pid int, what text)"


@pytest.fixture
def session(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A bystander."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(_RAN)
        yield session


class Crew:
    """Some processes with a scheduler each, on one job store."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self.folder, self.name = folder, name
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ADVLOCK_")}
        self.env = {**clean, "DATABASE_URL": url, "CREW": name}
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start one."""
        with (self.folder / f"said-{self.name}-{len(self.started)}").open("w") as output:
            process = subprocess.Popen(
                (sys.executable, str(HERE / "apscheduler_cluster.py"), *argv),
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        """What they have printed."""
        return "".join(p.read_text() for p in self.folder.glob(f"said-{self.name}-*"))

    def ready(self) -> None:
        """Wait until all of them have started."""
        n = len(self.started)
        eventually(lambda: self.said().count("ready") == n, within=PATIENCE, message=self.said())

    def close(self) -> None:
        """End them."""
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def crew(url: str, tmp_path: Path) -> Iterator[Callable[[str], Crew]]:
    """Make crews; they end with the test."""
    made: list[Crew] = []

    def make(name: str) -> Crew:
        made.append(Crew(tmp_path, url, name))
        return made[-1]

    yield make
    for each in made:
        each.close()


def runs(session: psycopg.Connection[Any], crew: str, what: str = "begun") -> list[tuple[int, int]]:
    """Which second each run began in, and in which process."""
    sql = "SELECT extract(epoch FROM at)::float8, pid FROM ran WHERE crew = %s AND what = %s"
    found = session.execute(f"{sql} ORDER BY at", (crew, what)).fetchall()
    return [(int(at), pid) for at, pid in found]


def claimed(session: psycopg.Connection[Any], job: str = "tick") -> list[str]:
    """The ticks on record."""
    if session.execute("SELECT to_regclass('advlock.once') IS NULL").fetchone() == (True,):
        return []
    sql = "SELECT name FROM advlock.once WHERE starts_with(name, %s) AND done_at IS NOT NULL"
    rows = session.execute(sql, (f"apscheduler:default:{job}:",)).fetchall()
    return sorted(name for (name,) in rows)


@pytest.mark.timeout(max(180.0, SECONDS * 2 + 120))
def test_each_tick_is_run_once(
    crew: Callable[[str], Crew], session: psycopg.Connection[Any]
) -> None:
    """Three schedulers, one killed in the middle; beside them, two without us: duplicates."""
    ours, theirs = crew("ours"), crew("theirs")
    for _ in range(3):
        ours.start()
    for _ in range(2):
        theirs.start()
    ours.ready()
    theirs.ready()
    began = time.time()
    eventually(lambda: time.time() > began + SECONDS / 2, within=SECONDS)
    (_, victim) = runs(session, "ours")[-1]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: time.time() > began + SECONDS, within=SECONDS)
    with session.transaction():  # all of the same moment: they go on
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ticks = claimed(session)
        ran = [second for second, _ in runs(session, "ours")]
        ended = [second for second, _ in runs(session, "ours", "ended")]
    names = [datetime.fromisoformat(name.split(":", 3)[3]).timestamp() for name in ticks]
    assert names == [names[0] + n for n in range(len(names))]  # none is missing
    assert len(names) >= SECONDS - 1
    assert len(ended) - len(names) in (0, 1)  # the last one may not be on record yet
    # A run that was killed in the middle is begun again, by another scheduler; and one may go on.
    assert len(ran) - len(ended) in (0, 1, 2)
    assert len({pid for _, pid in runs(session, "ours")}) > 1
    control = [second for second, _ in runs(session, "theirs")]
    assert len(control) > len({*control})


def test_a_run_that_was_killed_is_begun_again(
    crew: Callable[[str], Crew], session: psycopg.Connection[Any]
) -> None:
    """By a scheduler that stood by; a job that takes its time is run by one only meanwhile."""
    ours = crew("ours")
    at = str(time.time() + 1)
    for _ in range(2):
        ours.start("long", at)
    ours.ready()
    waits = """
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    eventually(lambda: session.execute(waits).rowcount == 1, within=PATIENCE)
    ((_, first),) = eventually(lambda: runs(session, "ours"), within=PATIENCE)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: len(runs(session, "ours")) == 2, within=PATIENCE)
    session.execute("INSERT INTO ran (what) VALUES ('gate')")
    eventually(lambda: claimed(session, "long"), within=PATIENCE)
    ((_, second),) = runs(session, "ours", "ended")
    assert second != first


# -- in this process -------------------------------------------------------------------------------


class Pair:
    """Two schedulers of one store, as two processes would have them, and what they were told."""

    def __init__(self, url: str) -> None:
        self.schedulers: list[BackgroundScheduler] = []
        self.told: list[list[Any]] = []
        self.url = url

    def start(self, executor: Any = None, **settings: Any) -> BackgroundScheduler:
        """Start one."""
        claiming = ClaimingExecutor(executor, dsn=self.url, **settings)
        scheduler = BackgroundScheduler(executors={"default": claiming}, timezone=UTC)
        told: list[Any] = []
        mask = events.EVENT_JOB_EXECUTED | events.EVENT_JOB_ERROR | events.EVENT_JOB_MISSED
        scheduler.add_listener(told.append, mask)
        scheduler.start()
        self.schedulers.append(scheduler)
        self.told.append(told)
        return scheduler

    @property
    def codes(self) -> list[int]:
        """Of all events, by whomever."""
        return [event.code for told in self.told for event in told]

    def close(self) -> None:
        """End them."""
        for scheduler in self.schedulers:
            with contextlib.suppress(Exception):
                scheduler.shutdown()


@pytest.fixture
def pair(url: str) -> Iterator[Pair]:
    """Two schedulers."""
    made = Pair(url)
    yield made
    made.close()


def soon(seconds: float = 0.3) -> datetime:
    """A moment that all are told."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_a_failed_run_is_a_run(pair: Pair, session: psycopg.Connection[Any]) -> None:
    """An error is one scheduler's event, and no reason for another to run it again."""
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise OSError

    at = soon()
    for _ in range(2):
        pair.start().add_job(fails, "date", run_date=at, id="fails", misfire_grace_time=20)
    eventually(lambda: claimed(session, "fails") if pair.codes else None, within=PATIENCE)
    for scheduler in pair.schedulers:
        scheduler.shutdown()  # whoever still waits leaves
    assert calls == [1]
    assert pair.codes == [events.EVENT_JOB_ERROR]
    (event,) = (event for told in pair.told for event in told)
    assert event.job_id == "fails"


def test_who_is_shut_down_leaves_its_wait(pair: Pair) -> None:
    """And who runs comes to its end; the one who waited runs nothing afterwards."""
    gate, calls = threading.Event(), []

    def works() -> None:
        calls.append(1)
        gate.wait(PATIENCE)

    at = soon()
    for _ in range(2):
        pair.start().add_job(works, "date", run_date=at, id="works", misfire_grace_time=None)
    eventually(lambda: calls, within=PATIENCE)
    waiting = [s for s in pair.schedulers if not s._executors["default"]._runs]
    eventually(lambda: waiting[0]._executors["default"]._claims.waiting, within=PATIENCE)
    began = time.monotonic()
    waiting[0].shutdown()
    assert time.monotonic() - began < 5
    gate.set()
    eventually(lambda: pair.codes == [events.EVENT_JOB_EXECUTED], within=PATIENCE)
    assert calls == [1]


def test_a_tick_that_nobody_can_claim_is_an_error(pair: Pair) -> None:
    """It is not run without a claim, and the event says why; meanwhile it was tried again."""
    pair.url = "postgresql://127.0.0.1:1/nowhere"
    ran: list[int] = []
    scheduler = pair.start()
    scheduler.add_job(lambda: ran.append(1), "date", run_date=soon(0.1), misfire_grace_time=1)
    eventually(lambda: pair.codes == [events.EVENT_JOB_ERROR], within=PATIENCE)
    assert isinstance(pair.told[0][0].exception, advlock.DatabaseUnavailable)
    assert not ran


def test_a_missed_tick_is_told_once(pair: Pair, session: psycopg.Connection[Any]) -> None:
    """Whoever looks at it first decides, for all."""
    late = datetime.now(UTC) - timedelta(seconds=5)
    for _ in range(2):
        pair.start().add_job(print, "date", run_date=late, id="late", misfire_grace_time=1)
    eventually(lambda: claimed(session, "late"), within=PATIENCE)
    for scheduler in pair.schedulers:
        scheduler.shutdown()
    assert pair.codes in ([events.EVENT_JOB_MISSED], [])  # none if it was missed in the store


def test_ticks_that_differ_between_processes_are_refused(pair: Pair) -> None:
    """An interval that begins now, in a store that nobody shares."""
    executor = ClaimingExecutor(dsn=pair.url)
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler._jobstores["default"] = MemoryJobStore()
    executor._scheduler = scheduler
    by_chance = scheduler.add_job(print, "interval", seconds=1)
    by_chance._jobstore_alias = "default"
    with pytest.raises(advlock.ConfigError, match="start_date"):
        executor._refuse(by_chance)
    jitter = scheduler.add_job(print, "cron", second="*", jitter=1)
    jitter._jobstore_alias = "default"
    with pytest.raises(advlock.ConfigError, match="jitter"):
        executor._refuse(jitter)
    agreed = scheduler.add_job(
        print, "interval", seconds=1, start_date=datetime(2026, 1, 1, tzinfo=UTC)
    )
    agreed._jobstore_alias = "default"
    executor._refuse(agreed)
    either = OrTrigger([CronTrigger(second="*"), IntervalTrigger(seconds=7)])
    combined = scheduler.add_job(print, either)
    combined._jobstore_alias = "default"
    with pytest.raises(advlock.ConfigError, match="start_date"):
        executor._refuse(combined)
    with pytest.raises(advlock.ConfigError, match="works with"):
        ClaimingExecutor(DebugExecutor())


def test_a_process_pool_runs_it_once(pair: Pair, session: psycopg.Connection[Any]) -> None:
    """What runs in another process is claimed in this one."""
    at = soon()
    for _ in range(2):
        scheduler = pair.start(ProcessPoolExecutor(1))
        scheduler.add_job(os.getpid, "date", run_date=at, id="pid", misfire_grace_time=30)
    eventually(lambda: pair.codes, within=PATIENCE)
    eventually(lambda: claimed(session, "pid"), within=PATIENCE)
    for scheduler in pair.schedulers:
        scheduler.shutdown()
    (event,) = (event for told in pair.told for event in told)
    assert event.retval != os.getpid()


def test_in_an_event_loop(url: str) -> None:
    """Coroutines run in the scheduler's own loop, and each tick in one of two."""
    calls: list[Any] = []
    told: list[int] = []

    async def works() -> str:
        calls.append(asyncio.get_running_loop())
        return "worked"

    async def main() -> None:
        at, schedulers = soon(), []
        for _ in range(2):
            claiming = ClaimingExecutor(AsyncIOExecutor(), dsn=url)
            scheduler = AsyncIOScheduler(executors={"default": claiming}, timezone=UTC)
            scheduler.add_listener(lambda event: told.append(event.code), events.EVENT_JOB_EXECUTED)
            scheduler.start()
            scheduler.add_job(works, "date", run_date=at, id="works", misfire_grace_time=30)
            schedulers.append(scheduler)
        await aeventually(lambda: told, within=PATIENCE)
        threads = [s._executors["default"]._claims._thread for s in schedulers]
        for scheduler in schedulers:
            scheduler.shutdown()
        await aeventually(lambda: not any(map(threading.Thread.is_alive, threads)), within=PATIENCE)
        assert calls == [asyncio.get_running_loop()]

    asyncio.run(main())
    assert told == [events.EVENT_JOB_EXECUTED]


def test_what_runs_in_a_thread_is_claimed_until_it_ends(
    url: str, session: psycopg.Connection[Any]
) -> None:
    """The shutdown of an `AsyncIOExecutor` forgets it; it goes on, and is nobody else's."""
    gate, calls = threading.Event(), []

    def works() -> None:
        calls.append(1)
        gate.wait(PATIENCE)

    async def main() -> None:
        at, schedulers = soon(0.1), []
        for _ in range(2):
            claiming = ClaimingExecutor(AsyncIOExecutor(), dsn=url)
            scheduler = AsyncIOScheduler(executors={"default": claiming}, timezone=UTC)
            scheduler.start()
            scheduler.add_job(works, "date", run_date=at, id="works", misfire_grace_time=None)
            schedulers.append(scheduler)
        await aeventually(lambda: calls, within=PATIENCE)
        first, second = sorted(schedulers, key=lambda s: not s._executors["default"]._runs)
        await aeventually(lambda: second._executors["default"]._claims.waiting, within=PATIENCE)
        first.shutdown()
        await asyncio.sleep(0.3)  # in which the other one would begin
        gate.set()
        assert calls == [1]
        await aeventually(lambda: claimed(session, "works"), within=PATIENCE)
        second.shutdown()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert calls == [1]


def test_a_scheduler_may_be_started_again(url: str, session: psycopg.Connection[Any]) -> None:
    """As in each lifespan of an application that tests start many times."""
    calls: list[int] = []
    threads: list[threading.Thread] = []

    async def works() -> None:
        calls.append(1)

    async def main() -> None:
        claiming = ClaimingExecutor(AsyncIOExecutor(), dsn=url)
        scheduler = AsyncIOScheduler(executors={"default": claiming}, timezone=UTC)
        for n in range(2):
            scheduler.start()
            scheduler.add_job(works, "date", run_date=soon(0.0), id=f"{n}", misfire_grace_time=20)
            threads.append(claiming._claims._thread)
            await aeventually(lambda n=n: claimed(session, f"{n}"), within=PATIENCE)
            scheduler.shutdown()
            await asyncio.sleep(0)
        # A start that failed, as where there is no job store yet, leaves nothing behind.
        for _ in range(2):
            claiming.start(scheduler, "default")
            threads.append(claiming._claims._thread)
        claiming.shutdown()
        await aeventually(lambda: not any(t.is_alive() for t in threads), within=PATIENCE)

    asyncio.run(main())
    assert calls == [1, 1]


def test_at_the_end_of_the_interpreter_runs_are_told(pair: Pair) -> None:
    """With `atexit.register(scheduler.shutdown)`, when there are no more threads for listeners."""
    scheduler = pair.start()
    loop = scheduler._executors["default"]._claims.loop
    ended = ThreadPoolExecutor()._pool
    ended.shutdown()
    loop.call_soon_threadsafe(loop.set_default_executor, ended)
    scheduler.add_job(print, "date", run_date=soon(0.0), misfire_grace_time=20)
    eventually(lambda: pair.codes == [events.EVENT_JOB_EXECUTED], within=PATIENCE)


def test_a_coroutine_in_a_pool_is_refused(pair: Pair) -> None:
    """It would be called, never awaited, and recorded as run."""

    async def works() -> None: ...

    scheduler = pair.start()
    job = scheduler.add_job(works, "date", run_date=soon(60.0))
    with pytest.raises(advlock.ConfigError, match="AsyncIOExecutor"):
        scheduler._executors["default"]._refuse(job)


def test_a_locked_table_stops_no_heartbeat(url: str, session: psycopg.Connection[Any]) -> None:
    """Old ticks are forgotten on the session of the claims, which must not wait for that."""
    claims = _claims.Claims(url, {})

    async def claim() -> None:
        async with claims.once("one", None):
            pass

    def run(what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, claims.loop).result(5)  # it is lost soon after

    try:
        run(claim())
        with session.transaction():
            session.execute("LOCK TABLE advlock.once")
            run(claims.prune())
    finally:
        claims.close(PATIENCE)


def test_old_ticks_are_forgotten(
    pair: Pair, session: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When their window is over; what others have done once stays."""
    monkeypatch.setattr(_claims, "_PRUNE_EVERY", 0.0)
    scheduler = pair.start()
    with advlock.Locks(pair.url) as locks, locks.once("mine", per=1):
        pass
    scheduler.add_job(print, "date", run_date=soon(0.0), id="old", misfire_grace_time=None)
    eventually(lambda: claimed(session, "old"), within=PATIENCE)
    session.execute(
        "UPDATE advlock.once SET started_at = started_at - interval '1 day', "
        "claimed_at = claimed_at - interval '1 day'"
    )
    scheduler.add_job(print, "date", run_date=soon(0.0), id="new", misfire_grace_time=None)
    eventually(lambda: claimed(session, "new"), within=PATIENCE)
    eventually(lambda: not claimed(session, "old"), within=PATIENCE)
    names = session.execute("SELECT name FROM advlock.once").fetchall()
    assert len(names) == 2
    assert ("mine",) in names


@pytest.mark.parametrize("sharing", [True, False])
def test_a_job_with_one_run_ends_no_scheduler(url: str, sharing: bool) -> None:
    """Each removes it after the run; without `shared`, that is the end of the second's thread."""
    base: Any = shared(SQLAlchemyJobStore) if sharing else SQLAlchemyJobStore
    schedulers = []
    for _ in range(2):
        store = base(url=url.replace("postgresql:", "postgresql+psycopg:"))
        schedulers.append(BackgroundScheduler(jobstores={"default": store}, timezone=UTC))
        schedulers[-1].start(paused=True)
    first, second = (scheduler._jobstores["default"] for scheduler in schedulers)
    schedulers[0].add_job(print, "date", run_date=soon(0.0), id="once")
    for store in (first, second):
        assert [job.id for job in store.get_due_jobs(soon(1.0))] == ["once"]
    schedulers[0].remove_job("once")
    with contextlib.nullcontext() if sharing else pytest.raises(JobLookupError):
        schedulers[1].remove_job("once")
    second.get_next_run_time()
    with pytest.raises(JobLookupError):  # whoever asks by himself is told
        schedulers[1].remove_job("once")
    for scheduler, store in zip(schedulers, (first, second), strict=True):
        scheduler.shutdown()
        store.engine.dispose()  # its thread may have asked once more
