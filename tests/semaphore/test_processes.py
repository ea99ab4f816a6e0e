"""Semaphores among processes: so many and no more, in turn, and of one mind; with the command."""

from __future__ import annotations

import signal
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from cli.helpers import WORKER, Cli, sessions
from waiting import eventually

from advlock import Key, Locks
from advlock.cli.exits import Exit

from .crew import Crew, disagreed, doubles, most_at_once, overtakings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

_SECONDS = 1.2
_WORKERS = 6
# Those who come while nobody has the queue yet, or who ask at the same moment.
_FAIR = 2 * _WORKERS


@pytest.fixture
def name() -> str:
    """The name of a semaphore that no other test uses."""
    return f"gpu-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def crew(dsn: str, admin: Connection[Any]) -> Iterator[Crew]:
    """Nobody yet."""
    with Crew(dsn, admin, together=True) as made:
        yield made


@pytest.fixture
def cli(dsn: str) -> Iterator[Cli]:
    """The command, with the test's database."""
    started = Cli(dsn)
    yield started
    started.close()


def test_holders_never_exceed_the_slots(crew: Crew, name: str) -> None:
    """Six processes, two slots: two at a time, no slot twice, everybody gets in, in turn."""
    for _ in range(_WORKERS):
        crew.start("slots", _SECONDS, name, 2)
    said = crew.said()
    rows = crew.rows()
    assert Counter(said) == {"ready": _WORKERS}
    assert not doubles(rows)
    assert most_at_once(rows) == 2
    assert len({row.who for row in rows}) == _WORKERS
    passed = overtakings(rows)  # who was stopped before it had queued up is passed by many
    assert passed[len(passed) * 9 // 10] <= _FAIR


def test_without_it_they_do(crew: Crew, name: str) -> None:
    """The control: the same processes, and nothing that keeps them apart."""
    for _ in range(_WORKERS):
        crew.start("unprotected", 0.8, name, 2)
    crew.said()
    rows = crew.rows()
    assert most_at_once(rows) > 2
    assert doubles(rows)
    assert not disagreed(rows)


def test_who_disagrees_is_never_inside_together(crew: Crew, name: str) -> None:
    """Two say that there are two slots, and two say three: whoever is inside, all say the same."""
    for slots in (2, 3) * 2:
        crew.start("slots", _SECONDS, name, slots, 1.0)
    said = crew.said()
    rows = crew.rows()
    assert not disagreed(rows)
    assert not doubles(rows)
    assert rows
    assert any("slots here, and" in line for line in said)


def test_the_command_and_the_library_share_it(
    cli: Cli, dsn: str, admin: Connection[Any], name: str
) -> None:
    """`advlock run --slots` and `Locks.semaphore` count together, and wait in one queue."""
    with Locks(dsn) as locks:
        semaphore = locks.semaphore(name, 2)
        with semaphore.hold() as mine:
            running = cli.start("run", "--slots", "2", name, "--", *WORKER)
            running.worker()
            assert len(sessions(admin, name, slot=1 - mine.slot)) == 1
            with semaphore.attempt() as none:
                assert none is None
            assert cli("run", "-n", "--slots", "2", name, "--", "true")[0] == Exit.BUSY
            waits = cli.start("run", "--slots", "2", name, "--", *WORKER)
            assert "waiting for" in waits.said()
            queue = Key.agreed(name, 0)
            eventually(lambda: [h for h in locks.holders(queue) if not h.waiting])
            found = {tree.name for tree in locks.inspect([name]).trees}
            assert found >= {name, f"{name} (slot 1)", f"{name} (of 2)", f"{name} (queue)"}
        waits.worker()
        with semaphore.attempt() as none:
            assert none is None
        for each in (running, waits):
            each.send(signal.SIGTERM)
            assert each.code() == 0
        with semaphore.hold(wait=5):
            pass


def test_the_command_refuses_to_disagree(cli: Cli, dsn: str, name: str) -> None:
    """With 78, and it says who says what."""
    with Locks(dsn) as locks, locks.semaphore(name, 2).hold():
        code, _, err = cli("run", "--slots", "3", name, "--", "true")
        assert code == Exit.CONFIG
        assert f"the semaphore '{name}' has 3 slots here, and 2 slots for others" in err
