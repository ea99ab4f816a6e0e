"""What happens to locks, played in either world, and what was told of it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from itertools import count
from typing import TYPE_CHECKING, Any

from conformance.helpers import holding, is_waiting, soon, terminate
from conformance.worlds import World
from waiting import aeventually

from advlock import DatabaseUnavailable, Key, LockLost, LockTimeout, _observe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from psycopg import Connection

    Admin = Connection[Any]
    Story = Callable[..., Awaitable[Any]]

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=none connect_timeout=2"


def play(world: str, story: Story, *args: Any) -> Any:
    """Play a story to its end, and close what it has opened."""

    async def whole() -> Any:
        made = World(world)
        try:
            async with asyncio.timeout(50):
                return await story(made, *args)
        finally:
            await made.close()

    return asyncio.run(whole())


@contextlib.contextmanager
def told() -> Iterator[list[dict[str, Any]]]:
    """Listen; what is told in the meantime."""
    facts: list[dict[str, Any]] = []
    listener = facts.append
    _observe.listen(listener)
    try:
        yield facts
    finally:
        _observe.unlisten(listener)


def brief(facts: list[dict[str, Any]], *names: str) -> list[str]:
    """The events of these locks, each as `event lock`."""
    return [f"{f['event']} {f['lock']}" for f in facts if f.get("lock") in names]


def a_name() -> str:
    """The name of a lock that no other test uses."""
    return f"job-{secrets.token_hex(4)}"


async def every_verb(world: World, dsn: str, name: str) -> None:
    """Take a lock in each way that there is, and give it back."""
    client, actor = world.client(dsn), world.actor()
    nothing = world.defines(lambda _: None)
    semaphore = client.semaphore(f"{name}-slots", 2)
    for way in (
        client.hold(name),
        client.hold(name, shared=True),
        client.attempt(name),
        client.lock(name),
        client.hold_all([f"{name}-1", f"{name}-2"]),
        semaphore.hold(),
        semaphore.attempt(),
        semaphore,
        client.leader(f"{name}-lead").term(),
    ):
        await actor.within(way, nothing)
    lock = client.lock(name)
    assert await actor.call(lock.acquire)
    await actor.call(lock.release)
    kept = client.hold(name, reentrant=True)
    await actor.enter(kept)
    await actor.within(client.hold(name, reentrant=True), nothing)
    await actor.call(client.close)  # gives the first one back
    world.forget(client)


async def in_vain(world: World, dsn: str, admin: Admin, name: str) -> None:
    """Ask for a lock that somebody has, and for one of a server that is not there."""
    client, other = world.client(dsn), world.client(dsn)
    actor, late = world.actor(), world.actor()
    nothing = world.defines(lambda _: None)
    # Behind it in the order of `hold_all`: whatever is slow, it is the first that is not free.
    behind = next(f"{name}-{n}" for n in count(2) if Key.of(f"{name}-{n}") > Key.of(name))
    holds, slots = client.hold(name), client.semaphore(f"{name}-slots", 1)
    await actor.enter(holds)
    await actor.call(slots.acquire)
    await late.within(other.attempt(name), nothing)
    assert not await late.call(other.lock(name).acquire, blocking=False)
    assert not await late.call(other.lock(name).acquire, timeout=0.05)
    for way in (other.hold(name, wait=0.05), other.hold_all([name, behind], wait=0.05)):
        with contextlib.suppress(LockTimeout):
            await late.enter(way)
            raise AssertionError
    assert not await late.call(other.semaphore(f"{name}-slots", 1).acquire, blocking=False)
    assert not await late.call(other.semaphore(f"{name}-slots", 1).acquire, timeout=0.5)
    then = other.hold(name)
    waits = late.entering(then)
    await is_waiting(admin, name)
    await actor.exit(holds)
    await soon(waits)
    await late.exit(then)
    with contextlib.suppress(DatabaseUnavailable):
        await late.enter(world.client(NOWHERE).hold(name))
        raise AssertionError
    await actor.call(slots.release)


async def cancelled(world: World, dsn: str, admin: Admin, name: str) -> None:
    """Wait for a lock in a task that is cancelled."""
    client = world.client(dsn)
    actor = world.actor()
    first = client.hold(name)
    await actor.enter(first)

    async def wait() -> None:
        async with client.hold(name):
            raise AssertionError

    task = asyncio.create_task(wait())
    await aeventually(lambda: len(client._ledger.tickets()) == 2)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert holding(admin, name)
    await actor.exit(first)


async def loses(
    world: World, dsn: str, admin: Admin, name: str, facts: list[dict[str, Any]]
) -> None:
    """Hold a lock whose session a DBA ends."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    terminate(admin, *holding(admin, name))
    await aeventually(lambda: any(f["event"] == "lock.lost" for f in facts))
    with contextlib.suppress(LockLost):
        await actor.exit(context)
        raise AssertionError
