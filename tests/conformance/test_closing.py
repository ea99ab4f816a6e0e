"""close() ends what a client has begun, tells who still holds, and never waits for long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from routes import not_pinned
from waiting import aeventually

from advlock import AsyncLocks, LockError, LockLost, Locks

from .helpers import holding, is_waiting, no_locks, one, soon, waiting
from .test_liveness import AT_ONCE, LIVENESS, silenced
from .worlds import awaited

if TYPE_CHECKING:
    from .helpers import Admin, Sessions
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
LONGEST_CLOSE = 2.5


# -- who still waits -------------------------------------------------------------------------------


class Gate:
    """Keeps new connections from being used, in either world, until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        connect, aconnect = psycopg.Connection.connect, psycopg.AsyncConnection.connect

        def gated(*args: Any, **kwargs: Any) -> Any:
            connection = connect(*args, **kwargs)
            self.reached.set()
            self._open.wait()
            return connection

        async def agated(*args: Any, **kwargs: Any) -> Any:
            connection = await aconnect(*args, **kwargs)
            self.reached.set()
            try:
                await aeventually(self._open.is_set)
            except asyncio.CancelledError:
                await connection.close()
                raise
            return connection

        patch.setattr(psycopg.Connection, "connect", gated)
        patch.setattr(psycopg.AsyncConnection, "connect", agated)

    def open(self) -> None:
        """Let those who wait at it through, and all others."""
        self._open.set()


@not_pinned("nobody connects there in order to wait")
async def test_a_waiter_that_connects(
    world: World,
    dsn: str,
    name: str,
    rival: Admin,
    admin: Admin,
    application: str,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """close() while a session to wait on is being made: hold() ends, nothing waits any more."""
    client = world.client(dsn, application_name=application)
    actor = world.actor()
    await actor.enter(warm := client.hold(f"{name}-warm"))
    await actor.exit(warm)
    one(rival, TAKE, name)
    gate = Gate(monkeypatch)
    try:
        pending = actor.entering(client.hold(name))
        await aeventually(gate.reached.is_set)
        closing = world.actor().start(client.close)
        await aeventually(lambda: client._closed)
    finally:
        gate.open()
    with pytest.raises(LockError, match="closed"):
        await soon(pending)
    await soon(closing)
    await aeventually(lambda: not sessions(application))
    assert not waiting(admin, name)


# -- who still holds -------------------------------------------------------------------------------


async def test_who_still_holds_is_told(
    world: World, dsn: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """on_lost is called for what close() takes away, once, and the log does not call it lost."""
    client, actor = world.client(dsn), world.actor()
    contexts = [client.hold(f"{name}-{number}") for number in range(3)]
    helds = [await actor.enter(context) for context in contexts]
    told: list[Any] = []
    for held in helds:
        held.on_lost(told.append)
    await actor.exit(contexts[0])
    await world.actor().call(client.close)
    await aeventually(lambda: len(told) >= 2, message="two callbacks")
    for context in contexts[1:]:
        with pytest.raises(LockLost):
            await actor.exit(context)
    assert sorted(map(id, told)) == sorted(map(id, helds[1:]))
    assert f"{name}-1' was lost" not in caplog.text


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_a_body_with_cancel_on_lost(world: World, dsn: str, name: str) -> None:
    """It does not go on without its lock when somebody closes the client."""
    client, inside = world.client(dsn), asyncio.Event()

    async def body() -> None:
        async with client.hold(name, cancel_on_lost=True):
            inside.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(body())
    await asyncio.wait_for(inside.wait(), 5)
    await client.close()
    with pytest.raises(LockLost) as caught:
        await soon(running)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


# -- a server that is silent -----------------------------------------------------------------------


@not_pinned("a client has only one session there")
async def test_closing_several_silent_sessions(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Four sessions that hold, and a server that does not answer: they are all waited for once."""
    client, actors = world.client(dsn, max_connections=4), world.actors(4)
    names = [f"{name}-{number}" for number in range(4)]
    for each in names[1:]:
        one(rival, TAKE, each)
    contexts = [client.hold(each) for each in names]
    pending = [a.entering(c) for a, c in zip(actors, contexts, strict=True)]
    await is_waiting(admin, *names[1:], count=3)
    rival.execute("SELECT pg_advisory_unlock_all()")
    for task in pending:
        await soon(task)
    pids = holding(admin, *names)
    assert len(set(pids)) == 4
    with silenced(*pids):
        start = time.monotonic()
        await soon(world.actor().start(client.close), within=8)
        took = time.monotonic() - start
    for actor, context in zip(actors, contexts, strict=True):
        with pytest.raises(LockError):
            await actor.exit(context)
    await no_locks(admin)
    assert took < LONGEST_CLOSE


# -- dropped ---------------------------------------------------------------------------------------


async def dropped(world: World, dsn: str, name: str, *, cyclic: bool) -> Any:
    """Hold with a client that only the returned list refers to."""
    client = Locks(dsn, liveness=LIVENESS) if world.is_sync else AsyncLocks(dsn, liveness=LIVENESS)
    context = client.hold(name)
    held = await awaited(context.__enter__() if world.is_sync else context.__aenter__())
    everything: list[Any] = [client, context, held]
    if cyclic:
        everything.append(everything)
    return everything


async def is_asking(everything: list[Any]) -> None:
    """Wait until a heartbeat is under way."""
    session = everything[2]._ticket.session
    flag = "listening" if hasattr(session, "listening") else "_beating"
    await aeventually(lambda: getattr(session, flag))


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.filterwarnings("ignore:.*was never (released|closed):ResourceWarning")
async def test_a_client_that_is_dropped(
    world: World, dsn: str, name: str, admin: Admin, cyclic: bool, silent: bool
) -> None:
    """It waits for nobody, not even for the answer to a heartbeat, and frees its locks."""
    kept = await dropped(world, dsn, name, cyclic=cyclic)
    pids = holding(admin, name)
    with silenced(*(pids if silent else ())):
        if silent:
            await is_asking(kept)
        gc.collect()  # what others left
        start = time.monotonic()
        gc.collect()  # how long that takes in a process that has imported much
        begun = time.monotonic()
        del kept
        gc.collect()
        took = (time.monotonic() - begun) - (begun - start)
    await aeventually(lambda: not holding(admin, name))
    assert took < 3 * AT_ONCE  # a third of it, but machines are busy


# -- a close, and a loop, that are cut short -------------------------------------------------------


async def test_a_close_that_is_cancelled_closes_all_the_same(dsn: str, name: str) -> None:
    """Holders are told, and those who wait are turned away: what was freed is nobody's any more."""
    locks = AsyncLocks(dsn)
    held = await locks.hold(name).__aenter__()
    told: list[Any] = []
    held.on_lost(told.append)
    waiting_too = asyncio.create_task(awaited(locks.hold(name).__aenter__()))
    await asyncio.sleep(0)
    closing = asyncio.create_task(locks.close())
    for _ in range(2):
        await asyncio.sleep(0)
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    assert held.lost
    await aeventually(lambda: told == [held])
    with pytest.raises(LockError):
        await soon(waiting_too)


@pytest.mark.filterwarnings("ignore:.*was never", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_outlives_its_loop(dsn: str, name: str) -> None:
    """On a new loop it begins anew, whoever held or waited on the one that was closed."""
    locks = AsyncLocks(dsn)
    left = []

    async def leave_everything() -> None:
        await locks.hold(name).__aenter__()
        left.append(asyncio.ensure_future(awaited(locks.hold(name).__aenter__())))
        await asyncio.sleep(0.05)

    async def begin_anew() -> None:
        async with locks.hold(name, wait=5) as held:
            assert not held.lost
        await locks.close()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_everything())
    loop.close()
    asyncio.run(begin_anew())
    left.clear()
    gc.collect()  # the hold and the task that the old loop has left warn here, as they should
