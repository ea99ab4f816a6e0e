"""`assert_held`: true for whoever holds the lock and may believe in it, and for nobody else."""

from __future__ import annotations

import asyncio
import pickle
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest

from advlock import LockLost, LockNotHeld, assert_held

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock.testing import MemoryServer

pytestmark = pytest.mark.newest


def refused(name: Any = "job", **how: Any) -> str:
    """Have it refused; what it says."""
    with pytest.raises(LockNotHeld) as caught:
        assert_held(name, **how)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.name == name
    return str(error)


def elsewhere(ask: Callable[[], Any]) -> Any:
    """Ask in another thread."""
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(ask()), name="worker")
    thread.start()
    thread.join()
    return told[0]


def test_every_way_to_hold_counts(advlock_memory: MemoryServer) -> None:
    """`hold`, `attempt`, `hold_all`, both decorators, `lock`, slots and terms."""
    locks = advlock_memory.locks(namespace="billing")
    lock, slots = locks.lock("job"), locks.semaphore("job", 2)
    ways = [locks.hold("job"), locks.attempt("job"), locks.hold_all(["other", "job"])]
    for way in (*ways, lock, slots.hold(), slots.attempt(), locks.leader("job").term()):
        assert "nothing in this process holds it" in refused()
        with way:
            assert_held("job")
            assert "nothing in this process" in refused("billing:job")
    locks.hold("job")(assert_held)("job")
    assert "nothing in this process holds it" in refused()
    for number in (7, (7, 8)):
        with locks.hold(number):
            assert_held(number)


def test_a_name_is_its_text(advlock_memory: MemoryServer) -> None:
    """A member of an enum that is a string is that string; a number is none."""
    job = StrEnum("Names", {"JOB": "job"}).JOB
    for one, other in ((job, "job"), ("job", job)):
        with advlock_memory.locks().hold(one):
            assert_held(other)
            assert_held(one)
    with advlock_memory.locks().hold(7):
        refused("7")


def test_the_mode_may_matter(advlock_memory: MemoryServer) -> None:
    """Shared is not alone, and alone is not shared, for those who ask."""
    locks = advlock_memory.locks()
    with locks.hold("job", shared=True):
        assert_held("job")
        assert_held("job", shared=True)
        assert "it is held, but shared" in refused(shared=False)
    with locks.hold("job"):
        assert_held("job", shared=False)
        assert "it is held, but not shared" in refused(shared=True)


def test_it_goes_by_thread(advlock_memory: MemoryServer) -> None:
    """Somebody else's lock is none of ours, unless we say that he works for us."""
    locks = advlock_memory.locks()
    with locks.hold("job"):
        told = elsewhere(refused)
        assert "held by another thread, 'MainThread'; pass anywhere=True" in told
        assert elsewhere(lambda: assert_held("job", anywhere=True)) is None
    with locks.lock("job"):  # which any thread may release
        assert elsewhere(lambda: assert_held("job")) is None


def test_it_goes_by_task(advlock_memory: MemoryServer) -> None:
    """As by thread; what a task calls directly is that task."""

    async def ask() -> None:
        assert_held("job")

    async def body() -> None:
        async with advlock_memory.async_locks() as locks:
            for way in (locks.hold("job"), locks.attempt("job"), locks.leader("job").term()):
                async with way:
                    await ask()
                    with pytest.raises(LockNotHeld, match="another task"):
                        await asyncio.create_task(ask())
            async with locks.semaphore("job", 2).hold():
                await asyncio.create_task(ask())
            refused()

    asyncio.run(body())


def test_a_lost_lock_is_not_held(advlock_memory: MemoryServer) -> None:
    """At once, whoever has noticed; and one of a client that was closed neither."""
    locks = advlock_memory.locks()
    with pytest.raises(LockLost), locks.hold("job") as held:  # noqa: PT012 - its end raises
        assert_held("job")
        advlock_memory.lose("job")
        refused()
        assert held.lost
    with pytest.raises(LockLost), locks.hold("job"):  # noqa: PT012 - its end raises
        locks.close()
        refused()


def test_what_somebody_else_holds_is_not_held(advlock_memory: MemoryServer) -> None:
    """It asks this process, and no server."""
    with advlock_memory.hold("job"):
        assert "Call this inside `with locks.hold('job'):`" in refused()
