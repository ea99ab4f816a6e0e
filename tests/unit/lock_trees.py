"""Locks made by hand, for what only reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from advlock._holder import Holder, Waiter
from advlock._inspect._tree import LockTree, Snapshot
from advlock._key import Key

AT = datetime(2026, 11, 26, 3, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    """So many seconds before what is seen."""
    return AT - timedelta(seconds=seconds)


def ours(pid: int, process: int, **more: Any) -> Holder:
    """A session of advlock's on host web-1, that says since when."""
    told = {"application": f"advlock:x web-1:{process}", "user": "app", "state": "idle"}
    defaults = {"host": "web-1", "process": process, "since": ago(720)}
    return Holder(pid, **(told | defaults | more))


def theirs(pid: int, **more: Any) -> Holder:
    """Somebody else's session."""
    return Holder(pid, **({"application": "psql", "user": "ops", "state": "idle"} | more))


def waiter(pid: int, *blocked_by: int, **more: Any) -> Waiter:
    """One that waits."""
    told = {"application": f"app{pid}", "user": "app", "since": ago(60)}
    return Waiter(pid, **(told | more), blocked_by=blocked_by)


def tree(name: Any = "nightly", *, key: Key | None = None, **more: Any) -> LockTree:
    """A lock of that name, or of that number."""
    key = key or Key.of(name)
    text = name if isinstance(name, str) else None
    known = {"name": text, "kind": "recorded" if text else "unknown"}
    known |= {"name": more.pop("called")} if "called" in more else {}
    return LockTree(key.classid, key.objid, key.objsubid, key, "app", **(known | more))


def seen(*trees: LockTree, **more: Any) -> Snapshot:
    """What was seen."""
    return Snapshot(AT, "app", "ops", trees, **more)
