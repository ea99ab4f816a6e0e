"""What schedulers promise, for threads and for tasks: one suite that both worlds run."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

from advlock import AsyncScheduler, CronRun, Scheduler
from advlock._plan import Script, Step
from advlock.errors import ConfigError, DatabaseUnavailable

from .crews import World, timed
from .hands import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.pooled import Pools

pytest_plugins = ["conformance.pooled_fixtures"]

# What was skipped has not run: a machine that stalls for a second skips a tick.
OVER = """
SELECT count(*) FROM advlock.cron_run
WHERE job = %s AND finished_at IS NOT NULL AND state NOT LIKE 'skipped%%'
"""
DECIDED = (
    "SELECT array_agg(scheduled_at ORDER BY scheduled_at) FROM advlock.cron_run WHERE job = %s"
)


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Threads and `Scheduler`, or tasks and `AsyncScheduler`."""
    made = World(request.param)
    yield made
    made.close()


@pytest.fixture
def tasks() -> Iterator[World]:
    """Tasks only: for what threads cannot do."""
    made = World("async")
    yield made
    made.close()


@pytest.fixture
def dsn(pools: Pools) -> str:
    """The newest server: what it is asked, test_claims.py asks of every version."""
    pools.admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    return pools.database


@pytest.fixture
def rows(pools: Pools) -> Rows:
    """What the tables say."""
    return Rows(pools.admin)


def over(rows: Rows, job: str, count: int = 1) -> Callable[[], bool]:
    """Whether so many ticks of a job are over."""
    return lambda: _exists(rows) and rows.ask(OVER, job) >= count


def ran(rows: Rows, job: str = "j") -> list[str]:
    """The states of those ticks of a job that were not skipped, in their order."""
    return [state for state in rows(job) if not state.startswith("skipped")]


def _exists(rows: Rows) -> bool:
    return bool(rows.ask("SELECT to_regclass('advlock.cron_run') IS NOT NULL"))


def holds(rows: Rows, job: str) -> list[int]:
    """Which sessions hold the lock of a job."""
    found = rows.admin.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND "
        "database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND "
        "(classid::int8 << 32) | objid::int8 = "
        "(SELECT key FROM advlock.cron_run WHERE job = %s AND state = 'running' LIMIT 1)",
        (job,),
    )
    return [pid for (pid,) in found]


def end_sessions(rows: Rows, pids: list[int]) -> None:
    """End sessions, as a DBA does."""
    rows.ask("SELECT count(pg_terminate_backend(pid)) FROM unnest(%s::int[]) AS pid", pids)


# -- each tick once --------------------------------------------------------------------------------


def ticks_once(world: World, where: str, rows: Rows) -> None:
    """Three schedulers run two ticks and more of four jobs: each once, and each has its row."""
    crew = [world.scheduler(where) for _ in range(3)]
    names = [f"j{number}" for number in range(4)]
    for one in crew:
        for name in names:
            world.job(one, name)
    with world.running(*crew):
        eventually(lambda: all(len(world.ran(name)) > 1 for name in names), within=10)
    seen = Counter((run.job, run.scheduled_at) for run in world.calls)
    assert set(seen.values()) == {1}
    for name in names:
        ticks = rows.ask(DECIDED, name)
        assert ticks == [ticks[0] + timedelta(seconds=number) for number in range(len(ticks))]
        assert ran(rows, name) == ["succeeded"] * len(world.ran(name))


def test_each_tick_runs_once(world: World, dsn: str, rows: Rows) -> None:
    """Three schedulers in one second each, and no tick is doubled or left out."""
    ticks_once(world, dsn, rows)


@pytest.mark.usefixtures("dsn")
def test_each_tick_runs_once_through_a_pooler(world: World, pools: Pools, rows: Rows) -> None:
    """Also where a pooler lends sessions by the transaction, and the locks are pinned."""
    ticks_once(world, pools.dsn("transaction"), rows)


# -- what a run learns -----------------------------------------------------------------------------


def test_a_run_knows_its_tick_and_its_lock(world: World, dsn: str, rows: Rows) -> None:
    """Job, tick in UTC, run_id, attempt, and a lock that can be checked and has a token."""
    told: list[Any] = []
    one = world.scheduler(dsn)
    if world.is_sync:

        @one.job("@every 1s", name="j")
        def plain(run: CronRun) -> None:
            run.held.check()
            told.append((run, run.held.token(), run.held.lost))
    else:

        @one.job("@every 1s", name="j")
        async def plain(run: CronRun) -> None:
            run.held.check()
            told.append((run, await run.held.token(), run.held.lost))

    before = rows.ask("SELECT clock_timestamp()")
    with world.running(one):
        eventually(over(rows, "j"))
    run, token, lost = told[0]
    assert (run.job, run.attempt, lost) == ("j", 1, False)
    assert run.scheduled_at.tzinfo is UTC
    assert before - timedelta(seconds=1) < run.scheduled_at < before + timedelta(seconds=5)
    assert str(rows.of("j", "run_id", run.scheduled_at)) == run.run_id
    assert token > 0
    assert rows.of("j", "finished_at >= started_at", run.scheduled_at)


def test_what_goes_wrong_is_in_the_history(world: World, dsn: str, rows: Rows) -> None:
    """An exception makes a failed run, with its words and its traceback; the scheduler goes on."""

    def fails(_run: CronRun) -> None:
        raise ValueError("no ink \udcff\0 left")

    one = world.scheduler(dsn)
    world.job(one, "bad", does=fails)
    world.job(one, "good")
    with world.running(one):
        eventually(over(rows, "bad", 2), within=10)
        eventually(over(rows, "good", 2), within=10)
    assert set(ran(rows, "bad")) == {"failed"}
    assert set(ran(rows, "good")) == {"succeeded"}
    tick = world.ran("bad")[0].scheduled_at
    assert rows.of("bad", "reason", tick).startswith("ValueError: no ink ?")
    tail = rows.of("bad", "output", tick)
    assert tail.startswith("Traceback (most recent call last):")
    assert 'raise ValueError("no ink' in tail


def test_a_failed_run_is_tried_again_under_the_same_lock(
    world: World, dsn: str, rows: Rows
) -> None:
    """As often as it says, with the same run_id; and a success ends that."""

    def fails(run: CronRun) -> None:
        run.held.check()
        if run.job == "never" or run.attempt < 2:
            raise ValueError(run.attempt)

    one = world.scheduler(dsn)
    world.job(one, "never", "@every 2s", does=fails, retries=2, retry_wait=0.05)
    world.job(one, "second", "@every 2s", does=fails, retries=2, retry_wait=0.05)
    with world.running(one):
        eventually(over(rows, "never"))
        eventually(over(rows, "second"))
    for name, state, attempts in (("never", "failed", 3), ("second", "succeeded", 2)):
        tick = world.ran(name)[0].scheduled_at
        runs = [run for run in world.ran(name) if run.scheduled_at == tick]
        assert [run.attempt for run in runs] == [*range(1, attempts + 1)]
        assert len({run.run_id for run in runs}) == len({id(run.held) for run in runs}) == 1
        assert rows.of(name, "state", tick) == state
        assert rows.of(name, "attempt", tick) == attempts


# -- overlap ---------------------------------------------------------------------------------------


def test_overlap_is_skipped_queued_or_allowed(world: World, dsn: str, rows: Rows) -> None:
    """While one run goes on, the next tick is skipped, waits, or runs beside it."""
    done = threading.Event()
    crew = [world.scheduler(dsn) for _ in range(2)]
    for one in crew:
        for overlap in ("skip", "queue", "allow"):
            world.job(one, overlap, overlap=overlap, lasts=done)
    try:
        with world.running(*crew):
            eventually(lambda: "skipped_overlap" in (_exists(rows) and rows("skip")), within=8)
            eventually(lambda: "queued" in rows("queue"), within=8)
            eventually(lambda: rows("allow").count("running") > 1, within=8)
            assert rows("skip").count("running") == rows("queue").count("running") == 1
            skipped = rows.ask(
                "SELECT reason FROM advlock.cron_run WHERE state = 'skipped_overlap' LIMIT 1"
            )
            assert skipped.startswith("its lock is held by")
            waits = rows.ask(
                "SELECT min(scheduled_at) FROM advlock.cron_run"
                " WHERE job = 'queue' AND state = 'queued'"
            )
            done.set()
            eventually(lambda: rows.of("queue", "state", waits) == "succeeded")
    finally:
        done.set()  # also when a test failed
    assert world.ran("queue")[1].scheduled_at == waits


def test_a_later_tick_replaces_an_earlier_run(tasks: World, dsn: str, rows: Rows) -> None:
    """The earlier run is cancelled, on whichever host it is, and says why it ended."""
    done = threading.Event()
    crew = [tasks.scheduler(dsn) for _ in range(2)]
    for one in crew:
        tasks.job(one, "j", "@every 1s", overlap="replace", lasts=done)
    with tasks.running(*crew):
        eventually(lambda: len(tasks.calls) > 1, within=8)
        done.set()
    first = tasks.calls[0].scheduled_at
    assert rows.of("j", "state", first) == "failed"
    assert rows.of("j", "reason", first).startswith("replaced by the tick of 2")
    assert isinstance(tasks.ended[0], asyncio.CancelledError)


def test_a_timeout_cancels_a_task(tasks: World, dsn: str, rows: Rows) -> None:
    """After its time a run is cancelled, and its row says so."""
    never = threading.Event()
    one = tasks.scheduler(dsn)
    tasks.job(one, "j", lasts=never, timeout=0.1)
    with tasks.running(one):
        eventually(over(rows, "j"))
    assert rows.of("j", "state", tasks.calls[0].scheduled_at) == "timeout"
    assert rows.of("j", "reason", tasks.calls[0].scheduled_at) == "its timeout was over"
    assert tasks.ended


# -- when a lock is lost ---------------------------------------------------------------------------


@pytest.mark.parametrize("on_crash", ["next_tick", "rerun"])
def test_a_run_whose_lock_is_lost(world: World, dsn: str, rows: Rows, on_crash: str) -> None:
    """It is put down as lost, or runs again; a task is cancelled, a thread can see it."""
    done = threading.Event()
    one = world.scheduler(dsn)
    world.job(one, "j", "@every 3s", lasts=done, on_crash=on_crash)
    with world.running(one):
        eventually(lambda: world.calls, within=8)
        tick = world.calls[0].scheduled_at
        end_sessions(rows, holds(rows, "j"))
        eventually(lambda: world.calls[0].held.lost)
        if world.is_sync:
            done.set()
        else:
            eventually(lambda: world.ended)
            done.set()
        if on_crash == "rerun":
            eventually(lambda: len([r for r in world.calls if r.scheduled_at == tick]) > 1)
            eventually(lambda: rows.of("j", "state", tick) == "succeeded")
        else:
            eventually(lambda: rows.of("j", "state", tick) == "lost")
            assert rows.of("j", "reason", tick) == "the lock of 'j' was lost while it ran"
    assert rows.of("j", "losses", tick) == 1


def test_a_server_that_was_away_is_come_back_to(
    world: World, pools: Pools, dsn: str, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """All sessions end and none may come for a while; then ticks run again, and it says so once."""
    one = world.scheduler(dsn)
    world.job(one, "j")
    door = psycopg.connect(pools.server.superuser_dsn, autocommit=True)
    with door, world.running(one), caplog.at_level(logging.WARNING, "advlock.cron"):
        eventually(over(rows, "j"))
        door.execute(f"ALTER DATABASE {pools.dbname} ALLOW_CONNECTIONS false".encode())
        try:
            pids = rows.ask(
                "SELECT array_agg(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
            end_sessions(rows, pids)
            # That it cannot connect; or, of a pass that is under way, that its session has ended.
            eventually(lambda: "no pass: " in caplog.text, within=20)
        finally:
            door.execute(f"ALTER DATABASE {pools.dbname} ALLOW_CONNECTIONS true".encode())
        count = len(world.calls)
        eventually(lambda: len(world.calls) > count, within=15)
        eventually(lambda: "the database is back" in caplog.text, within=20)
    troubles = [r for r in caplog.records if getattr(r, "event", "") == "cron.trouble"]
    assert len(troubles) == 1


def test_a_report_that_is_refused_is_given_up(
    world: World, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One that waits for the database and is refused for ever does not end all passes."""

    def bad() -> Any:
        yield Script((Step("SELECT 1/0"),))

    one = world.scheduler(dsn)
    world.job(one, "j")
    with world.running(one):
        one._engine._unreported.append(bad)
        eventually(lambda: world.calls)
    assert "division by zero" in caplog.text


# -- jitter ----------------------------------------------------------------------------------------


def test_jitter_delays_a_tick_and_loses_none(tasks: World, dsn: str, rows: Rows) -> None:
    """Each tick runs once, when its own delay is over; others' marks do not make it lost."""
    crew = [tasks.scheduler(dsn) for _ in range(2)]
    for one in crew:
        tasks.job(one, "shaken", "@every 2s", jitter=1.8)
        tasks.job(one, "plain")
    with tasks.running(*crew):
        eventually(over(rows, "shaken", 3), within=12)
    job = crew[0]._functions._jobs["shaken"]
    ticks = rows.ask(DECIDED, "shaken")
    assert ticks == [ticks[0] + timedelta(seconds=2 * number) for number in range(len(ticks))]
    runs = [run.scheduled_at for run in tasks.ran("shaken")]
    assert len(runs) == len(set(runs))
    for tick in runs:
        wait = (job.due(tick) - tick).total_seconds()
        late = rows.of("shaken", "extract(epoch FROM started_at - scheduled_at)::float8", tick)
        assert wait <= late < wait + 3


# -- the end ---------------------------------------------------------------------------------------


def test_stop_waits_for_what_runs(world: World, dsn: str, rows: Rows) -> None:
    """`run` returns when what runs has ended; nothing new has begun meanwhile."""
    done = threading.Event()
    one = world.scheduler(dsn)
    world.job(one, "j", lasts=done)
    call = world.start(one)
    eventually(lambda: world.calls)
    one.stop()
    time.sleep(1.2)  # a tick passes that nobody may take
    assert not call.done()
    done.set()
    call.result(5)
    assert len(world.calls) == 1
    assert ran(rows) == ["succeeded"]
    assert rows.ask("SELECT count(*) FROM advlock.cron_host") == 0


def test_leaving_the_block_after_stop_waits_too(world: World, dsn: str, rows: Rows) -> None:
    """To say it twice, in the block and by leaving it, is no reason to wait for less."""
    done = threading.Event()
    one = world.scheduler(dsn)
    world.job(one, "j", lasts=done)
    with world.running(one):
        eventually(lambda: world.calls)
        one.stop()
        threading.Timer(0.5, done.set).start()
    assert ran(rows) == ["succeeded"]


def test_what_does_not_end_in_time_is_cancelled(tasks: World, dsn: str, rows: Rows) -> None:
    """A task is cancelled when the waiting is over, and is put down as lost."""
    never = threading.Event()
    one = tasks.scheduler(dsn)
    tasks.job(one, "j", lasts=never)
    call = tasks.start(one, wait=0.2)
    eventually(lambda: tasks.calls)
    one.stop()
    assert timed(lambda: call.result(5)) < 3
    assert ran(rows) == ["lost"]
    tick = tasks.calls[0].scheduled_at
    assert rows.of("j", "reason", tick) == "stopped together with its scheduler"
    assert tasks.ended


def test_to_cancel_run_stops_at_once(tasks: World, dsn: str, rows: Rows) -> None:
    """Its jobs are cancelled, and it leaves no lock."""
    never = threading.Event()
    one = tasks.scheduler(dsn)
    tasks.job(one, "j", lasts=never)
    call = tasks.start(one)
    eventually(lambda: tasks.calls)
    call.cancel()
    eventually(lambda: tasks.ended)
    eventually(lambda: ran(rows) == ["lost"])
    eventually(lambda: not holds(rows, "j"))
    eventually(lambda: rows.ask("SELECT count(*) FROM advlock.cron_host") == 0)


def test_a_client_that_was_given_stays_open(world: World, dsn: str, rows: Rows) -> None:
    """A scheduler closes the client that it has made, and no other."""
    client = world.client(dsn)
    one = world.scheduler(client)
    world.job(one, "j")
    with world.running(one):
        eventually(over(rows, "j"))
    held = world.call(client.holders("cron:j"))
    assert held == []
    world.call(client.close())


def test_stop_before_run_runs_nothing(world: World, dsn: str) -> None:
    """Whoever was asked to stop does not begin."""
    one = world.scheduler(dsn)
    world.job(one, "j")
    one.stop()
    world.start(one).result(5)
    assert not world.calls


# -- mistakes --------------------------------------------------------------------------------------

NOWHERE = "host=127.0.0.1 port=1 dbname=none connect_timeout=1"


def sync_function() -> None:
    """Do nothing."""


async def async_function() -> None:
    """Do nothing, in a task."""


@pytest.mark.parametrize("kind", [Scheduler, AsyncScheduler])
def test_a_mistake_is_told_where_it_is_made(kind: Any) -> None:
    """The decorator refuses what cannot be right, and says what to write instead."""
    one = kind(NOWHERE)
    mine, other = async_function, sync_function
    if kind is Scheduler:
        mine, other = other, mine
    refused: list[tuple[str, dict[str, Any], Any]] = [
        ("every day", {}, mine),
        ("* * * * * *", {}, mine),
        ("@daily", {"timezone": "Europe/Atlantis"}, mine),
        ("@daily", {"name": "not a name"}, mine),
        ("@daily", {"overlap": "maybe"}, mine),
        ("@daily", {"missed": "never"}, mine),
        ("@daily", {"retries": -1}, mine),
        ("@daily", {"grace": "soon"}, mine),
        ("@daily", {"keep": 0}, mine),
        ("@daily", {}, other),
        ("@daily", {}, lambda _one, _two: None),
    ]
    for schedule, policies, function in refused:
        with pytest.raises(ConfigError):
            one.job(schedule, **policies)(function)
    one.job("@daily", name="twice")(mine)
    with pytest.raises(ConfigError, match="there are two jobs called 'twice'"):
        one.job("@hourly", name="twice")(mine)
    for settings in ({"timezone": "Mars"}, {"max_running": 0}):
        with pytest.raises(ConfigError):
            kind(NOWHERE, **settings)


@pytest.mark.parametrize("policies", [{"timeout": 5}, {"overlap": "replace"}])
def test_what_threads_cannot_do_is_refused(policies: dict[str, Any]) -> None:
    """A thread cannot be stopped, so a scheduler of threads does not promise it."""
    with pytest.raises(ConfigError, match="use AsyncScheduler"):
        Scheduler(NOWHERE).job("@daily", **policies)


def test_the_decorated_function_stays_what_it_was() -> None:
    """It can be called by hand, as before."""
    assert Scheduler(NOWHERE).job("@daily")(sync_function) is sync_function
    assert AsyncScheduler(NOWHERE).job("@daily")(async_function) is async_function


def test_without_a_database_run_says_so(world: World) -> None:
    """At the beginning there has to be a connection; later it is waited for."""
    one = world.scheduler(NOWHERE)
    world.job(one, "j")
    with pytest.raises(DatabaseUnavailable):
        world.start(one).result(10)
    with pytest.raises(DatabaseUnavailable), world.running(world.scheduler(NOWHERE)):
        pass
