"""What was seen, for programs. Pure.

`key` is a string: it has up to 64 bits, and `jq` and JavaScript round numbers beyond 53.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from advlock._holder import Holder, Waiter
    from advlock._inspect._tree import LockTree, Snapshot
    from advlock._key import Key


def key_text(key: Key) -> str:
    """Spell a key as signed numbers, without spaces: `-42`, or `1,-2` for a pair."""
    parts = key.parts
    return f"{parts[0]},{parts[1]}" if isinstance(parts, tuple) else str(parts)


def of_snapshot(seen: Snapshot) -> Iterator[str]:
    """Yield the lines of one JSON object, a lock each.

    Not indented further: the json module does that in Python, five times slower than in C, and one
    lock in a line can be found with grep.
    """
    head = {"at": iso(seen.at), "database": seen.database, "role": seen.role}
    yield f'{_dumps(head)[:-1]}, "locks": ['
    last = len(seen.trees)
    for number, tree in enumerate(seen.trees, 1):
        yield f"  {_dumps(of_tree(tree))}{',' * (number < last)}"
    yield f'], "hidden": {_dumps(list(seen.hidden))}}}'


def of_tree(tree: LockTree) -> dict[str, Any]:
    """One lock."""
    return {
        "name": tree.name,
        "kind": tree.kind,
        "database": tree.database,
        "key": None if tree.key is None else key_text(tree.key),
        "sql": None if tree.key is None else tree.key.sql,
        "classid": tree.classid,
        "objid": tree.objid,
        "objsubid": tree.objsubid,
        "description": tree.description,
        "owner": tree.owner,
        "candidates": tree.candidates,
        "holders": [of_session(holder) for holder in tree.holders],
        "waiters": [of_waiter(waiter) for waiter in tree.waiters],
    }


def of_session(session: Holder) -> dict[str, Any]:
    """One session."""
    return {
        "pid": session.pid,
        "mode": "shared" if session.shared else "exclusive",
        "application": session.application,
        "user": session.user,
        "client": session.client,
        "host": session.host,
        "process": session.process,
        "since": iso(session.since),
        "state": session.state,
        "state_since": iso(session.state_since),
        "connected": iso(session.connected),
        "transaction": iso(session.transaction),
        "query": session.query,
        "flags": session.flags,
    }


def of_waiter(waiter: Waiter) -> dict[str, Any]:
    """One session that waits."""
    return of_session(waiter) | {"blocked_by": waiter.blocked_by}


def iso(when: datetime | None) -> str | None:
    """A time, in UTC."""
    return None if when is None else when.astimezone(UTC).isoformat()


def text_of(value: Any) -> str:
    """Any value, indented, for people's eyes as well."""
    return "\n".join(map(_harmless, json.dumps(value, ensure_ascii=False, indent=2).split("\n")))


def in_one_line(seen: Snapshot) -> str:
    """The same object, for JSON Lines."""
    return "".join(line.strip() + " " * line.endswith(",") for line in of_snapshot(seen))


def _dumps(value: Any) -> str:
    return _harmless(json.dumps(value, ensure_ascii=False))


def _harmless(line: str) -> str:
    """Escape what a terminal may obey: JSON itself only does that with the first 32 characters."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
