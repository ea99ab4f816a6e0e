"""The library as users type it. Not run: `python3 dev.py check` has mypy judge it, strictly."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, assert_type

from psycopg.rows import class_row

import advlock
from advlock import inspect

if TYPE_CHECKING:
    import psycopg


@dataclass
class Job:
    """A row."""

    id: int


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
        limit = locks.rate_limit("stripe", 100, per="60s", smooth=True)
        assert_type(locks.rate_limit("stripe", "100/minute"), advlock.RateLimit)
        assert_type(limit.acquire(2, wait=1), advlock.Permit)
        assert_type(limit.try_acquire().retry_after, float)
        assert_type(limit.stats().remaining, int)
        assert_type(limit(len)(()), int)
        with limit as entered:
            assert_type(entered, advlock.RateLimit)
        assert_type(locks.holders("nightly"), list[advlock.Holder])
        leader = locks.leader("scheduler", pause="1s")
        assert_type(leader, advlock.Leader)
        assert_type(leader.current(), advlock.Holder | None)
        for term in leader.terms():
            assert_type(term, advlock.Term)
            assert_type(term.token(), int)
            term.leader.resign()
        with leader as same, same.term(wait=5) as one:
            assert_type(one, advlock.Term)

        @locks.hold("nightly")
        def double(number: int) -> int:
            return 2 * number

        @locks.attempt("hourly")
        def greet(name: str) -> str:
            return f"hello {name}"

        assert_type(double(21), int)
        assert_type(greet("you"), str | None)
    registry = advlock.Registry.load("advlock.toml")
    assert_type(registry, advlock.Registry)
    advlock.Locks(dsn, registry=registry, strict=True).close()
    advlock.Locks(dsn, registry="advlock.toml").close()
    assert_type(advlock.try_xact_lock(conn, "nightly"), bool)
    advlock.xact_lock(conn, "nightly", wait=1)
    assert_type(advlock.claim(conn, "job", where="n < %s", params=[3]), list[dict[str, Any]])
    assert_type(advlock.claim(conn, ("app", "job"), row_factory=class_row(Job)), list[Job])


def several(locks: advlock.Locks) -> None:
    """What there may be several of."""
    with locks.semaphore("gpu", slots=4).hold(wait="30s") as slot:
        assert_type(slot, advlock.Slot)
        assert_type(slot.slot, int)
    with locks.semaphore("gpu", 4).attempt() as perhaps:
        assert_type(perhaps, advlock.Slot | None)
    assert_type(locks.semaphore("gpu", 4).acquire(timeout=1), bool)
    with locks.hold_all(["a", 1], shared=["b"], wait=1) as several:
        assert_type(several, list[advlock.Held])


async def asynchronous(dsn: str, conn: psycopg.AsyncConnection) -> None:
    """What `AsyncLocks` hands out."""
    async with advlock.AsyncLocks(dsn, liveness="30s", lease=15, registry=True) as locks:
        async with locks.hold("nightly", cancel_on_lost=True) as sure:
            assert_type(sure, advlock.AsyncHeld)
            assert_type(sure.lost, bool)
        assert_type(locks, advlock.AsyncLocks)
        async with locks.hold("nightly") as held:
            assert_type(held, advlock.AsyncHeld)
            assert_type(await held.token(), int)
        leader = locks.leader("scheduler")
        assert_type(leader, advlock.AsyncLeader)
        assert_type(await leader.current(), advlock.Holder | None)
        async for term in leader.terms():
            async with term.cancel_on_lost() as guarded:
                assert_type(guarded, advlock.AsyncTerm)
        async with leader.term(wait="5s", cancel_on_lost=True) as one:
            assert_type(one, advlock.AsyncTerm)
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
        async with locks.semaphore("gpu", slots=4).attempt() as slot:
            assert_type(slot, advlock.AsyncSlot | None)
        assert_type(await locks.semaphore("gpu", 4).acquire(), bool)
    assert_type(await advlock.try_xact_lock(conn, "nightly"), bool)
    assert_type(await advlock.claim(conn, "job", order_by=["id"]), list[dict[str, Any]])
    assert_type(await advlock.claim(conn, "job", row_factory=class_row(Job)), list[Job])


def looked_at(dsn: str, locks: advlock.Locks) -> str | None:
    """What a look hands out."""
    seen = inspect.look(dsn, ["nightly", 42, (1, 2)], registry=True, all_databases=True)
    assert_type(seen, inspect.Snapshot)
    assert_type(locks.inspect(), inspect.Snapshot)
    assert_type(locks.inspect(["nightly"], all_databases=True).at, datetime)
    for tree in seen.trees:
        assert_type(tree, inspect.LockTree)
        assert_type(tree.key, advlock.Key | None)
        assert_type(tree.holders, tuple[advlock.Holder, ...])
        assert_type(tree.waiters, tuple[inspect.Waiter, ...])
        for waiter in tree.waiters:
            assert_type(waiter.since, datetime | None)
            assert_type(waiter.blocked_by, tuple[int, ...])
            return waiter.state
    return None


async def looked_at_in_tasks(locks: advlock.AsyncLocks) -> None:
    """The same for tasks."""
    assert_type(await locks.inspect(["nightly"]), inspect.Snapshot)


def errors(error: advlock.LockTimeout) -> tuple[str, float]:
    """The fields of an error are typed, too."""
    assert_type(advlock.KeyCollision().names, tuple[str, ...])
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


def once(locks: advlock.Locks, conn: psycopg.Connection) -> None:
    """What is done once, or was."""
    with locks.once("seed", per="24h", wait=3, connection=conn) as todo:
        assert_type(todo, advlock.Todo | advlock.Done)
        if todo:
            assert_type(todo.token(), int)
        else:
            assert_type(todo.done_at, datetime)

    @locks.once("count")
    def count(n: int) -> int:
        return n

    assert_type(count(1), int | None)


async def aonce(locks: advlock.AsyncLocks, conn: psycopg.AsyncConnection) -> None:
    """The same for tasks."""
    async with locks.once("seed", connection=conn) as todo:
        assert_type(todo, advlock.AsyncTodo | advlock.Done)
        if todo:
            assert_type(await todo.token(), int)

    @locks.once("count")
    async def count(n: int) -> int:
        return n

    assert_type(await count(1), int | None)
