"""`cancel_on_lost`: the body ends with the lock, and nobody else's cancellation is mistaken."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import LockLost

from .helpers import contends, holding, no_locks, one, soon, terminate, turns_red
from .test_liveness import LIVENESS, silenced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .helpers import Admin
    from .worlds import World

pytestmark = pytest.mark.parametrize("world", ["async"], indirect=True)

A_LONG_TIME = 1.5  # seconds; what a body does that is not cancelled


async def block(way: Any, body: Callable[[Any], Awaitable[Any]]) -> None:
    """Run `body` inside `way`."""
    async with way as held:
        await body(held)


async def check_cancelled(way: Any, name: str, admin: Admin) -> None:
    """Lose the lock in the midst of a body that waits for something else."""
    task = asyncio.current_task()
    assert task is not None
    seen: list[BaseException] = []

    async def body(_: Any) -> None:
        terminate(admin, *holding(admin, name))
        try:
            await asyncio.sleep(A_LONG_TIME)
        except asyncio.CancelledError as cancelled:
            seen.append(cancelled)
            raise

    with pytest.raises(LockLost) as caught:
        await block(way, body)
    assert seen, "the body ran on"
    assert caught.value.__cause__ is seen[0]
    await check_nothing_is_left(task)


async def check_nothing_is_left(task: asyncio.Task[Any]) -> None:
    """See that no cancellation is still on its way."""
    assert task.cancelling() == 0
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.cancelling() == 0


async def test_the_body_is_cancelled(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The block raises LockLost, caused by the cancellation, and the task goes on as before."""
    client = world.client(dsn)
    await check_cancelled(client.hold(name, cancel_on_lost=True), name, admin)
    await no_locks(admin)  # a session that is told to end lets go a moment later
    await check_cancelled(client.attempt(name, cancel_on_lost=True), name, admin)
    several = client.hold_all([f"{name}-a", name, f"{name}-b"], cancel_on_lost=True)
    await check_cancelled(several, name, admin)
    async with client.hold(name, wait=5, cancel_on_lost=True) as held:
        assert not held.lost


async def test_without_it_the_body_runs_on(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The control: a plain hold tells, and cancels nobody."""
    await turns_red(check_cancelled(world.client(dsn).hold(name), name, admin))


async def test_a_decorated_function_is_cancelled(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Each of its calls is, whichever verb decorates it."""
    client = world.client(dsn)
    ends: list[str] = []

    async def body() -> None:
        terminate(admin, *holding(admin, name))
        try:
            await asyncio.sleep(A_LONG_TIME)
        finally:
            ends.append(type(asyncio.current_task()).__name__)
        ends.append("ran on")

    for way in (client.hold, client.attempt):
        decorated = way(name, cancel_on_lost=True)(body)
        for _ in range(2):
            await no_locks(admin)  # a session that is told to end lets go a moment later
            with pytest.raises(LockLost) as caught:
                await decorated()
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    with pytest.raises(LockLost):
        await client.hold_all([name], cancel_on_lost=True)(body)()
    assert len(ends) == 5
    assert "ran on" not in ends


async def test_a_lock_that_was_waited_for(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """A hold on a session of its own is no exception."""
    client = world.client(dsn)
    one(rival, "SELECT pg_advisory_lock(hashtextextended(%s, 0))", name)
    pending = asyncio.ensure_future(
        check_cancelled(client.hold(name, cancel_on_lost=True), name, admin)
    )
    await contends(client, admin, name)
    one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    await soon(pending)


async def test_silence_cancels_too(world: World, dsn: str, name: str, admin: Admin) -> None:
    """The body ends when the trust does, though the server never said a word."""
    client = world.client(dsn, liveness=LIVENESS)

    async def body(_: Any) -> None:
        with silenced(*holding(admin, name)):
            await asyncio.sleep(2 * LIVENESS)

    with pytest.raises(LockLost, match="no word from the server") as caught:
        await block(client.hold(name, cancel_on_lost=True), body)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


# -- with other cancellations ----------------------------------------------------------------------


async def test_inside_a_timeout_and_a_group(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """What stands around sees an error of the block, and is not cancelled itself."""
    client = world.client(dsn)
    async with asyncio.timeout(5) as limit:
        await check_cancelled(client.hold(name, cancel_on_lost=True), name, admin)
    assert not limit.expired()
    siblings = []

    async def body(_: Any) -> None:
        terminate(admin, *holding(admin, name))
        await asyncio.sleep(A_LONG_TIME)

    async def family() -> None:
        async with asyncio.TaskGroup() as group:
            siblings.append(group.create_task(asyncio.sleep(5)))
            await block(client.hold(name, cancel_on_lost=True), body)

    with pytest.raises(ExceptionGroup) as caught:
        await family()
    assert [type(error) for error in caught.value.exceptions] == [LockLost]
    assert siblings[0].cancelled()
    task = asyncio.current_task()
    assert task is not None
    await check_nothing_is_left(task)


async def test_around_a_timeout_and_a_group(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """What stands inside ends with the body: children are cancelled, a timeout does not fire."""
    client = world.client(dsn)
    children = []

    async def body(_: Any) -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            children.append(group.create_task(asyncio.sleep(5)))
            terminate(admin, *holding(admin, name))

    with pytest.raises(LockLost) as caught:
        await block(client.hold(name, cancel_on_lost=True), body)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert children[0].cancelled()


async def _cancelled_before(task: asyncio.Task[Any], _: Any, lose: Any) -> None:
    task.cancel("from outside")
    lose()
    await asyncio.sleep(A_LONG_TIME)


async def _cancelled_with_the_loss(task: asyncio.Task[Any], held: Any, lose: Any) -> None:
    held.on_lost(lambda _: task.cancel("from outside"))
    lose()
    await asyncio.sleep(A_LONG_TIME)


async def _lost_while_cleaning_up(task: asyncio.Task[Any], _: Any, lose: Any) -> None:
    asyncio.get_running_loop().call_soon(task.cancel, "from outside")
    try:
        await asyncio.sleep(A_LONG_TIME)
    finally:
        lose()
        await asyncio.sleep(A_LONG_TIME)


@pytest.mark.parametrize(
    "body", [_cancelled_before, _cancelled_with_the_loss, _lost_while_cleaning_up]
)
async def test_a_cancellation_from_outside_wins(
    world: World, dsn: str, name: str, admin: Admin, body: Any
) -> None:
    """The task ends as cancelled, as whoever did it expects; the loss is a note."""
    client = world.client(dsn)
    notes: list[str] = []

    async def run() -> None:
        task = asyncio.current_task()
        try:
            async with client.hold(name, cancel_on_lost=True) as held:
                await body(task, held, lambda: terminate(admin, *holding(admin, name)))
        except asyncio.CancelledError as cancelled:
            notes.extend(getattr(cancelled, "__notes__", []))
            raise

    task = asyncio.ensure_future(run())
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert len(notes) == 1
    assert "was lost" in notes[0]


async def test_a_timeout_around_that_fires_too(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """It raises TimeoutError as it always does; neither cancellation stays behind."""
    client = world.client(dsn)
    task = asyncio.current_task()
    assert task is not None

    async def late() -> None:
        async with asyncio.timeout(60) as limit, client.hold(name, cancel_on_lost=True) as held:
            held.on_lost(lambda _: limit.reschedule(0))
            terminate(admin, *holding(admin, name))
            try:
                await asyncio.sleep(A_LONG_TIME)
            finally:
                await asyncio.sleep(0.01)

    with pytest.raises(TimeoutError):
        await late()
    await check_nothing_is_left(task)


# -- bodies that do not just wait ------------------------------------------------------------------


async def test_a_body_that_swallows_it(world: World, dsn: str, name: str, admin: Admin) -> None:
    """It is cancelled once, and the loss comes out at the end, from whatever it does then."""
    client = world.client(dsn)
    task = asyncio.current_task()
    assert task is not None
    swallowed = []

    async def swallows(_: Any) -> None:
        terminate(admin, *holding(admin, name))
        try:
            await asyncio.sleep(A_LONG_TIME)
        except asyncio.CancelledError as cancelled:
            swallowed.append(cancelled)
        await asyncio.sleep(0.05)

    async def replaces(_: Any) -> None:
        await swallows(_)
        raise ZeroDivisionError

    with pytest.raises(LockLost):
        await block(client.hold_all([name, f"{name}-2"], cancel_on_lost=True), swallows)
    assert len(swallowed) == 1
    await check_nothing_is_left(task)
    with pytest.raises(ZeroDivisionError) as caught:
        await block(client.hold(name, cancel_on_lost=True), replaces)
    assert "was lost" in caught.value.__notes__[0]
    await check_nothing_is_left(task)


async def test_a_body_that_blocks(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Python cannot stop it; it is cancelled where it awaits next, or told when it asks."""
    client = world.client(dsn)
    task = asyncio.current_task()
    assert task is not None
    done: list[str] = []

    async def blocks(held: Any) -> None:
        hang_up(admin, held)
        done.append("blocked")
        await asyncio.sleep(A_LONG_TIME)
        done.append("ran on")

    async def asks(held: Any) -> None:
        hang_up(admin, held)
        held.check()

    with pytest.raises(LockLost) as caught:
        await block(client.hold(name, cancel_on_lost=True), blocks)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    with pytest.raises(LockLost):
        await block(client.hold(name, cancel_on_lost=True), asks)
    await check_nothing_is_left(task)
    assert done == ["blocked"]


def hang_up(admin: Admin, held: Any) -> None:
    """End the session of a hold; when this returns, the news lie in its socket, unread."""
    terminate(admin, *holding(admin, held.name))
    poll = select.poll()
    poll.register(held._ticket.session.wire.fd, select.POLLRDHUP)
    assert poll.poll(5000)


async def test_a_body_that_ends_in_the_same_instant(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """LockLost whoever comes first, and the cancellation never hits what comes after the block."""
    client = world.client(dsn)
    task = asyncio.current_task()
    assert task is not None
    causes: list[bool] = []
    for turns in [*range(8)] * 8:

        async def body(held: Any, turns: int = turns) -> None:
            hang_up(admin, held)
            for _ in range(turns):
                await asyncio.sleep(0)

        with pytest.raises(LockLost) as caught:
            await block(client.hold(name, cancel_on_lost=True), body)
        causes.append(caught.value.__cause__ is not None)
        await check_nothing_is_left(task)
    assert len(set(causes)) == 2, "the body was always, or never, cancelled in time"


async def test_a_normal_end_cancels_nothing(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A block that has ended hears of no loss, neither of its own lock's nor of the next one's."""
    client = world.client(dsn)
    task = asyncio.current_task()
    assert task is not None
    for turn in range(20):
        async with client.hold(name, cancel_on_lost=True):
            pass
        context = client.hold(f"{name}-2", wait=5)
        held = await context.__aenter__()
        terminate(admin, *holding(admin, f"{name}-2"))
        await asyncio.sleep(turn / 5000)
        await aeventually(lambda held=held: held.lost)
        await check_nothing_is_left(task)
        with pytest.raises(LockLost):
            await context.__aexit__(None, None, None)
