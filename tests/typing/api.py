"""The library as users type it. Not run: `python3 dev.py check` has mypy judge it, strictly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, assert_type

import advlock

if TYPE_CHECKING:
    import psycopg


def sync(dsn: str, conn: psycopg.Connection) -> None:
    """What `Locks` hands out."""
    with advlock.Locks(dsn, namespace="billing", keys="hashtext", max_connections=2) as locks:
        assert_type(locks, advlock.Locks)
        assert_type(locks.liveness, float)
        assert_type(locks.lease, float | None)
        with locks.hold("nightly", wait="30s", shared=True, reentrant=True) as held:
            assert_type(held, advlock.Held)
            assert_type(held.token(), int)
            held.on_lost(print)
        with locks.attempt(42) as maybe:
            assert_type(maybe, advlock.Held | None)
        with locks.hold_all(["a", 7, (1, 2)], wait=1.5) as several:
            assert_type(several, list[advlock.Held])
        lock = locks.lock("inventory")
        assert_type(lock.acquire(timeout=0.5), bool)
        assert_type(locks.holders("nightly"), list[advlock.Holder])

        @locks.hold("nightly")
        def double(number: int) -> int:
            return 2 * number

        @locks.attempt("hourly")
        def greet(name: str) -> str:
            return f"hello {name}"

        assert_type(double(21), int)
        assert_type(greet("you"), str | None)
    assert_type(advlock.try_xact_lock(conn, "nightly"), bool)
    advlock.xact_lock(conn, "nightly", wait=1)


async def asynchronous(dsn: str, conn: psycopg.AsyncConnection) -> None:
    """What `AsyncLocks` hands out."""
    async with advlock.AsyncLocks(dsn, liveness="30s", lease=15) as locks:
        async with locks.hold("nightly", cancel_on_lost=True) as sure:
            assert_type(sure, advlock.AsyncHeld)
            assert_type(sure.lost, bool)
        assert_type(locks, advlock.AsyncLocks)
        async with locks.hold("nightly") as held:
            assert_type(held, advlock.AsyncHeld)
            assert_type(await held.token(), int)
        async with locks.attempt("nightly") as maybe:
            assert_type(maybe, advlock.AsyncHeld | None)
        async with locks.hold_all(["a", "b"]) as several:
            assert_type(several, list[advlock.AsyncHeld])
        lock = locks.lock("inventory")
        assert_type(await lock.acquire(), bool)

        @locks.hold("nightly")
        async def double(number: int) -> int:
            return 2 * number

        assert_type(await double(21), int)
    assert_type(await advlock.try_xact_lock(conn, "nightly"), bool)


def errors(error: advlock.LockTimeout) -> tuple[str, float]:
    """The fields of an error are typed, too."""
    assert_type(advlock.Key.of("nightly").value, int)
    return error.name, error.wait


def examined(dsn: str) -> int:
    """What the doctor hands out."""
    report = advlock.doctor(dsn, ["nightly", 7, (1, 2)], keys="hashtext")
    assert_type(report, advlock.Report)
    assert_type(report.findings, tuple[advlock.Finding, ...])
    assert_type(report.facts["exclusion"], str)
    assert_type(report.worst, Literal["error", "warning"] | None)
    return report.exit_code


def scheduled(dsn: str, locks: advlock.Locks) -> None:
    """What the decorator takes, and that it leaves the function as it is."""
    scheduler = advlock.Scheduler(dsn, timezone="Europe/Berlin", max_running=4)

    @scheduler.job("H 3 * * *", overlap="queue", missed="all", grace="1h", on_crash="rerun")
    def nightly(run: advlock.CronRun) -> int:
        assert_type(run.scheduled_at, datetime)
        return run.attempt

    @advlock.Scheduler(locks).job("@every 90s", name="other", retries=2, jitter=5)
    def other() -> None: ...

    assert_type(other(), None)
    assert_type(scheduler.run(wait=10), None)
    assert_type(nightly(advlock.CronRun("a", datetime.now(UTC), "", 1, None)), int)


async def scheduled_in_tasks() -> None:
    """The same for tasks."""
    scheduler = advlock.AsyncScheduler()

    @scheduler.job("@hourly", timeout="5m", overlap="replace")
    async def hourly() -> str:
        return "done"

    assert_type(await hourly(), str)
    async with scheduler as running:
        assert_type(running, advlock.AsyncScheduler)
        assert_type(running.stop(), None)
