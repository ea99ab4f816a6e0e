"""The memory server's lock table: its four rules, and who is on whose account.

tests/ecosystem/test_pytest_plugin_table.py compares it with a real server.
"""

from __future__ import annotations

import pytest

from advlock.testing._table import SESSION, TRANSACTION, Outcome, Table, Tag

A, B, C = "abc"
TAG = Tag("db", 1, pair=False)


class Scene:
    """A table, and who was served, in order."""

    def __init__(self) -> None:
        self.served: list[object] = []
        self.table = Table(self.served.append)

    def asks(self, who: str, *, shared: bool = False, waits: bool = True) -> str:
        """Ask for the one lock that there is."""
        return self.table.acquire(who, TAG, shared=shared, wait=waits).value

    def releases(self, who: str, *, shared: bool = False) -> bool:
        """Release it."""
        return self.table.release(who, TAG, shared=shared)


@pytest.fixture
def scene() -> Scene:
    """An empty table."""
    return Scene()


def test_the_queue_is_served_in_its_order(scene: Scene) -> None:
    """Those who may go together do; who came later and would be in the way does not."""
    assert scene.asks(A) == "granted"
    assert [scene.asks(who, shared=True) for who in "bc"] == ["queued"] * 2
    assert [scene.asks("d"), scene.asks("e", shared=True)] == ["queued"] * 2
    assert scene.releases(A)
    assert scene.served == [B, C]
    assert scene.releases(B, shared=True)
    assert scene.releases(C, shared=True)
    assert scene.served == [B, C, "d"]


def test_nobody_passes_those_who_wait(scene: Scene) -> None:
    """A sharer is not let in beside sharers while a writer waits; but one who shares already is."""
    assert scene.asks(A, shared=True) == "granted"
    assert scene.asks(B) == "queued"
    assert scene.asks(C, shared=True, waits=False) == "busy"
    assert scene.asks(A, shared=True, waits=False) == "granted"


def test_who_holds_it_stands_before_those_who_wait_for_him(scene: Scene) -> None:
    """To ask for the other mode behind them would be to wait for oneself."""
    assert scene.asks(A, shared=True) == "granted"
    assert scene.asks(B) == "queued"
    assert scene.asks(A) == "granted"
    assert scene.asks(C, shared=True) == "queued"
    assert scene.releases(A, shared=True)
    assert scene.served == []
    assert scene.releases(A)
    assert scene.served == [B]


def test_two_who_share_and_both_want_it_alone(scene: Scene) -> None:
    """The second is refused at once, as PostgreSQL does it."""
    assert scene.asks(A, shared=True) == scene.asks(B, shared=True) == "granted"
    assert scene.asks(A) == "queued"
    assert scene.asks(B, waits=False) == "busy"
    assert scene.asks(B) == "deadlock"


def test_holds_are_counted(scene: Scene) -> None:
    """As often as it was taken it has to be released; once more is an answer, and no harm."""
    assert scene.asks(A) == scene.asks(A) == "granted"
    assert scene.asks(B) == "queued"
    assert scene.releases(A)
    assert scene.served == []
    assert scene.releases(A)
    assert scene.served == [B]
    assert not scene.releases(A)
    assert not scene.releases(A, shared=True)


def test_transactions_have_their_own_account(scene: Scene) -> None:
    """Unlocking does not touch it; a savepoint gives back what came after it, or passes it on."""
    table = scene.table
    table.acquire(A, TAG, level=TRANSACTION)
    table.acquire(A, TAG, level=1)
    assert not scene.releases(A)
    assert scene.asks(B) == "queued"
    table.merge(A, 1)
    table.roll_back(A, 1)
    assert scene.served == []
    table.roll_back(A)
    assert scene.served == [B]


def test_the_end_of_a_session_gives_everything_back(scene: Scene) -> None:
    """What it held, and its place in the queue."""
    table = scene.table
    table.acquire(A, TAG, level=SESSION)
    table.acquire(A, Tag("db", 2, pair=False), level=TRANSACTION)
    assert scene.asks(B) == scene.asks(C) == "queued"
    table.end(B)
    table.end(A)
    assert scene.served == [C]
    table.end(C)
    assert list(table.rows()) == []


def test_circles_are_seen(scene: Scene) -> None:
    """Who waits for somebody who waits for him."""
    other = Tag("db", 2, pair=False)
    table = scene.table
    table.acquire(A, TAG)
    table.acquire(B, other)
    assert table.acquire(A, other, wait=True) is Outcome.QUEUED
    assert not table.waits_for_itself(A)
    assert scene.asks(B) == "queued"
    assert table.waits_for_itself(A)
    assert table.blockers(B) == [A]


def test_databases_and_kinds_of_keys_are_apart(scene: Scene) -> None:
    """The same number elsewhere is another lock."""
    assert scene.asks(A) == "granted"
    for tag in (Tag("other", 1, pair=False), Tag("db", 1, pair=True)):
        assert scene.table.acquire(B, tag) is Outcome.GRANTED
    assert len(list(scene.table.rows("db"))) == 2
