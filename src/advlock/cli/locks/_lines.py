"""A snapshot as lines: one for each session, waiters as a tree under whom they wait for. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advlock._holder import Holder, Waiter
    from advlock._inspect._tree import LockTree


class Twigs(NamedTuple):
    """What a tree is drawn with: at the side of a line, and at the side of what is below it."""

    fork: str
    last: str
    along: str
    below: str = "   "


DRAWN = Twigs("├─ ", "└─ ", "│  ")
ASCII = Twigs("|- ", "`- ", "|  ")


class Line(NamedTuple):
    """One session, in front of which a part of the tree is drawn."""

    tree: LockTree
    session: Holder
    branch: str = ""


def lines(trees: Sequence[LockTree], twigs: Twigs = DRAWN) -> Iterator[Line]:
    """Yield the lines of all locks: holders, and under each who waits for it."""
    for tree in trees:
        holders = sorted(tree.holders, key=lambda holder: holder.pid)  # the server has no order
        if not tree.waiters:  # nearly all of ten thousand
            for holder in holders:
                yield Line(tree, holder)
            continue
        below = _below(tree, [holder.pid for holder in holders])
        for holder in holders:
            yield Line(tree, holder)
            yield from _branches(tree, below, holder.pid, "", twigs)
        for waiter in below.get(0, ()):
            yield Line(tree, waiter)
            yield from _branches(tree, below, waiter.pid, "", twigs)


def _below(tree: LockTree, holders: Sequence[int]) -> dict[int, list[Waiter]]:
    """Give each waiter a place under a process: a holder, else who is ahead of it, else none (0).

    Everybody in a queue waits for the holders and for those ahead: hung under the holder, the
    queue reads from top to bottom. Only who waits for a waiter alone (a reader behind a writer)
    stands under that one. Processes that wait for each other would hang in the air: the first of
    them has no place then.
    """
    placed: set[int] = set(holders)
    below: dict[int, list[Waiter]] = {}
    left = list(tree.waiters)
    while left:
        rest = []
        for waiter in left:
            above = next((pid for pid in holders if pid in waiter.blocked_by), None)
            if above is None:
                above = next((pid for pid in waiter.blocked_by if pid in placed), None)
            if above is None and not waiter.blocked_by:
                above = holders[-1] if holders else 0
            if above is None:
                rest.append(waiter)
                continue
            below.setdefault(above, []).append(waiter)
            placed.add(waiter.pid)
        if len(rest) == len(left):
            below.setdefault(holders[-1] if holders else 0, []).append(rest[0])
            placed.add(rest.pop(0).pid)
        left = rest
    return below


def _branches(
    tree: LockTree, below: dict[int, list[Waiter]], pid: int, lead: str, twigs: Twigs
) -> Iterator[Line]:
    waiters = below.pop(pid, [])  # a process that holds and waits is drawn once
    for number, waiter in enumerate(waiters, 1):
        last = number == len(waiters)
        yield Line(tree, waiter, lead + (twigs.last if last else twigs.fork))
        further = lead + (twigs.below if last else twigs.along)
        yield from _branches(tree, below, waiter.pid, further, twigs)
