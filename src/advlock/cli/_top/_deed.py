"""Ending a session: whether it is clear which is meant, and what came of it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from advlock._inspect import _kill
from advlock.cli._top._detail import free_sql
from advlock.cli._top._view import lock_id
from advlock.cli.locks._table import name_of, who

if TYPE_CHECKING:
    from advlock._inspect._kill import Signalled, Target
    from advlock._inspect._tree import LockTree, Snapshot
    from advlock.cli._top._view import Row

PATIENCE = 5.0  # seconds until a session that has not ended is worth a word


class Doing(NamedTuple):
    """What was asked of the server.

    Attributes:
        target: Whom it is about.

        cancel: Whether only what it runs is to end.

        plan: What the verdict will be the answer to.

        began: When, by a monotonic clock.
    """

    target: Target
    cancel: bool
    plan: object
    began: float


def target_of(row: Row | None, seen: Snapshot) -> Target | str:
    """Whom a row means; or why that is not clear, and what to do."""
    if row is None:
        return "there is nothing under the cursor"
    if row.who is None:
        number = len(row.tree.holders)
        if not number:
            return f"nobody holds {name_of(row.tree)}: there is nothing to end"
        return f"{number} sessions share {name_of(row.tree)}: move to the one that you mean"
    if not row.who.pid:
        return f"a prepared transaction has no process to end; instead: {free_sql(row)[0]}"
    found = _kill.targets([row.tree], seen.trees, row.who.pid)
    same = [one for one in found if one.session.waiting == row.who.waiting]
    return same[0] if same else "that session is gone"


def refused(doing: Doing, verdict: Signalled) -> str:
    """Why nothing was done; empty if it was. That it is forbidden, `advlock kill` has words for."""
    one, name = doing.target.session, name_of(doing.target.tree)
    texts = {
        "gone": f"{who(one)} is gone already",
        "another": f"server pid {one.pid} belongs to another session by now",
        "released": f"{who(one)} has nothing to do with {name} any more",
        "ourselves": "that is the session that asks",
    }
    text = texts.get(verdict.outcome, "")
    return f"nothing was done: {text}" if text else ""


def outcome(doing: Doing, seen: Snapshot, now: float) -> tuple[str, bool] | None:
    """What became of it, and whether that is what was wanted; None while it is not to be seen."""
    one = doing.target.session
    tree = _same_lock(doing.target.tree, seen)
    sessions = () if tree is None else tree.waiters if one.waiting else tree.holders
    if any((other.pid, other.connected) == (one.pid, one.connected) for other in sessions):
        if now - doing.began < PATIENCE:
            return None
        if doing.cancel:
            return f"cancelled what {who(one)} ran; it has the lock still", True
        return f"told {who(one)} to end, but it is still there", False
    deed = "what it ran was cancelled, and" if doing.cancel else "ended:"
    return f"{who(one)}: {deed} {_afterwards(doing.target.tree, tree)}", True


def _afterwards(before: LockTree, tree: LockTree | None) -> str:
    if tree is None or not tree.holders:
        return f"{name_of(before)} is free now"
    names = " and ".join(who(holder) for holder in tree.holders[:3])
    more = len(tree.holders) - 3
    return f"{name_of(tree)} is now held by {names}" + (f" and {more} more" if more > 0 else "")


def _same_lock(tree: LockTree, seen: Snapshot) -> LockTree | None:
    return next((one for one in seen.trees if lock_id(one) == lock_id(tree)), None)
