"""Ways in: context managers and decorators; once, again, at the same time, and re-entrantly."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from advlock import ConfigError, LockError, LockTimeout

from .helpers import contends, entries, holding, no_locks, one, soon
from .worlds import awaited

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World


async def test_a_decorated_function_holds_the_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """During the call and no longer; arguments, result, name and docstring are the function's."""
    client, actor = world.client(dsn), world.actor()

    def report(a: int, *, b: int) -> int:
        """Report."""
        assert len(holding(admin, name)) == 1
        return a + b

    for way in (client.hold(name), client.attempt(name)):
        decorated = way(world.defines(report))
        assert await actor.call(decorated, 1, b=2) == 3
        assert not entries(admin, name)
        if world.is_sync:
            assert (decorated.__name__, decorated.__doc__) == ("report", "Report.")
        assert asyncio.iscoroutinefunction(decorated) is not world.is_sync


async def test_a_decorated_attempt_skips_when_busy(world: World, dsn: str, name: str) -> None:
    """It returns None without calling, and calls again when the lock is free."""
    owner, client = world.client(dsn), world.client(dsn)
    first, second = world.actors(2)
    calls: list[int] = []
    decorated = client.attempt(name)(world.defines(lambda: calls.append(1) or "done"))
    context = owner.hold(name)
    await first.enter(context)
    assert await second.call(decorated) is None
    assert calls == []
    await first.exit(context)
    assert await second.call(decorated) == "done"
    assert calls == [1]


async def test_a_decorated_hold_times_out(world: World, dsn: str, name: str) -> None:
    """It raises LockTimeout without calling."""
    owner, client = world.client(dsn), world.client(dsn)
    first, second = world.actors(2)
    context = owner.hold(name)
    await first.enter(context)
    decorated = client.hold(name, wait=0.02)(world.defines(pytest.fail))
    with pytest.raises(LockTimeout):
        await second.call(decorated, "was called")
    await first.exit(context)


async def test_concurrent_calls_of_a_decorated_function(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """They wait for each other, each with its own hold; one that is skipped frees nothing."""
    client = world.client(dsn)
    inside = 0
    gate = threading.Event()

    def visit() -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        inside -= 1

    decorated = client.hold(name)(world.defines(visit))
    await asyncio.gather(*(actor.call(decorated) for actor in world.actors(8)))

    async def stay_async() -> str:
        while not gate.is_set():  # noqa: ASYNC110 - set by a thread, in the other world
            await asyncio.sleep(0.002)
        return "stayed"

    def stay() -> str:
        assert gate.wait(5)
        return "stayed"

    skipping = client.attempt(name)(stay if world.is_sync else stay_async)
    first, second = world.actors(2)
    pending = first.start(skipping)
    while not holding(admin, name):
        await world.pause(0.005)
    assert await second.call(skipping) is None
    assert holding(admin, name)
    gate.set()
    assert await soon(pending) == "stayed"
    assert not entries(admin, name)


async def test_what_cannot_be_decorated_is_refused(world: World, dsn: str, name: str) -> None:
    """Generators, whose body runs later, and functions of the other world; with what to do."""
    client: Any = world.client(dsn)

    def plain() -> None: ...

    async def coroutine() -> None: ...

    def generator() -> Any:
        yield

    async def async_generator() -> Any:
        yield

    foreign = coroutine if world.is_sync else plain
    for function, advice in (
        (generator, "inside it"),
        (async_generator, "decorate|inside it"),
        (foreign, "decorate it with"),
    ):
        for way in (client.hold(name), client.attempt(name), client.hold_all([name])):
            with pytest.raises(ConfigError, match=advice):
                way(function)


async def test_a_context_can_be_used_again(world: World, dsn: str, name: str, admin: Admin) -> None:
    """One after the other, also after an exception and after a timeout."""
    client, rival = world.client(dsn), world.client(dsn)
    actor, other = world.actors(2)
    await actor.call(client.holders, name)  # connecting takes its time, too
    client._grace = 5.0  # and so may an answer
    context, busy = client.hold(name, wait=0.05), rival.hold(name)
    for _ in range(3):
        await actor.enter(context)
        await actor.exit(context, ValueError())
    await other.enter(busy)
    with pytest.raises(LockTimeout):
        await actor.enter(context)
    await other.exit(busy)
    await actor.enter(context)
    await actor.exit(context)
    assert not entries(admin, name)


async def test_a_context_cannot_be_entered_twice(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Not while it is entered, by whomever; the hold that is there is not disturbed."""
    client = world.client(dsn)
    first, second = world.actors(2)
    for context in (client.hold(name), client.attempt(name), client.hold_all([name])):
        await first.enter(context)
        for actor in (first, second):
            with pytest.raises(RuntimeError, match="already entered"):
                await actor.enter(context)
        assert holding(admin, name)
        await first.exit(context)
        assert not entries(admin, name)


async def test_waiting_for_oneself_is_an_error(world: World, dsn: str, name: str) -> None:
    """A hold within a hold of the same lock raises and says what to do, instead of hanging."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    with pytest.raises(LockError, match="reentrant=True"):
        await actor.enter(client.hold(name))
    with pytest.raises(LockTimeout):
        await actor.enter(client.hold(name, wait=0.02))
    assert await actor.enter(client.attempt(name)) is None
    await actor.exit(context)
    await actor.enter(context)
    await actor.exit(context)


async def test_waiting_for_oneself_shared(world: World, dsn: str, name: str) -> None:
    """A holder in shared mode who asks for it alone would wait for itself, too."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name, shared=True)
    await actor.enter(context)
    with pytest.raises(LockError, match="reentrant=True"):
        await actor.enter(client.hold(name))
    await actor.exit(context)


class Unlocks:
    """Counts the unlocks that are sent to the server."""

    def __init__(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        ledger = client._ledger
        original = type(ledger).settle

        def settle(ledger: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
            self.sent += op.releases
            return original(ledger, op, *args, **kwargs)

        monkeypatch.setattr(type(ledger), "settle", settle)


async def check_one_unlock(
    world: World, name: str, admin: Admin, unlocks: Unlocks, client: Any
) -> None:
    """Enter three times, leave three times; the server must hear of the first and the last."""
    actor, other = world.actors(2)
    ways = [
        client.hold(name, reentrant=True),
        client.hold(name, reentrant=True, wait=1),
        client.attempt(name, reentrant=True),
    ]
    for way in ways:
        assert await actor.enter(way) is not None
        assert len(holding(admin, name)) == 1
    for left, way in enumerate(reversed(ways)):
        assert unlocks.sent == 0
        assert await other.enter(client.attempt(name, reentrant=True)) is None
        await actor.exit(way)
        assert bool(holding(admin, name)) == (left < 2)
    assert unlocks.sent == 1


async def test_reentrant_holds_release_once(
    world: World, dsn: str, name: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where asked, the same actor enters at once; exactly one unlock reaches the server."""
    client = world.client(dsn)
    unlocks = Unlocks(client, monkeypatch)
    await check_one_unlock(world, name, admin, unlocks, client)


async def test_reentrance_goes_by_actor(world: World, dsn: str, name: str, admin: Admin) -> None:
    """Another thread or task, of the same client, waits as everybody does."""
    client = world.client(dsn)
    first, second = world.actors(2)
    mine, again, others = (client.hold(name, reentrant=True) for _ in range(3))
    await first.enter(mine)
    await first.enter(again)
    pending = second.entering(others)
    await world.pause(0.05)
    assert not pending.done()
    await first.exit(again)
    await world.pause(0.02)
    assert not pending.done()
    await first.exit(mine)
    await soon(pending)
    await second.exit(others)
    await no_locks(admin)


async def test_a_reentrant_recursion(world: World, dsn: str, name: str, admin: Admin) -> None:
    """A decorated function may call itself."""
    client, actor = world.client(dsn), world.actor()

    def descend(depth: int) -> Any:
        assert len(holding(admin, name)) == 1
        return depth if depth == 3 else decorated(depth + 1)

    async def descend_async(depth: int) -> Any:
        return await awaited(descend(depth))

    decorate = client.hold(name, reentrant=True)
    decorated = decorate(descend if world.is_sync else descend_async)
    assert await actor.call(decorated, 0) == 3
    assert not entries(admin, name)


async def test_a_reentrant_hold_counts_its_depth_where_it_waited(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Also when the first hold had to wait on a session of its own."""
    client, actor = world.client(dsn), world.actor()
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    outer, inner = (client.hold(name, reentrant=True) for _ in range(2))
    pending = actor.entering(outer)
    await contends(client, admin, name)
    assert one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
    await soon(pending)
    await actor.enter(inner)
    await actor.exit(inner)
    assert holding(admin, name)
    await actor.exit(outer)
    assert not entries(admin, name)
