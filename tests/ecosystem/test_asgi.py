"""`advlock.asgi` in Starlette, in the event loop of a test: startups, leaders, shutdowns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict
from starlette.applications import Starlette
from waiting import aeventually, eventually

from advlock import AsyncLocks
from advlock._asgi import _candidate
from advlock.asgi import lifespan, run_once, while_leader
from advlock.errors import ConfigError

from .asgi_server import Serving, StartupFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from servers import Server

    from advlock import AsyncTerm
    from advlock.asgi import Lifespan, Part

Admin = psycopg.Connection[Any]
_END_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_HELD = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def to_its_end(main: Coroutine[Any, Any, None]) -> None:
    """Run a test, which must not hang."""
    asyncio.run(asyncio.wait_for(main, 40))


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"asgi-{secrets.token_hex(4)}"


@pytest.fixture
def worker(dsn: str) -> Callable[..., Serving]:
    """Make what each worker has: an application, served in this event loop."""

    def make(*parts: Part | Lifespan, at: str = dsn) -> Serving:
        return Serving(Starlette(lifespan=lifespan(*parts, client=lambda: AsyncLocks(at))))

    return make


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged: the events."""
    caplog.set_level(logging.INFO, "advlock")
    return lambda: [getattr(record, "event", "") for record in caplog.records]


class Work:
    """A task of a leader, which tells when it begins and how it ends."""

    def __init__(self) -> None:
        self.began = 0
        self.ended: list[str] = []

    async def __call__(self, term: AsyncTerm) -> None:
        """Work until it is cancelled."""
        assert not term.lost
        self.began += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("told" if term.lost else "not told")
            raise

    @property
    def running(self) -> int:
        """How often it runs just now."""
        return self.began - len(self.ended)


# -- lifespans -------------------------------------------------------------------------------------


def test_a_user_s_own_lifespans_compose(worker: Callable[..., Serving], name: str) -> None:
    """Parts begin in order, end in the opposite one; the client is there meanwhile, then closed."""
    told: list[str] = []

    @contextlib.asynccontextmanager
    async def pool(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        told.append("pool opened")
        async with app.state.advlock.attempt(name) as held:
            assert held
        yield {"pool": "a pool"}
        told.append("pool closed")

    @contextlib.asynccontextmanager
    async def plain(_app: Starlette) -> AsyncIterator[None]:
        told.append("plain opened")
        yield
        told.append("plain closed")

    async def main() -> None:
        seed = run_once(name, partial(told.append, "seeded"))
        async with worker(pool, seed, plain) as serving:
            assert serving.state["pool"] == "a pool"
            client = serving.state["advlock"]
            async with client.hold(name, wait=1):
                pass
        assert client._closed

    to_its_end(main())
    assert told == ["pool opened", "seeded", "plain opened", "plain closed", "pool closed"]


def test_it_may_be_entered_again(dsn: str, name: str) -> None:
    """Tests start one application many times, each in a loop of its own: a client each."""
    work = Work()
    part = while_leader(name, work)
    app = Starlette(lifespan=lifespan(part, client=lambda: AsyncLocks(dsn)))

    async def main() -> None:
        async with Serving(app):
            await aeventually(lambda: work.running)

    for _ in range(2):
        to_its_end(main())
    assert work.ended == ["told"] * 2


async def no_argument() -> None:
    """Take nothing."""


async def one_argument(_term: object) -> None:
    """Take one."""


async def generator(_term: object) -> AsyncIterator[None]:
    """Be none of these."""
    yield


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: while_leader("x", no_argument), r"async def no_argument\(term\)"),
        (lambda: while_leader("x", generator), "generator"),
        (lambda: while_leader("x", one_argument, stop=None), "stop"),
        (lambda: while_leader("x", no_argument()), "without calling it"),
        (lambda: run_once("x", one_argument), r"def one_argument\(\)"),
        (lambda: run_once("x", no_argument, per="0s"), "per must be more than 0"),
        (lambda: lifespan(*[while_leader("x", one_argument)] * 2), "twice"),
        (lambda: lifespan(generator), "asynccontextmanager"),
        (lambda: lifespan("seed"), "no part"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_mistakes_are_found_at_import(make: Callable[[], object], says: str) -> None:
    """Not in the middle of a night, when it leads."""
    with pytest.raises(ConfigError, match=says):
        make()


# -- once ------------------------------------------------------------------------------------------


def test_all_workers_wait_until_it_is_done(worker: Callable[..., Serving], name: str) -> None:
    """One of four seeds, in a thread; nobody serves before. Without advlock it is done four times.

    The control is `run_once` under four names.
    """
    done: list[bool] = []
    served: list[int] = []

    def seed() -> None:
        time.sleep(0.1)
        done.append(threading.current_thread() is threading.main_thread())

    async def start(name: str) -> None:
        async with worker(run_once(name, seed)):
            served.append(len(done))

    async def main() -> None:
        await asyncio.gather(*(start(name) for _ in range(4)))
        assert (done, served) == ([False], [1] * 4)
        await asyncio.gather(*(start(f"{name}-{n}") for n in range(4)))
        assert len(done) == 5

    to_its_end(main())


def test_a_failure_is_no_startup(worker: Callable[..., Serving], name: str) -> None:
    """Whoever starts next does it; and one that waits for longer than `wait` does not start."""
    done: list[int] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    async def seed(how: str) -> None:
        if how == "failing":
            raise RuntimeError("no such file")
        began.set()
        await go_on.wait()
        done.append(1)

    async def main() -> None:
        with pytest.raises(StartupFailed, match="no such file"):
            async with worker(run_once(name, partial(seed, "failing"))):
                pass
        again = run_once(name, partial(seed, "well"))
        first = asyncio.create_task(_through(worker(again)))
        await aeventually(began.is_set)
        with pytest.raises(StartupFailed, match="LockTimeout"):
            async with worker(run_once(name, partial(seed, "well"), wait=0.05)):
                pass
        go_on.set()
        await first
        await _through(worker(again))
        assert done == [1]

    to_its_end(main())


def test_who_is_cancelled_keeps_the_lock_while_its_thread_works(
    worker: Callable[..., Serving], admin: Admin, name: str
) -> None:
    """A server with a limit for the startup, as hypercorn; nobody else does it meanwhile."""
    began, go_on = threading.Event(), threading.Event()

    def seed() -> None:
        began.set()
        go_on.wait(20)

    async def main() -> None:
        serving = worker(run_once(name, seed))
        starting = asyncio.create_task(_through(serving))
        await aeventually(began.is_set)
        for _ in range(2):
            serving._task.cancel()
            await asyncio.sleep(0.05)
        held = admin.execute(_HELD).rowcount
        go_on.set()
        assert held == 1
        await asyncio.wait([serving._task])
        await aeventually(lambda: not admin.execute(_HELD).rowcount)
        starting.cancel()

    to_its_end(main())


async def _through(serving: Serving) -> None:
    async with serving:
        pass


# -- the leader ------------------------------------------------------------------------------------


def test_one_worker_leads_and_the_next_takes_over(
    worker: Callable[..., Serving], admin: Admin, name: str
) -> None:
    """At shutdown the task is cancelled and awaited before another one begins; a loss is seen."""
    works = [Work() for _ in range(3)]

    def running() -> list[int]:
        return [n for n, work in enumerate(works) if work.running]

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for work in works[1:]:
                await stack.enter_async_context(worker(while_leader(name, work)))
            await aeventually(running)
            async with worker(while_leader(name, works[0])):
                (first,) = running()
                admin.execute(_END_HOLDERS)
                await aeventually(lambda: works[first].ended)
                await aeventually(running)
                assert len(running()) == 1
            await aeventually(running)
            assert running() in ([1], [2])
        assert not running()

    to_its_end(main())
    assert {how for work in works for how in work.ended} == {"told"}


def test_a_crash_is_told_and_others_lead(
    worker: Callable[..., Serving],
    name: str,
    told: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker that crashed campaigns again after a pause, which doubles."""
    monkeypatch.setattr(_candidate, "FIRST", 0.05)
    work = Work()
    crashes: list[float] = []

    async def crash(_term: AsyncTerm) -> None:
        crashes.append(time.monotonic())
        if len(crashes) == 2:  # an inner task's cancellation is a crash, too
            raise asyncio.CancelledError
        raise ZeroDivisionError

    async def main() -> None:
        async with worker(while_leader(name, crash, pause=0)):
            await aeventually(lambda: len(crashes) == 4)
            async with worker(while_leader(name, work)):
                await aeventually(lambda: work.running)
        assert not work.running

    to_its_end(main())
    assert told().count("leader.task_failed") == len(crashes)
    gaps = [later - sooner for sooner, later in pairwise(crashes)]
    assert gaps[0] > 0.03
    assert gaps[1] > 0.07
    assert gaps[2] > 0.15


def test_a_task_that_returns_is_called_again(worker: Callable[..., Serving], name: str) -> None:
    """After `pause`, here or elsewhere; never twice at once."""
    calls: list[int] = []
    inside: list[int] = []

    async def tick(_term: AsyncTerm, me: int) -> None:
        inside.append(me)
        assert len(inside) == 1
        await asyncio.sleep(0.01)
        inside.remove(me)
        calls.append(me)

    async def main() -> None:
        async with (
            worker(while_leader(name, partial(tick, me=1), pause=0.05)),
            worker(while_leader(name, partial(tick, me=2), pause=0.05)),
        ):
            await aeventually(lambda: len(calls) > 5 and len(set(calls)) == 2)

    to_its_end(main())


def test_a_task_that_does_not_end_keeps_the_lead(
    worker: Callable[..., Serving], admin: Admin, name: str, told: Callable[[], list[str]]
) -> None:
    """The shutdown goes on after `stop`; as long as the task works, nobody else leads."""
    release = asyncio.Event()
    heard: list[str] = []

    async def stubborn(_term: AsyncTerm) -> None:
        heard.append("began")
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                heard.append("cancelled")

    async def main() -> None:
        async with worker(while_leader(name, stubborn, stop=0.2)) as serving:
            await aeventually(lambda: heard)
            began = time.monotonic()
        assert 0.15 < time.monotonic() - began < 5
        assert told()[-1] == "leader.task_stuck"
        assert admin.execute(_HELD).rowcount == 1
        release.set()
        await aeventually(lambda: not admin.execute(_HELD).rowcount)
        assert heard == ["began", "cancelled"]
        await serving.state["advlock"].close()

    to_its_end(main())


def test_the_times_of_two_tasks_do_not_add_up(worker: Callable[..., Serving], name: str) -> None:
    """Both are cancelled at once, and so have the same `stop` to end in."""
    release = asyncio.Event()
    began: list[int] = []

    async def stubborn(_term: AsyncTerm) -> None:
        began.append(1)
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async def main() -> None:
        parts = [while_leader(f"{name}-{n}", stubborn, stop=2.0) for n in range(3)]
        async with worker(*parts) as serving:
            await aeventually(lambda: len(began) == 3)
            ends = time.monotonic()
        took = time.monotonic() - ends
        release.set()
        assert 1.9 < took < 3.9
        await serving.state["advlock"].close()

    to_its_end(main())


@pytest.fixture
def address(server: Server) -> Iterator[Any]:
    """A PgBouncer in transaction mode, before the server: something that can be away."""
    with bouncer(server, "transaction") as made:
        yield made


def test_the_startup_does_not_wait_for_the_database(
    worker: Callable[..., Serving],
    address: Any,
    database: str,
    name: str,
    told: Callable[[], list[str]],
) -> None:
    """`while_leader` leads when it is there, and again after an outage; `run_once` fails.

    Behind a pooler in transaction mode.
    """
    dbname = str(conninfo_to_dict(database)["dbname"])
    dsn = address.dsn(dbname)
    work = Work()
    address.kill()

    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(StartupFailed, match="DatabaseUnavailable"):
            await _through(worker(run_once(name, no_argument), at=dsn))
        async with worker(while_leader(name, work), at=dsn):
            await aeventually(lambda: "leader.unavailable" in told())
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.3)
            assert told().count("leader.unavailable") == 1
            for times in (1, 2):
                await asyncio.to_thread(address.start)
                await aeventually(lambda times=times: work.began == times, within=20)
                await asyncio.to_thread(address.kill)
                await aeventually(lambda: not work.running)
        assert work.ended == ["told"] * 2

    to_its_end(main())
    address.start()
    eventually(lambda: not address.pinned())
