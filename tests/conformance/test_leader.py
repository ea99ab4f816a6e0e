"""Leader election: one leads at a time, term by term, in both worlds and along every route."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import steady_cluster
from routes import direct_only
from waiting import aeventually, eventually

from advlock import (
    DatabaseUnavailable,
    LockError,
    LockLost,
    LockNotHeld,
    LockTimeout,
)
from advlock._leader import _base, _leader

from .helpers import backends, contends, holding, is_waiting, no_locks, soon, terminate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

    from .helpers import Admin
    from .worlds import Actor, World


# So many lines of a campaign are left out between two that are interrupted: the dice decide which.
STEP = 5


class Candidate:
    """A client with one leader on it, and whoever runs its loop."""

    def __init__(
        self, world: World, dsn: str, name: str, *, pause: float = 0.05, **settings: Any
    ) -> None:
        self.world = world
        self.client = world.client(dsn, **settings)
        self.actor: Actor = world.actor()
        self.leader = self.client.leader(name, pause=pause)
        self.terms = self.leader.terms()

    def next(self) -> asyncio.Task[Any]:
        """Have the loop come back for its next term; the task ends with it, or with None."""
        step = next if self.world.is_sync else anext
        return self.actor.start(step, self.terms, None)

    async def lead(self) -> Any:
        """Lead."""
        term = await soon(self.next())
        assert term is not None
        return term

    async def stand_by(self, admin: Admin) -> asyncio.Task[Any]:
        """Begin to wait, behind somebody else."""
        pending = self.next()
        await contends(self.client, admin, self.leader.name)
        return pending

    async def token(self, term: Any) -> int:
        """The term's fencing token."""
        return int(await self.actor.call(term.token))


def two(world: World, dsn: str, name: str) -> tuple[Candidate, Candidate]:
    """Two candidates for one name."""
    return Candidate(world, dsn, name), Candidate(world, dsn, name)


# -- terms -----------------------------------------------------------------------------------------


async def test_one_leads_and_the_other_follows(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A body that ends hands over; whoever led before stands at the end of the queue."""
    one, other = two(world, dsn, name)
    first = await one.lead()
    assert one.leader.leading
    assert first.leader is one.leader
    assert (first.name, len(holding(admin, name))) == (name, 1)
    waits = await other.stand_by(admin)
    assert not other.leader.leading
    tokens = [await one.token(first)]
    first_waits = one.next()
    second = await soon(waits)
    tokens.append(await other.token(second))
    assert (one.leader.leading, other.leader.leading) == (False, True)
    await contends(one.client, admin, name)
    other.next()
    third = await soon(first_waits)
    tokens.append(await one.token(third))
    assert tokens == sorted(set(tokens))


@direct_only("sessions are counted at the server")
async def test_a_standby_costs_one_session(
    world: World, dsn: str, name: str, admin: Admin, application: str
) -> None:
    """So does a leader: it leads on the session that it waited on."""
    one = Candidate(world, dsn, name, application_name=application)
    other = Candidate(world, dsn, name, application_name=f"{application}-2")
    await one.lead()
    await other.stand_by(admin)
    assert len(backends(admin, application)) == len(backends(admin, f"{application}-2")) == 1


async def test_beyond_the_budget_a_standby_polls(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """With one connection for everything it asks again and again, and is elected as well."""
    one, other = (Candidate(world, dsn, name, pause=0.5, max_connections=1) for _ in "ab")
    await one.lead()
    assert await other.actor.call(other.leader.current) is not None  # it is connected by now
    waits = other.next()
    again = one.next()
    await soon(waits)
    other.leader.close()
    assert await soon(other.next()) is None
    assert not (await soon(again)).lost
    assert len(holding(admin, name)) == 1


async def test_two_leaders_of_one_client(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Exclude each other as well, and the one that waits for its turn can be closed, or elected."""
    client = world.client(dsn)
    step = next if world.is_sync else anext
    leaders = [client.leader(name, pause=0.05) for _ in "abc"]
    loops = [(world.actor(), leader.terms()) for leader in leaders]
    first, second, third = (lambda loop=loop: loop[0].start(step, loop[1], None) for loop in loops)
    await soon(first())
    waits = [second(), third()]
    await aeventually(lambda: len(client._ledger.tickets()) == 3)
    leaders[1].close()
    assert await soon(waits[0]) is None
    assert not waits[1].done()
    leaders[0].close()
    assert await soon(first()) is None
    assert not (await soon(waits[1])).lost
    assert len(holding(admin, name)) == 1


async def test_current_says_who_leads(world: World, dsn: str, name: str) -> None:
    """Since when, and on which host, as far as the server can tell; None when nobody does."""
    one, other = two(world, dsn, name)
    assert await other.actor.call(other.leader.current) is None
    term = await one.lead()
    seen = await other.actor.call(other.leader.current)
    assert not seen.waiting
    if seen.since is not None:  # a session that is pinned carries more than one lock
        assert abs((seen.since - term.since).total_seconds()) <= 2
        assert (seen.host, seen.process) != (None, None)
    assert name in repr(one.leader)
    assert "leading" in repr(one.leader)


async def test_the_body_raises(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The term ends, and the exception goes on its way."""
    client = world.client(dsn)
    actor = world.actor()

    def loop() -> None:
        for _ in client.leader(name).terms():
            raise ZeroDivisionError

    async def aloop() -> None:
        async for _ in client.leader(name).terms():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await actor.call(loop if world.is_sync else aloop)
    await no_locks(admin)


@contextlib.contextmanager
def listening(to: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Have somebody listen to the log, whose own exceptions come out of it."""
    log = logging.getLogger("advlock")
    handler = logging.Handler()
    handler.emit = to  # type: ignore[assignment]
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


@direct_only("it is our own books that matter")
@pytest.mark.parametrize("once", [False, True])
async def test_an_exception_from_the_log_leaves_no_lead(
    world: World, dsn: str, name: str, admin: Admin, once: bool
) -> None:
    """As one from a signal handler, while it is said who leads: others may lead, and we again."""
    one, _ = two(world, dsn, name)

    class Interruption(BaseException):
        pass

    def emit(record: logging.LogRecord) -> None:
        if record.event == "leader.elected":  # type: ignore[attr-defined]
            raise Interruption

    with listening(emit), pytest.raises(Interruption):
        await (one.actor.enter(one.leader.term()) if once else soon(one.next()))
    await no_locks(admin)
    assert not one.leader.leading
    assert not (await one.lead()).lost


@direct_only("it is our own books that matter")
async def test_a_loop_that_is_left_is_over_whoever_keeps_its_frames(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """As an exception does that was caught during the election; and the log says that it is."""
    leader = world.client(dsn).leader(name)
    kept: list[Any] = []
    seen: list[str] = []

    def emit(record: logging.LogRecord) -> None:
        kept.append(sys._getframe())
        if getattr(record, "lock", name) == name:  # and not one that an earlier test has left
            seen.append(record.event)  # type: ignore[attr-defined]

    def loop() -> None:
        for _ in leader.terms():
            break

    async def aloop() -> None:
        async for _ in leader.terms():
            break

    with listening(emit):
        await world.actor().call(loop if world.is_sync else aloop)
        await no_locks(admin)
        assert not leader.leading
        await aeventually(lambda: seen == ["leader.elected", "leader.resigned"])


@pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")
@pytest.mark.parametrize("world", ["sync"], indirect=True)
@direct_only("it is our own books that matter")
async def test_an_exception_between_any_two_lines(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """As of a signal handler: no lock stays, and the same leader can lead again."""
    client = world.client(dsn)
    for once in (False, True):
        line = random.randrange(1, STEP + 1)  # noqa: S311
        while interrupted(client.leader(name, pause=0), once=once, line=line):
            await no_locks(admin)
            line += STEP
        assert line > 40


def is_finalizing(frame: Any) -> bool:
    """Whether what is raised there is only printed, by Python."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def interrupted(leader: Any, *, once: bool, line: int) -> bool:
    """Lead, with an exception before the line of that number; whether there was one."""
    files = {_leader.__file__, _base.__file__}
    left = [line]

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files or is_finalizing(frame):
            return None
        left[0] -= event == "line"
        if left[0] == 0 and event == "line":
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        if once:
            with leader.term():
                pass
        else:
            for _ in leader.terms():
                break
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    with leader.term(wait=5):
        pass
    return left[0] <= 0


async def test_a_leader_is_closed_with_its_block(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """What `break` leaves open is released for certain when the block is left."""
    client = world.client(dsn)
    left: list[Any] = []

    def loop() -> None:
        with client.leader(name) as leader:
            for _ in leader.terms():
                break
        left.extend(holding(admin, name))

    async def aloop() -> None:
        async with client.leader(name) as leader:
            async for _ in leader.terms():
                break
        left.extend(holding(admin, name))

    await world.actor().call(loop if world.is_sync else aloop)
    assert left == []


async def test_one_loop_at_a_time(world: World, dsn: str, name: str) -> None:
    """A second one is refused, and free to begin when the first has ended."""
    one, _ = two(world, dsn, name)
    await one.lead()
    second = one.world.actor()
    step = next if one.world.is_sync else anext
    with pytest.raises(RuntimeError, match="already"):
        await second.call(step, one.leader.terms(), None)
    one.leader.close()
    assert await soon(one.next()) is None
    assert await second.call(step, one.leader.terms(), None) is None


# -- the end of a term -----------------------------------------------------------------------------


async def test_resigning_from_elsewhere(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The body is told; nobody else leads before it has come back; then we campaign again."""
    one, other = two(world, dsn, name)
    term = await one.lead()
    waits = await other.stand_by(admin)
    told: list[Any] = []
    term.on_lost(told.append)
    term.check()
    one.leader.resign()
    assert term.lost
    assert not one.leader.leading
    await aeventually(lambda: told == [term])
    term.on_lost(told.append)
    await aeventually(lambda: told == [term, term])
    with pytest.raises(LockLost, match="resigned"):
        term.check()
    assert len(holding(admin, name)) == 1
    assert not waits.done()
    again = one.next()
    await soon(waits)
    await contends(one.client, admin, name)
    with pytest.raises(LockNotHeld):
        term.check()
    other.leader.close()
    assert await soon(other.next()) is None
    assert (await soon(again)) is not term
    one.leader.resign()
    assert (await soon(one.next())) is not None, "it ended for good"


async def test_resigning_when_somebody_else_leads(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Is no resigning from the next term."""
    one, other = two(world, dsn, name)
    await one.lead()
    waits = await other.stand_by(admin)
    other.leader.resign()
    one.leader.close()
    one.next()
    assert not (await soon(waits)).lost


async def test_a_lost_term_is_followed_by_another(
    world: World, dsn: str, name: str, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    """The body is told, the loop goes on, and the log says it once."""
    one, _ = two(world, dsn, name)
    caplog.set_level(logging.INFO, "advlock")
    first = await one.lead()
    told: list[Any] = []
    first.on_lost(told.append)
    token = await one.token(first)
    terminate(admin, *holding(admin, name))
    await aeventually(lambda: first.lost)
    await aeventually(lambda: told == [first])
    second = await one.lead()
    assert not second.lost
    assert await one.token(second) > token
    mine = [event for event in events(caplog, name) if event.startswith("leader.")]
    assert mine == ["leader.elected", "leader.lost", "leader.elected"]


async def test_closing_while_standing_by(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The wait ends, on the server too, and so does the loop; who leads goes on."""
    one, other = two(world, dsn, name)
    term = await one.lead()
    waits = await other.stand_by(admin)
    other.leader.close()
    assert await soon(waits) is None
    await aeventually(lambda: len(holding(admin, name)) == 1)
    assert not term.lost
    assert other.leader.closed
    one.client._check_open()
    assert await soon(other.next()) is None, "it is closed for good"


async def test_closing_again_and_again(
    world: World,
    dsn: str,
    name: str,
    admin: Admin,
    application: str,
    sessions: Callable[[str], list[object]],
) -> None:
    """At whatever moment of a campaign it comes, the loop ends and no lock or session stays."""
    client = world.client(dsn, application_name=application)
    actor = world.actor()
    step = next if world.is_sync else anext
    for turn in range(20):
        leader = client.leader(name)
        terms = leader.terms()
        pending = actor.start(step, terms, None)
        await asyncio.sleep(turn / 2000)
        leader.close()
        if (term := await soon(pending)) is not None:
            assert term.lost
            assert await actor.call(step, terms, None) is None
    await actor.call(client.close)
    # What was connecting does so to its end, and looks for a pooler: many at once, here.
    await aeventually(lambda: not sessions(application), within=10)
    await no_locks(admin)


async def test_a_client_that_is_closed_ends_the_loop(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Of the one who leads and of the one who waits."""
    one, other = two(world, dsn, name)
    await one.lead()
    waits = await other.stand_by(admin)
    closer = other.world.actor()
    await soon(closer.start(other.client.close))
    assert await soon(waits) is None
    await soon(closer.start(one.client.close))
    assert await soon(one.next()) is None


@direct_only("it is our own pause")
async def test_a_client_that_is_closed_ends_a_pause(world: World, dsn: str, name: str) -> None:
    """However long it is."""
    client = world.client(dsn)
    actor, step = world.actor(), next if world.is_sync else anext
    terms = client.leader(name, pause=float("inf")).terms()
    await soon(actor.start(step, terms, None))
    pending = actor.start(step, terms, None)
    await aeventually(lambda: not client._ledger.tickets())
    assert not pending.done()
    await soon(world.actor().start(client.close))
    assert await soon(pending) is None


@pytest.mark.parametrize("world", ["sync"], indirect=True)
@direct_only("it is our own threads that matter")
async def test_a_forked_child_may_close_its_parents_leader(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Which campaigns in a thread that the child does not have: nothing waits for it there."""
    one, other = two(world, dsn, name)
    await one.lead()
    await other.stand_by(admin)
    child = os.fork()
    if not child:
        try:
            other.leader.close()
            eventually(lambda: len([*Path("/proc/self/task").iterdir()]) == 1, within=3)
            os._exit(0)
        finally:
            os._exit(1)
    status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status[1]) == 0


# -- one term --------------------------------------------------------------------------------------


async def test_one_term(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A block that is entered when elected, and raises when somebody else leads for too long."""
    one, other = two(world, dsn, name)
    context = one.leader.term(wait=5)
    term = await one.actor.enter(context)
    assert one.leader.leading
    with pytest.raises(LockTimeout) as caught:
        await other.actor.enter(other.leader.term(wait=0.2))
    assert (caught.value.name, caught.value.wait) == (name, 0.2)
    with pytest.raises(LockTimeout):
        await other.actor.enter(other.leader.term(wait=0))
    terminate(admin, *holding(admin, name))
    await aeventually(lambda: term.lost)
    with pytest.raises(LockLost):
        await one.actor.exit(context)
    await no_locks(admin)
    patient = other.leader.term()
    assert not (await other.actor.enter(patient)).lost
    other.leader.close()
    await other.actor.exit(patient)
    with pytest.raises(LockError, match="closed"):
        await other.actor.enter(other.leader.term())
    with pytest.raises(ZeroDivisionError):
        await one.actor.within(one.leader.term(wait=5), lambda _: 1 / 0)


async def test_a_term_that_is_refused_again_and_again_is_given_up(
    world: World, dsn: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends each session at once does not outwait the caller."""
    one = Candidate(world, dsn, name)
    await one.actor.call(one.client.holders, name)  # connected: there was a server once
    tries = 0

    def fails(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        msg = "the server ended a new session at once"
        raise DatabaseUnavailable(msg)

    monkeypatch.setattr(type(one.client), "_try", fails)
    with pytest.raises(LockTimeout):
        await soon(one.actor.entering(one.leader.term(wait=0.2)), within=3)
    assert tries >= 1


# -- the database ----------------------------------------------------------------------------------


async def test_no_database_at_the_beginning(world: World, name: str) -> None:
    """A mistake in the address is told at once."""
    one = Candidate(world, "host=/nowhere dbname=none", name)
    with pytest.raises(DatabaseUnavailable):
        await soon(one.next())
    second = one.leader.terms()  # while the first is still there
    with pytest.raises(DatabaseUnavailable):
        await one.actor.call(next if world.is_sync else anext, second, None)


@direct_only("the server is one of the test's own")
async def test_a_restart_is_sat_out(
    world: World, server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Leader and standby campaign on, say so once each, and cost one session each again."""
    with steady_cluster(server) as cluster:
        one, other = (Candidate(world, cluster.dsn(), name) for _ in "ab")
        term = await one.lead()
        waits = other.next()
        with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
            await is_waiting(admin, name)
        caplog.set_level(logging.WARNING, "advlock")
        cluster.stop("immediate")
        await aeventually(lambda: term.lost)
        again = one.next()
        await aeventually(lambda: "leader.unavailable" in events(caplog, name))
        cluster.start()
        done, _ = await asyncio.wait([waits, again], timeout=10, return_when="FIRST_COMPLETED")
        assert len(done) == 1
        assert events(caplog, name).count("leader.unavailable") <= 2
        with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
            await is_waiting(admin, name)
            ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'advlock%'"
            await aeventually(lambda: admin.execute(ours).fetchone() == (2,))
        await world.close()


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """What the library said of a lock; of others, earlier tests may still have something to say."""
    ours = (record for record in caplog.records if getattr(record, "lock", "") == name)
    return [getattr(record, "event", "") for record in ours]


# -- tasks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_the_body_is_cancelled_and_the_loop_goes_on(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Inside `cancel_on_lost` the work ends with the term, whatever ends it."""
    leader = world.client(dsn).leader(name, pause=0)
    ends = iter([lambda: terminate(admin, *holding(admin, name)), leader.resign, leader.close])
    began = 0
    async for term in leader.terms():
        async with term.cancel_on_lost() as same:
            assert same is term
            began += 1
            next(ends)()
            await asyncio.sleep(20)
            pytest.fail("the body ran on")
        assert term.lost
    task = asyncio.current_task()
    assert task is not None
    assert (began, task.cancelling()) == (3, 0)


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_one_term_is_cancelled(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A loss raises, a leader that resigns ends the block in peace."""
    leader = world.client(dsn).leader(name, pause=0)

    async def lose() -> None:
        async with leader.term(cancel_on_lost=True):
            terminate(admin, *holding(admin, name))
            await asyncio.sleep(20)

    with pytest.raises(LockLost) as caught:
        await lose()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    async with leader.term(wait=5, cancel_on_lost=True):
        leader.resign()
        await asyncio.sleep(20)
    await no_locks(admin)


@pytest.mark.parametrize("world", ["async"], indirect=True)
async def test_a_cancelled_campaign_leaves_nothing(
    world: World,
    dsn: str,
    name: str,
    admin: Admin,
    application: str,
    sessions: Callable[[str], list[object]],
) -> None:
    """At whatever moment: the loop raises CancelledError, and no lock or session stays."""
    client = world.client(dsn, application_name=application)
    for turn in range(20):
        leader = client.leader(name)
        task = asyncio.ensure_future(anext(aiter(leader.terms())))
        await asyncio.sleep(turn / 2000)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result()
        del task
    await no_locks(admin)
    await client.close()

    def gone() -> bool:
        gc.collect()  # psycopg leaves a connection whose making was cancelled to it
        return not sessions(application)

    await aeventually(gone, within=10)
