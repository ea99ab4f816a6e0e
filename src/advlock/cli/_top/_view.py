"""What is looked at: which locks, in which order, what is folded away. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from advlock.cli.locks._json import key_text
from advlock.cli.locks._lines import DRAWN, lines
from advlock.cli.locks._table import address, name_of, who

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from advlock._holder import Holder
    from advlock._inspect._tree import LockTree, Snapshot

# What stays the same when rows move: the lock, and for the line of a session its server process
# with the time it connected, because process ids come back.
LockId: TypeAlias = tuple[str, int, int, int]
Id: TypeAlias = tuple[LockId, int | None, "datetime | None"]

# What is wrong with a holder that keeps others waiting.
STUCK: Final = frozenset({"ghost", "idle-in-transaction", "idle-pooled"})
SORTS: Final = ("wait", "age", "name", "waiters")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        tree: The lock.

        who: The session that the line is about: that of a session's own line, and on the line of
            a lock the one that holds it; None where several do, or nobody.

        branch: What is drawn in front of the line of a session, below that of its lock; None on the
            line of a lock.

        folded: Whether the sessions of this line's lock are hidden; None where there are none.
    """

    tree: LockTree
    who: Holder | None
    branch: str | None = None
    folded: bool | None = None

    @property
    def child(self) -> bool:
        """Whether this is the line of a session below that of its lock."""
        return self.branch is not None

    @property
    def id(self) -> Id:
        """What tells this line from all others, also in the next picture."""
        if not self.child or self.who is None:
            return lock_id(self.tree), None, None
        return lock_id(self.tree), self.who.pid, self.who.connected


@dataclass(slots=True)
class View:
    """How one looks at a snapshot.

    Attributes:
        words: Only locks in which each of these words is found, in lower case.

        sort: One of `SORTS`.

        backwards: The other way round.

        waiting: Only locks that somebody waits for.

        folded: The locks whose sessions are hidden.
    """

    words: tuple[str, ...] = ()
    sort: str = SORTS[0]
    backwards: bool = False
    waiting: bool = False
    folded: set[LockId] = field(default_factory=set)

    def next_sort(self, step: int) -> None:
        """Sort by what comes `step` further on the list."""
        self.sort = SORTS[(SORTS.index(self.sort) + step) % len(SORTS)]
        self.backwards = False

    def rows(self, seen: Snapshot) -> list[Row]:
        """Every line to show, in order."""
        trees = [tree for tree in seen.trees if self._shown(tree)]
        order = _ORDERS[self.sort]
        trees.sort(key=lambda tree: order(tree, seen.at), reverse=self.backwards)
        return [row for tree in trees for row in self._lines(tree)]

    def nothing(self, seen: Snapshot) -> str:
        """Why there is no row, and what to type; for where there is none."""
        if self.words and seen.trees:
            return "no lock has all these words; Esc clears the filter"
        if self.waiting and seen.trees:
            return "nobody waits for a lock; w shows those that are held"
        return "nobody holds a lock, and nobody waits for one"

    def _shown(self, tree: LockTree) -> bool:
        if self.waiting and not tree.waiters:
            return False
        if not self.words:
            return True
        text = _haystack(tree)
        return all(word in text for word in self.words)

    def _lines(self, tree: LockTree) -> Iterator[Row]:
        only = tree.holders[0] if len(tree.holders) == 1 else None
        if only is not None and not tree.waiters:  # nearly all of ten thousand
            yield Row(tree, only)
            return
        folded = lock_id(tree) in self.folded
        yield Row(tree, only, folded=folded)
        if folded:
            return
        if only is not None:
            for line in lines([tree]):
                if line.session is not only:
                    yield Row(tree, line.session, branch=line.branch)
            return
        # Under which of several a waiter would stand, says nothing: it waits for all of them.
        every = (*sorted(tree.holders, key=_by_time), *tree.waiters)
        for number, session in enumerate(every, 1):
            yield Row(tree, session, branch=DRAWN.last if number == len(every) else DRAWN.fork)


def lock_id(tree: LockTree) -> LockId:
    """What tells one lock from all others of the server."""
    return tree.database, tree.classid, tree.objid, tree.objsubid


def longest_wait(tree: LockTree, at: datetime) -> float:
    """How long the first in the queue waits already, in seconds; -1 where nobody waits."""
    waits = [(at - one.since).total_seconds() for one in tree.waiters if one.since]
    return max(waits, default=0.0 if tree.waiters else -1.0)


def stuck(tree: LockTree) -> bool:
    """Whether somebody waits for a holder about whom something is odd."""
    return bool(tree.waiters) and any(STUCK & set(one.flags) for one in tree.holders)


def _by_time(one: Holder) -> tuple[object, ...]:
    return one.since is None, one.since or 0, one.pid


def _haystack(tree: LockTree) -> str:
    key = key_text(tree.key) if tree.key else ""
    parts: list[object] = [
        *(name_of(tree), key, address(tree), tree.kind, tree.owner, tree.database, *tree.candidates)
    ]
    for one in (*tree.holders, *tree.waiters):
        parts += (who(one), one.pid, one.application, one.user, one.client, one.state, *one.flags)
    return "\n".join(str(part) for part in parts if part is not None).lower()


def _by_wait(tree: LockTree, at: datetime) -> tuple[object, ...]:
    return -longest_wait(tree, at), *_by_name(tree, at)


def _by_age(tree: LockTree, at: datetime) -> tuple[object, ...]:
    since = [one.since for one in tree.holders if one.since]
    return not since, min(since, default=at), *_by_name(tree, at)


def _by_name(tree: LockTree, at: datetime) -> tuple[object, ...]:  # noqa: ARG001 - as the others
    return tree.name is None, name_of(tree).lower(), lock_id(tree)


def _by_waiters(tree: LockTree, at: datetime) -> tuple[object, ...]:
    return -len(tree.waiters), *_by_wait(tree, at)


_ORDERS: Final[dict[str, Callable[[LockTree, datetime], tuple[object, ...]]]] = {
    "wait": _by_wait,
    "age": _by_age,
    "name": _by_name,
    "waiters": _by_waiters,
}
