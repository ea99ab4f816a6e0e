"""Take a lock and release it: how many times a second, compared with the bare statements.

All contenders use one server and connections that are open before the clock starts, take one key a
task, and make sure that the server said yes, both times.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from advlock import AsyncLocks, Key, Locks
from bench.rounds import Rates, race

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from bench.rounds import Contenders

    Case = Callable[[str], AbstractContextManager[Contenders]]
    Cycle = Callable[[int], Awaitable[None]]  # one hold and release, by the task of that number

T = TypeVar("T")

OURS: Final = "advlock"
TASKS: Final = 64
POOL: Final = 10
NAMES: Final = [f"bench-{n}" for n in range(TASKS)]
KEYS: Final = [Key.of(name).value for name in NAMES]

# The placeholders are each driver's own; both prepare such statements and cache them.
TRY, UNLOCK = "SELECT pg_try_advisory_lock(%s)", "SELECT pg_advisory_unlock(%s)"
XACT_TRY = "SELECT pg_try_advisory_xact_lock(%s)"
TRY_1, UNLOCK_1 = TRY.replace("%s", "$1"), UNLOCK.replace("%s", "$1")


class Comparison(NamedTuple):
    """Advlock against one baseline.

    Attributes:
        title: What was done.

        baseline: The other contender.

        target: The ratio to reach; None where there is none.

        rates: What was measured.
    """

    title: str
    baseline: str
    target: float | None
    rates: Rates


def compare(dsn: str, pooler: str | None, *, rounds: int, seconds: float) -> Iterator[Comparison]:
    """Measure one case after the other; those behind `pooler`, if one is given."""
    cases: dict[str, tuple[Case, dict[str, float | None]]] = {
        "sync, one thread": (one_thread, {"psycopg": 1.0}),
        f"async, {TASKS} tasks": (many_tasks, {"asyncpg": 8.0, f"asyncpg pool of {POOL}": None}),
        "async, one task": (one_task, {"psycopg": None}),
    }
    if pooler is not None:
        baselines = {"psycopg, a transaction": None, "advlock, direct": None}
        cases["behind a pooler, one thread"] = partial(pooled, pooler), baselines
    for title, (case, targets) in cases.items():
        with case(dsn) as contenders:
            rates = race(contenders, rounds=rounds, seconds=seconds)
        for baseline, target in targets.items():
            yield Comparison(title, baseline, target, rates)


# -- the cases -------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_thread(dsn: str) -> Iterator[Contenders]:
    """Hold and release in one thread, against two statements of psycopg."""
    with Locks(dsn) as locks, psycopg.connect(dsn, autocommit=True) as connection:
        name, key = NAMES[0], (KEYS[0],)

        def ours(seconds: float) -> int:
            cycles, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                with locks.hold(name):
                    cycles += 1
            return cycles

        def bare(seconds: float) -> int:
            cycles, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                assert connection.execute(TRY, key).fetchone() == (True,)
                assert connection.execute(UNLOCK, key).fetchone() == (True,)
                cycles += 1
            return cycles

        yield {OURS: ours, "psycopg": bare}


@contextlib.contextmanager
def pooled(pooler: str, dsn: str) -> Iterator[Contenders]:
    """Hold and release through a pooler: against a transaction-level lock, and the direct way."""
    name, key = NAMES[0], (KEYS[0],)
    with (
        Locks(pooler) as behind,
        Locks(dsn) as before,
        psycopg.connect(pooler, autocommit=True, prepare_threshold=None) as connection,
    ):

        def ours(locks: Locks, seconds: float) -> int:
            cycles, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                with locks.hold(name):
                    cycles += 1
            return cycles

        def bare(seconds: float) -> int:
            cycles, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                with connection.transaction():
                    assert connection.execute(XACT_TRY, key).fetchone() == (True,)
                cycles += 1
            return cycles

        yield {
            OURS: partial(ours, behind),
            "psycopg, a transaction": bare,
            "advlock, direct": partial(ours, before),
        }


@contextlib.contextmanager
def many_tasks(dsn: str) -> Iterator[Contenders]:
    """Hold and release in many tasks at once, against asyncpg on one connection and on a pool."""
    with Loop() as loop:
        cycles = {
            OURS: loop.enter(advlock_cycle(dsn)),
            "asyncpg": loop.enter(asyncpg_cycle(dsn)),
            f"asyncpg pool of {POOL}": loop.enter(asyncpg_pool_cycle(dsn)),
        }
        yield {name: loop.contender(cycle, tasks=TASKS) for name, cycle in cycles.items()}


@contextlib.contextmanager
def one_task(dsn: str) -> Iterator[Contenders]:
    """Hold and release in one task, against two statements of psycopg's async connection."""
    with Loop() as loop:
        cycles = {
            OURS: loop.enter(advlock_cycle(dsn)),
            "psycopg": loop.enter(psycopg_cycle(dsn)),
        }
        yield {name: loop.contender(cycle, tasks=1) for name, cycle in cycles.items()}


# -- one cycle of each async contender -------------------------------------------------------------


@contextlib.asynccontextmanager
async def advlock_cycle(dsn: str) -> AsyncIterator[Cycle]:
    """One client for all tasks."""
    async with AsyncLocks(dsn) as locks:

        async def cycle(task: int) -> None:
            async with locks.hold(NAMES[task]):
                pass

        yield cycle


@contextlib.asynccontextmanager
async def psycopg_cycle(dsn: str) -> AsyncIterator[Cycle]:
    """One connection for one task."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def cycle(task: int) -> None:
            key = (KEYS[task],)
            assert await (await connection.execute(TRY, key)).fetchone() == (True,)
            assert await (await connection.execute(UNLOCK, key)).fetchone() == (True,)

        yield cycle


@contextlib.asynccontextmanager
async def asyncpg_cycle(dsn: str) -> AsyncIterator[Cycle]:
    """One connection for all tasks, who take turns, statement by statement, as it requires."""
    connection = await asyncpg.connect(**address(dsn))
    turn = asyncio.Lock()

    async def cycle(task: int) -> None:
        async with turn:
            assert await connection.fetchval(TRY_1, KEYS[task])
        async with turn:
            assert await connection.fetchval(UNLOCK_1, KEYS[task])

    yield cycle
    await connection.close()


@contextlib.asynccontextmanager
async def asyncpg_pool_cycle(dsn: str) -> AsyncIterator[Cycle]:
    """A pool; without the statement that it would send whenever a connection comes back."""

    async def no_reset(_: object) -> None:
        pass

    options = address(dsn) | {"min_size": POOL, "max_size": POOL, "reset": no_reset}
    async with asyncpg.create_pool(**options) as pool:

        async def cycle(task: int) -> None:
            async with pool.acquire() as connection:
                assert await connection.fetchval(TRY_1, KEYS[task])
                assert await connection.fetchval(UNLOCK_1, KEYS[task])

        yield cycle


def address(dsn: str) -> dict[str, Any]:
    """The same database as `dsn` (libpq's), in asyncpg's words."""
    known = conninfo_to_dict(dsn)
    words = {"host": "host", "port": "port", "user": "user", "password": "password"}
    words["dbname"] = "database"
    return {ours: known[libpqs] for libpqs, ours in words.items() if known.get(libpqs)}


class Loop:
    """An event loop that lives as long as a case; contenders are run on it from outside."""

    def __enter__(self) -> Self:
        """Start it."""
        self._runner = asyncio.Runner()
        self._opened: list[AbstractAsyncContextManager[Any]] = []
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close what was entered, and the loop."""
        with self._runner:
            for opened in reversed(self._opened):
                self._runner.run(_coroutine(opened.__aexit__(None, None, None)))

    def enter(self, manager: AbstractAsyncContextManager[Cycle]) -> Cycle:
        """Enter `manager`; it is left with the loop."""
        cycle = self._runner.run(_coroutine(manager.__aenter__()))
        self._opened.append(manager)
        return cycle

    def contender(self, cycle: Cycle, *, tasks: int) -> Callable[[float], int]:
        """Run `cycle` in so many tasks at once."""

        async def loop(task: int, until: float) -> int:
            cycles = 0
            while time.perf_counter() < until:
                await cycle(task)
                cycles += 1
            return cycles

        async def everybody(seconds: float) -> int:
            until = time.perf_counter() + seconds
            return sum(await asyncio.gather(*(loop(task, until) for task in range(tasks))))

        return lambda seconds: self._runner.run(everybody(seconds))


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
