"""A holder knows that it lost the lock before anybody else can have it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from routes import not_pinned, not_session
from waiting import aeventually

from advlock import Key, LockLost, Locks, _asession, _session, _sql, _watch
from advlock._acore import AsyncCore
from advlock._clock import now
from advlock._liveness import Bounds, Pulse

from .helpers import contends, holding, is_waiting, one, soon, terminate, turns_red

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    from advlock._ledger import Ticket

    from .worlds import World

    Admin = Connection[Any]
    Patch = pytest.MonkeyPatch

LIVENESS = 3.0
BOUNDS = Bounds(LIVENESS)
LATE = 1.0  # seconds that a busy machine may be late
AT_ONCE = 0.5
# A check that fails, as that of a control should, leaves a hold behind.
ABANDONED = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")


@contextlib.contextmanager
def silenced(*pids: int) -> Iterator[None]:
    """Stop server processes: they say nothing and keep everything, as behind a dead network."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.fixture
def off(monkeypatch: Patch) -> Patch:
    """What switches a protection off; on again after the test."""
    return monkeypatch


# -- silence ---------------------------------------------------------------------------------------


async def check_silence(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Freeze the holder's session: told after the trust, and not much later."""
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    context, told = client.hold(name), []
    held = await actor.enter(context)
    held.on_lost(lambda one: told.append((one, now())))
    with silenced(*holding(admin, name)):
        confirmed = held._ticket.session.pulse.confirmed
        await aeventually(lambda: told, within=BOUNDS.trust + LATE)
        assert held.lost
    ((lost, at),) = told
    assert lost is held
    assert BOUNDS.trust <= at - confirmed < BOUNDS.trust + LATE
    with pytest.raises(LockLost, match=r"no word from the server for 1\.2 s"):
        held.check()
    with pytest.raises(LockLost):
        await actor.exit(context)
    again = client.hold(name, wait=5)
    await actor.enter(again)
    await actor.exit(again)


async def test_a_silent_server_is_not_believed(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Nobody looks and nobody asks: the holder is told in time, once, and can start anew."""
    await check_silence(world, dsn, name, admin)


@ABANDONED
async def test_without_the_deadline_silence_is_believed_for_ever(
    world: World, dsn: str, name: str, admin: Admin, off: Patch
) -> None:
    """The control: when trust has no end, nothing is noticed."""
    off.setattr(Pulse, "lapsed", lambda *_: False)
    await turns_red(check_silence(world, dsn, name, admin))


async def test_a_look_in_the_midst_of_silence_is_right(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """`lost` turns true with the clock, not with some thread that has to come by."""
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    session = held._ticket.session
    with silenced(*holding(admin, name)):
        while now() - session.pulse.confirmed < BOUNDS.trust - 0.02:
            assert not held.lost or now() - session.pulse.confirmed >= BOUNDS.trust
            time.sleep(0.001)  # noqa: ASYNC251 - nothing else may run
        while now() - session.pulse.confirmed < BOUNDS.trust:
            pass
        assert held.lost
    assert held.lost, "for good"
    with pytest.raises(LockLost):
        await actor.exit(context)


async def test_a_request_under_way_is_no_excuse(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Somebody else's request hangs on the session: the holder is told as early as ever."""
    client = world.client(dsn, liveness=LIVENESS)
    first, second = world.actors(2)
    context, told = client.hold(name), []
    held = await first.enter(context)
    held.on_lost(lambda _: told.append(now()))
    with silenced(*holding(admin, name)):
        confirmed = held._ticket.session.pulse.confirmed
        pending = second.start(client.holders, name)
        await aeventually(lambda: told, within=BOUNDS.trust + LATE)
        assert told[0] - confirmed < BOUNDS.trust + LATE
    await asyncio.wait([pending], timeout=5)
    with pytest.raises(LockLost):
        await first.exit(context)


# -- heartbeats ------------------------------------------------------------------------------------


async def check_idle_hold(world: World, dsn: str, name: str) -> None:
    """Hold for several times the trust without a call."""
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    pause = time.sleep if world.is_sync else asyncio.sleep
    await actor.call(pause, 2 * BOUNDS.trust)
    assert not held.lost
    await actor.exit(context)


async def test_heartbeats_need_no_call_of_the_holder(world: World, dsn: str, name: str) -> None:
    """A thread that sleeps, a task that waits: the lock is kept alive for them."""
    await check_idle_hold(world, dsn, name)


async def test_without_heartbeats_trust_ends(world: World, dsn: str, name: str, off: Patch) -> None:
    """The control: it is the heartbeats that keep it."""
    off.setattr(_session.Session, "_beat", lambda _: None)
    off.setattr(_asession.AsyncSession, "_beat", lambda _: None)
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    context = client.hold(Key.of(name).value)  # without a name there is none to record
    held = await actor.enter(context)
    await aeventually(lambda: held.lost, within=BOUNDS.trust + LATE)
    with pytest.raises(LockLost):
        await actor.exit(context)


async def test_what_was_waited_for_is_kept_alive_too(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A grant after a wait longer than the trust is believed, and has heartbeats of its own."""
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    one(rival, "SELECT pg_advisory_lock(hashtextextended(%s, 0))", name)
    context = client.hold(name)
    pending = actor.entering(context)
    await contends(client, admin, name)
    await world.pause(1.5 * BOUNDS.trust)
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    held = await soon(pending)
    assert not held.lost
    await world.pause(1.5 * BOUNDS.trust)
    assert not held.lost
    await actor.exit(context)


@not_pinned("it polls there: no session waits, and is booked later")
@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_a_timer_that_fires_just_before_the_booking(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin, off: Patch
) -> None:
    """A session that waited carries nothing yet when it is looked at; it has heartbeats after."""
    book = AsyncCore._book

    def late(client: AsyncCore, ticket: Ticket, session: _asession.AsyncSession) -> None:
        if session._timer is not None:
            session._timer.cancel()
        session._look()
        book(client, ticket, session)

    off.setattr(AsyncCore, "_book", late)
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    one(rival, "SELECT pg_advisory_lock(hashtextextended(%s, 0))", name)
    context = client.hold(name)
    pending = actor.entering(context)
    await is_waiting(admin, name)
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    held = await soon(pending)
    await world.pause(1.5 * BOUNDS.trust)
    assert not held.lost
    await actor.exit(context)


@not_session("every session is a lease there, and is kept by heartbeats")
async def test_an_idle_client_is_silent(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A client without locks sends nothing; one with a lock shows as idle, with a heartbeat."""
    client, actor = world.client(dsn, liveness=LIVENESS), world.actor()
    context = client.hold(Key.of(name).value)  # without a name there is none to record
    await actor.enter(context)
    (pid,) = holding(admin, name)
    last = "SELECT state_change FROM pg_stat_activity WHERE pid = %s"
    entered = one(admin, last, pid)
    idle = ("idle", _sql.HEARTBEAT)
    if client._pinned:
        idle = ("idle in transaction", _sql.ROLLBACK_TO_SAVEPOINT)
    seen = "SELECT state, query, state_change > %s FROM pg_stat_activity WHERE pid = %s"
    await aeventually(lambda: admin.execute(seen, (entered, pid)).fetchone() == (*idle, True))
    await actor.exit(context)
    before = one(admin, last, pid)
    await world.pause(3 * BOUNDS.heartbeat)
    assert one(admin, last, pid) == before


# -- a session that breaks -------------------------------------------------------------------------


async def check_told_at_once(
    world: World, dsn: str, name: str, admin: Admin, **settings: Any
) -> None:
    """End the session of a holder that does nothing."""
    client, actor = world.client(dsn, **settings), world.actor()
    context, told = client.hold(name), []
    held = await actor.enter(context)
    held.on_lost(told.append)
    terminate(admin, *holding(admin, name))
    await aeventually(lambda: told == [held], within=3.0)
    with pytest.raises(LockLost, match=r"terminat|closed"):
        await actor.exit(context)


async def test_a_broken_session_is_noticed_at_once(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Nobody looks: the operating system tells us, long before the next heartbeat."""
    for _ in range(3):
        await check_told_at_once(world, dsn, name, admin, liveness=60.0)  # no heartbeat helps


@ABANDONED
@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_without_the_watcher_it_is_noticed_late(
    world: World, dsn: str, name: str, admin: Admin, off: Patch
) -> None:
    """The control: nobody listens to the socket of an idle session, until its next heartbeat."""
    off.setattr(_watch.Watcher, "_listen", lambda *_: None)

    async def check() -> None:
        for _ in range(3):
            await check_told_at_once(world, dsn, name, admin, liveness=60.0)

    await turns_red(check())


@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_a_log_that_blocks_holds_up_no_heartbeat(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A handler waits, at DEBUG, over the end of a session: another client's lock is kept alive."""
    broken, other = world.client(dsn), world.client(dsn, liveness=LIVENESS)
    first, second = world.actors(2)
    context, bystander = broken.hold(name), other.hold(f"{name}-other")
    await first.enter(context)
    held = await second.enter(bystander)
    with blocked_log() as begun:
        terminate(admin, *holding(admin, name))
        await aeventually(begun.is_set)
        await world.pause(1.5 * BOUNDS.trust)
        assert not held.lost
    with pytest.raises(LockLost):
        await first.exit(context)
    await second.exit(bystander)


@contextlib.contextmanager
def blocked_log() -> Iterator[threading.Event]:
    """Let whoever logs wait until the block ends; what is yielded is set when somebody does."""
    begun, over, log = threading.Event(), threading.Event(), logging.getLogger("advlock")

    class Handler(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            begun.set()
            over.wait(10)

    handler, level = Handler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield begun
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        over.set()


@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_one_thread_watches_all(world: World, dsn: str) -> None:
    """Ten clients with a lock each, and one thread more at the most."""
    actor, before = world.actor(), threads()
    contexts = [world.client(dsn).hold((7, n)) for n in range(10)]
    for context in contexts:
        await actor.enter(context)
    await aeventually(lambda: threads() <= before + 1)
    for context in contexts:
        await actor.exit(context)


def threads() -> int:
    """How many this process has, as the kernel counts them."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


# -- a loop that is blocked ------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_a_short_block_of_the_loop_is_made_up_for(world: World, dsn: str, name: str) -> None:
    """Half of the trust without a heartbeat, and then the next one."""
    async with world.client(dsn, liveness=LIVENESS).hold(name) as held:
        for _ in range(3):
            block(BOUNDS.trust / 2)
            assert not held.lost
            await asyncio.sleep(0.05)
            assert not held.lost


@pytest.mark.parametrize("world", ["async"], indirect=True)
@pytest.mark.parametrize("looks", [True, False])
async def test_a_blocked_loop_is_detected(
    world: World, dsn: str, name: str, looks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """No heartbeat can be sent: the code that blocks is told the truth, and so is the log."""
    context = world.client(dsn, liveness=LIVENESS).hold(name)
    with caplog.at_level(logging.WARNING, "advlock"):
        held = await context.__aenter__()
        await asyncio.sleep(BOUNDS.heartbeat / 2)
        block(BOUNDS.trust + 2 * BOUNDS.heartbeat)
        assert not looks or held.lost
        await asyncio.sleep(0.01)
        assert held.lost
    with pytest.raises(LockLost, match=r"no word .* blocked for \d\.\d s"):
        await context.__aexit__(None, None, None)
    assert "the event loop was blocked for" in caplog.text


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_another_thread_may_ask(world: World, dsn: str, name: str) -> None:
    """Work in an executor looks at `lost` from there, also while the loop is blocked."""
    context = world.client(dsn, liveness=LIVENESS).hold(name)
    held = await context.__aenter__()
    seen = asyncio.get_running_loop().run_in_executor(None, lost_after, held)
    block(BOUNDS.trust + 0.1)
    assert BOUNDS.trust <= await seen < BOUNDS.trust + LATE
    with pytest.raises(LockLost):
        await context.__aexit__(None, None, None)


def block(seconds: float) -> None:
    """Let nothing else run on the loop."""
    time.sleep(seconds)


def lost_after(held: Any) -> float:
    """How old the last sign of life was when the hold was not believed in any more."""
    while not held.lost:
        time.sleep(0.002)
    return now() - float(held._ticket.session.pulse.confirmed)


def test_asking_without_a_pause_starves_no_heartbeat(dsn: str, name: str) -> None:
    """A loop that checks before each step keeps its lock for longer than the time of trust."""
    with Locks(dsn, liveness=LIVENESS) as locks, locks.hold(name) as held:
        until = time.monotonic() + 2 * Bounds(LIVENESS).trust
        while time.monotonic() < until:
            held.check()
