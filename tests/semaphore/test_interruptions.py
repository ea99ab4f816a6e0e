"""A signal handler that raises at every moment of an acquire: nothing stays behind.

Tests by chance, with other threads and along every route: tests/conformance/test_interruptions.py.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from interrupting import Interrupter
from servers import locks_in_db
from waiting import eventually

from advlock import Key, Locks, LockTimeout
from advlock._semaphore import _seek

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

_OURS = ("_all.py", "_core.py", "_ledger.py", "_semaphore/_seek.py", "_semaphore/_semaphore.py")
# Whose handle was interrupted on its way to the caller is told so.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")


@pytest.fixture
def name() -> str:
    """The name of a semaphore that no other test uses."""
    return f"gpu-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def rival(dsn: str) -> Iterator[Connection[Any]]:
    """Somebody who has what we want, and who watches: our locks are all but his."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def interrupt_each(
    interrupter: Interrupter, client: Locks, rival: Connection[Any], section: Callable[[], object]
) -> int:
    """Interrupt a section at each moment; return how many there were."""

    def nothing_left() -> bool:
        others = [row for row in locks_in_db(rival) if row.pid != rival.info.backend_pid]
        return not others and not len(client._ledger)

    count = 0
    for where in interrupter.each(section):
        if not any(nothing_left() for _ in range(50)):  # mostly it is a matter of a round trip
            eventually(nothing_left, message=f"nothing left of what was interrupted at {where}")
        count += 1
    return count


def test_no_slot_is_free(dsn: str, name: str, rival: Connection[Any]) -> None:
    """What was granted besides, the share of the number of slots, is given back."""
    rival.execute("SELECT pg_advisory_lock(%s)", [Key.slot(name, 0).value])
    with Locks(dsn) as client:
        semaphore = client.semaphore(name, 1)
        assert not semaphore.acquire(blocking=False)
        interrupter = Interrupter(*_OURS)
        moments = interrupt_each(
            interrupter, client, rival, lambda: semaphore.acquire(blocking=False)
        )
        assert moments > 50
        rival.execute("SELECT pg_advisory_unlock_all()")
        with semaphore.hold(wait=5):
            pass


def test_who_was_first_in_the_queue(
    dsn: str, name: str, rival: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited and has its slot leaves the queue, or nobody would ever get in."""
    slot = [Key.slot(name, 0).value]
    interrupter = Interrupter(*_OURS)
    nap, drive = _seek._nap, _seek._drive

    def freed(*args: Any) -> bool:
        rival.execute("SELECT pg_advisory_unlock_all()")
        return nap(*args)

    def unhurt(*args: Any, **how: Any) -> bool:
        # What happens until it has the slot is the other test's.
        with interrupter.paused():
            return drive(*args, **how)

    monkeypatch.setattr(_seek, "_nap", freed)
    monkeypatch.setattr(_seek, "_drive", unhurt)
    with Locks(dsn) as client:
        semaphore = client.semaphore(name, 1)

        def section() -> None:
            rival.execute("SELECT pg_advisory_lock(%s)", slot)
            with semaphore.hold(wait=5):
                pass

        section()
        assert interrupt_each(interrupter, client, rival, section) > 50


def test_several_locks_of_which_one_is_not_free(
    dsn: str, name: str, rival: Connection[Any]
) -> None:
    """After a timeout, too, they are given back, and asked for by nobody in this client."""
    names = sorted((f"{name}-{number}" for number in range(2)), key=Key.of)
    rival.execute("SELECT pg_advisory_lock(%s)", [Key.of(names[-1]).value])
    with Locks(dsn) as client:

        def section() -> None:
            with contextlib.suppress(LockTimeout), client.hold_all(names, wait=0):
                pytest.fail("one of them is not free")

        section()
        assert interrupt_each(Interrupter("_all.py", "_ledger.py"), client, rival, section) > 50
        rival.execute("SELECT pg_advisory_unlock_all()")
        with client.hold_all(names, wait=5):
            pass
