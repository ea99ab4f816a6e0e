"""Waiters stand under whom they wait for, and everybody is in the picture once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lock_trees import ours, theirs, tree, waiter

from advlock.cli.locks._lines import ASCII, lines


def drawn(*trees: object, **how: object) -> list[str]:
    """The tree at the left, with the process it belongs to."""
    return [f"{line.branch}{line.session.pid}" for line in lines(trees, **how)]  # type: ignore[arg-type]


def test_a_queue_hangs_under_its_holder() -> None:
    """Who is behind others in the queue waits for the holder just the same."""
    one = tree(holders=(ours(1, 11),), waiters=(waiter(2, 1), waiter(3, 1, 2), waiter(4, 1, 2, 3)))
    assert drawn(one) == ["1", "├─ 2", "├─ 3", "└─ 4"]
    assert drawn(one, twigs=ASCII) == ["1", "|- 2", "|- 3", "`- 4"]


def test_a_reader_behind_a_writer_hangs_under_the_writer() -> None:
    """It could share the lock with its holders, but for the writer who came first."""
    readers = (theirs(1, shared=True), theirs(2, shared=True))
    queue = (waiter(3, 1, 2), waiter(4, 3, shared=True), waiter(5, 1, 2, 3))
    one = tree(holders=readers, waiters=queue)
    assert drawn(one) == ["1", "├─ 3", "│  └─ 4", "└─ 5", "2"]


def test_whom_nobody_asked_about_hangs_under_the_last_holder() -> None:
    """Of the hundreds of a long queue it is not known whom they wait for."""
    one = tree(holders=(theirs(1), theirs(2)), waiters=(waiter(3), waiter(4)))
    assert drawn(one) == ["1", "2", "├─ 3", "└─ 4"]


def test_waiters_without_a_holder_stand_alone() -> None:
    """In the moment of a hand-over nobody holds the lock."""
    assert drawn(tree(waiters=(waiter(3), waiter(4, 3)))) == ["3", "└─ 4"]


def test_who_shares_a_lock_and_wants_it_alone_is_shown_as_both() -> None:
    """One session may hold the lock and wait for it."""
    one = tree(holders=(theirs(1, shared=True), theirs(2, shared=True)), waiters=(waiter(1, 2),))
    assert drawn(one) == ["1", "2", "└─ 1"]


@given(st.data())
def test_everybody_is_drawn_once(data: st.DataObject) -> None:
    """Whoever is said to block whom, in circles as well: nobody is lost, and nobody doubled."""
    pids = st.integers(1, 9)
    holders = data.draw(st.lists(pids, unique=True, max_size=3))
    waiting = data.draw(st.lists(pids, unique=True, max_size=6))
    queue = tuple(waiter(pid, *data.draw(st.lists(pids, max_size=4))) for pid in waiting)
    one = tree(holders=tuple(theirs(pid) for pid in holders), waiters=queue)
    found = [(line.session.pid, line.session.waiting) for line in lines([one])]
    assert sorted(found) == sorted([(p, False) for p in holders] + [(p, True) for p in waiting])
