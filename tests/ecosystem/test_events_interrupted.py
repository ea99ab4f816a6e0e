"""A signal handler that raises at every moment, while somebody listens: nothing stays behind.

Nobody is needed who holds against it: what the server holds is looked up after each moment.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from interrupting import Interrupter
from waiting import eventually

from advlock import Key, assert_held

from .stories import told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advlock import Locks
    from advlock.testing import MemoryServer

pytestmark = [
    pytest.mark.newest,
    # Whose handle was interrupted on its way to the caller is told so.
    pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning"),
]

_OURS = ("_all.py", "_core.py", "_ledger.py", "_observe.py", "_semaphore/_seek.py")
_NAMES = ("job", "other", Key.slot("job", 1))


def _of_an_object(locks: Locks) -> None:
    lock = locks.lock("job")
    lock.acquire()
    lock.release()


def _inside(enter: Callable[[Locks], Any]) -> Callable[[Locks], None]:
    def section(locks: Locks) -> None:
        with enter(locks):
            pass

    return section


WAYS: dict[str, Callable[[Locks], None]] = {
    "hold": _inside(lambda locks: locks.hold("job")),
    "attempt": _inside(lambda locks: locks.attempt("job")),
    "lock": _of_an_object,
    "hold_all": _inside(lambda locks: locks.hold_all(["job", "other"])),
    "slot": _inside(lambda locks: locks.semaphore("job", 2).hold()),
    "leader": _inside(lambda locks: locks.leader("job", pause=0).term()),
}


@pytest.fixture(params=["listened to", "alone"])
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Somebody who listens; and nobody, as the control."""
    with told() if request.param == "listened to" else contextlib.nullcontext():
        yield


@pytest.mark.usefixtures("_told")
@pytest.mark.parametrize("way", WAYS)
def test_no_lock_is_left(way: str, advlock_memory: MemoryServer) -> None:
    """Whichever verb it was."""
    locks = advlock_memory.locks()
    section = WAYS[way]
    section(locks)

    def nothing_left() -> bool:
        return not len(locks._ledger) and not any(map(advlock_memory.holders, _NAMES))

    for where in Interrupter(*_OURS).each(lambda: section(locks)):
        eventually(nothing_left, message=f"nothing left of what was interrupted at {where}")


@pytest.mark.usefixtures("_told")
def test_an_outer_hold_stays_what_it_is(advlock_memory: MemoryServer) -> None:
    """Who holds it again, and is interrupted, holds it as before: no less, and no longer."""
    locks = advlock_memory.locks()

    def inner() -> None:
        with locks.hold("job", reentrant=True):
            pass

    interrupter, at, kept = Interrupter("_core.py", "_ledger.py", "_observe.py"), 1, []
    hit = True
    while hit:
        with locks.hold("job", reentrant=True) as held:
            hit = interrupter._interrupts(inner, at)
            assert not [t for t in locks._ledger.tickets() if t.withdrawn], interrupter.where
            assert_held("job")
            assert not held.lost
            assert held._ticket.depth == 1, interrupter.where
            kept += advlock_memory.holders("job")
        assert not advlock_memory.holders("job"), interrupter.where
        at += 1
    assert len(kept) == at - 1 > 20
