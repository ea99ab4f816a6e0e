"""Promise 2: whoever dies, in whatever way, leaves no lock behind."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually

from advlock import LockError, LockNotHeld

from .helpers import contends, entries, holding, is_waiting, no_locks
from .processes import program

if TYPE_CHECKING:
    from .helpers import Admin, Sessions
    from .worlds import World


def complained(caught: pytest.WarningsRecorder) -> bool:
    """Whether a hold or a client that was dropped has said so."""
    return any("never" in str(warning.message) for warning in caught.list)


class BodyError(Exception):
    """What a body may raise."""


async def check_free_after_exception(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Raise in a body; the lock must be free as soon as the block has been left."""
    client, actor = world.client(dsn), world.actor()

    def body(_: Any) -> None:
        assert len(holding(admin, name)) == 1
        raise BodyError

    with pytest.raises(BodyError):
        await actor.within(client.hold(name), world.defines(body))
    assert not entries(admin, name)


async def test_an_exception_in_the_body_frees_the_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The body's exception comes out unchanged, and the lock is free by then."""
    await check_free_after_exception(world, dsn, name, admin)


async def test_every_way_in_frees_the_lock_on_exception(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """`attempt`, `lock`, `hold_all` and a decorated function release after an exception, too."""
    client, actor = world.client(dsn), world.actor()
    client_ways = (client.attempt(name), client.lock(name), client.hold_all([name, f"{name}-2"]))

    def body(_: Any = None) -> None:
        assert holding(admin, name)
        raise BodyError

    for way in client_ways:
        with pytest.raises(BodyError):
            await actor.within(way, world.defines(body))
        assert not entries(admin, name)
    for way in (client.hold(name), client.attempt(name)):
        with pytest.raises(BodyError):
            await actor.call(way(world.defines(body)))
        assert not entries(admin, name)


@pytest.mark.parametrize("role", ["holds", "raises", "exits"])
async def test_a_program_that_ends_frees_its_lock(
    world: World, dsn: str, name: str, admin: Admin, role: str
) -> None:
    """Without close(), with an exception or by sys.exit: the end of the interpreter is enough."""
    async with program("program.py", world.name, role, dsn, name) as holder:
        assert await holder.says() == "held"
        assert holding(admin, name)
        await holder.tell()
        code, words = await holder.ends()
        assert code == {"holds": 0, "raises": 1, "exits": 7}[role]
        assert ("Traceback" in words) == (role == "raises"), words
        await no_locks(admin, within=2)


async def test_a_killed_holder_frees_its_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """After kill -9 the next in the queue has the lock at once."""
    client, actor = world.client(dsn), world.actor()
    async with program("program.py", world.name, "holds", dsn, name) as holder:
        assert await holder.says() == "held"
        context = client.hold(name, wait=5)
        pending = actor.entering(context)
        await contends(client, admin, name)
        holder.kill()
        await pending
        await actor.exit(context)


async def test_a_killed_waiter_leaves_the_queue(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """After kill -9 a waiter is gone within a second, and is not granted the lock later."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    async with program("program.py", world.name, "waits", dsn, name) as waiter:
        assert await waiter.says() == "waiting"
        if not client._pinned:
            await is_waiting(admin, name)
        waiter.kill()
        await aeventually(lambda: len(entries(admin, name)) == 1, within=5)
        await actor.exit(context)
        assert not entries(admin, name)


@pytest.mark.parametrize("role", ["fork-use", "fork-sys-exit", "fork-return", "fork-block"])
async def test_a_forked_child_leaves_the_parents_lock_alone(
    world: World, dsn: str, name: str, admin: Admin, role: str
) -> None:
    """Neither the child's use, nor its exit, nor its end of the block frees the parent's lock."""
    async with program("program.py", world.name, role, dsn, name) as parent:
        assert await parent.says() == "held"
        before = holding(admin, name)
        await parent.tell()
        assert await parent.says() == "child 0"
        assert holding(admin, name) == before
        await parent.tell()
        assert await parent.says() == "released"
        await no_locks(admin)
        await parent.tell()
        code, words = await parent.ends()
        assert (code, words) == (0, "")


async def test_close_releases_everything(
    world: World, dsn: str, name: str, application: str, sessions: Sessions, admin: Admin
) -> None:
    """When close() has returned, the locks are free; a second close() does nothing."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    contexts = [client.hold(f"{name}-{n}") for n in range(20)]
    for context in contexts:
        await actor.enter(context)
    waited_for = client.lock(name)
    await actor.call(waited_for.acquire)
    await actor.call(client.close)
    assert not holding(admin, name, *(f"{name}-{n}" for n in range(20)))
    await actor.call(client.close)
    await aeventually(lambda: not sessions(application))


async def test_close_wakes_the_waiters(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Somebody who waits in a client that is closed gets an error, not the lock, nor a hang."""
    owner, client = world.client(dsn), world.client(dsn)
    first, second, third = world.actors(3)
    context = owner.hold(name)
    await first.enter(context)
    pending = [second.entering(client.hold(name)), third.entering(client.hold(name))]
    await contends(client, admin, name)
    await world.actor().call(client.close)
    for task in pending:
        with pytest.raises(LockError, match="closed"):
            await task
    await first.exit(context)
    await no_locks(admin)


async def test_a_closed_client_says_so(world: World, dsn: str, name: str) -> None:
    """Every verb of a closed client raises instead of connecting again."""
    client, actor = world.client(dsn), world.actor()
    await actor.call(client.close)
    for context in (client.hold(name), client.attempt(name), client.hold_all([name])):
        with pytest.raises(LockError, match="closed"):
            await actor.enter(context)
    with pytest.raises(LockError, match="closed"):
        await actor.call(client.lock(name).acquire)
    with pytest.raises(LockError, match="closed"):
        await actor.call(client.holders, name)


async def test_a_client_is_a_context_manager(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Leaving it closes it."""
    client, actor = world.client(dsn), world.actor()

    def body(entered: Any) -> Any:
        assert entered is client
        return actor_enters(client.hold(name))

    def actor_enters(context: Any) -> Any:
        return context.__enter__() if world.is_sync else context.__aenter__()

    held = await actor.within(client, body)
    assert not entries(admin, name)
    with pytest.raises(LockError):
        await actor.enter(client.hold(name))
    assert held.lost


async def test_a_forgotten_client_warns_and_lets_go(
    world: World, dsn: str, name: str, application: str, sessions: Sessions
) -> None:
    """A client that was never closed warns, and its sessions end with it."""
    client, actor = world.client(dsn, application_name=application), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    await actor.exit(context)
    assert sessions(application)
    world.forget(client)
    with pytest.warns(ResourceWarning, match="never closed") as caught:  # noqa: PT031 - a finalizer
        del client, context
        # Threads and the loop refer to what they did last until they do something else.
        await aeventually(lambda: gc.collect() >= 0 and complained(caught))
    await aeventually(lambda: not sessions(application))


async def test_a_dropped_hold_is_released(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A hold that nobody refers to any more is released, with a warning."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    with pytest.warns(ResourceWarning, match="never released") as caught:  # noqa: PT031
        del context
        # Threads and the loop refer to what they did last until they do something else.
        await aeventually(lambda: gc.collect() >= 0 and complained(caught))
    await no_locks(admin)
    again = client.hold(name, wait=5)
    await actor.enter(again)
    await actor.exit(again)


async def test_a_hold_is_released_once(world: World, dsn: str, name: str) -> None:
    """Leaving a block twice is an error, not somebody else's release."""
    client, actor = world.client(dsn), world.actor()
    lock = client.lock(name)
    await actor.call(lock.acquire)
    await actor.exit(lock)
    with pytest.raises(LockNotHeld):
        await actor.exit(lock)
