"""The verdicts on other people's locks: who waits too long, who holds one and does nothing. Pure.

What is odd about a session, `advlock._inspect._stuck` says, here and in `advlock ps`.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from advlock._doctor._judge import Judged, counted
from advlock._doctor._report import find
from advlock._duration import brief
from advlock._inspect._stuck import GHOST, IN_TRANSACTION, POOLED, VACUUM

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from advlock._doctor._about import About
    from advlock._doctor._report import Finding
    from advlock._holder import Holder, Waiter
    from advlock._inspect._tree import LockTree, Snapshot
    from advlock._key import Key

_SHOWN: Final = 10
_SHOWN_KEYS: Final = 3
_MOST_OF_QUERY: Final = 80


def waiters(seen: Snapshot, _: About) -> Judged:
    """Some wait; one that waits for minutes in one statement is worth a look."""
    every = [(tree, waiter) for tree in seen.trees for waiter in tree.waiters]
    long = [(tree, waiter) for tree, waiter in every if GHOST in waiter.flags]
    if not every:
        return Judged("nobody waits for an advisory lock")
    fact = counted(len(every), "session") + f" waiting, {len(long) or 'none'} of them for long"
    long.sort(key=lambda one: (one[1].since or seen.at, one[1].pid))
    return Judged(fact, _first([_long_waiter(*one, seen.at) for one in long]))


def _long_waiter(tree: LockTree, waiter: Waiter, at: datetime) -> Finding:
    pid = waiter.pid
    back = ", and holds back VACUUM" if VACUUM in waiter.flags else ""
    blockers = ", ".join(map(str, waiter.blocked_by)) or "nobody"
    return find(
        "long-waiter",
        f"session {pid} has waited for an advisory lock for {_age(waiter.since, at)}{back}; if its "
        "client is gone, it is a ghost that will be granted the lock",
        evidence=f"{_who(waiter)} waits for {_key(tree)}, held or asked for before by {blockers}",
        remedy=f"if nobody needs it any more: SELECT pg_terminate_backend({pid})",
    )


def idle_holders(seen: Snapshot, about: About) -> Judged:
    """Sessions that hold a lock, and do nothing: for long, or while others wait."""
    every = sorted(
        ((holder, tree) for tree in seen.trees for holder in tree.holders),
        key=lambda one: (one[0].state_since or seen.at, one[0].pid),
    )
    sessions = [list(locks) for _, locks in groupby(every, key=lambda one: one[0].pid)]
    hidden = sum(locks[0][0].state is None for locks in sessions)
    leaked = [locks for locks in sessions if POOLED in locks[0][0].flags]
    stalled = [
        locks
        for locks in sessions
        if IN_TRANSACTION in locks[0][0].flags
        and any(tree.waiters for _, tree in locks)
        and _seconds(locks[0][0].state_since, seen.at) > about.limits.stalled
    ]
    fact = f"{counted(len(every), 'advisory lock')} held by others in this database"
    if hidden:
        fact += f"; what {hidden} of the sessions do is hidden from this role"
    if leaked:
        fact += f"; {counted(len(leaked), 'session')} idle for long"
    if stalled:
        fact += f"; {counted(len(stalled), 'session')} idle in transaction while others wait"
    found = [_leaked(locks, seen.at) for locks in leaked]
    return Judged(fact, (*_first(found), *_first([_stalled(one, seen.at) for one in stalled])))


def _leaked(locks: Sequence[tuple[Holder, LockTree]], at: datetime) -> Finding:
    holder = locks[0][0]
    return find(
        "leaked-lock",
        f"session {holder.pid} has held {counted(len(locks), 'advisory lock')} and done nothing "
        f"for {_age(holder.state_since, at)}: a leader at rest, or a lock that leaked into a pool",
        evidence=f"{_who(holder)} holds {_keys(tree for _, tree in locks)}",
        remedy=f"if nobody needs it any more: SELECT pg_terminate_backend({holder.pid})",
    )


def _stalled(locks: Sequence[tuple[Holder, LockTree]], at: datetime) -> Finding:
    holder = locks[0][0]
    waited_for = [tree for _, tree in locks if tree.waiters]
    count = counted(sum(len(tree.waiters) for tree in waited_for), "session")
    back = ", and holds back VACUUM" if VACUUM in holder.flags else ""
    age = _age(holder.state_since, at)
    return find(
        "stalled-holder",
        f"session {holder.pid} has been idle in a transaction for {age} while {count} waited for "
        f"what it has locked{back}",
        evidence=f"{_who(holder)} holds {_keys(waited_for)}; its last query: {_query(holder)}",
        remedy="have its program end the transaction before it waits for anything else; if that "
        f"is stuck: SELECT pg_terminate_backend({holder.pid})",
    )


def _first(findings: list[Finding]) -> tuple[Finding, ...]:
    """Of many alike, the first ten: they are in order of age."""
    return tuple(findings[:_SHOWN])


def _seconds(since: datetime | None, at: datetime) -> float:
    return 0.0 if since is None else (at - since).total_seconds()


def _age(since: datetime | None, at: datetime) -> str:
    return brief(_seconds(since, at))


def _who(session: Holder) -> str:
    unnamed = "a session without application_name"
    name = repr(session.application) if session.application else unnamed
    return f"{name} (pid {session.pid}, role {session.user or 'unknown'})"


def _query(session: Holder) -> str:
    """Its last query in one line: what is in it came from somebody's program."""
    text = " ".join((session.query or "not known").split())
    return repr(text[:_MOST_OF_QUERY] + "…" if len(text) > _MOST_OF_QUERY else text)


def _keys(trees: Iterable[LockTree]) -> str:
    keys = [_key(tree) for tree in trees]
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return ", ".join(keys[:_SHOWN_KEYS]) + more


def _key(tree: LockTree) -> str:
    """Spell a key as one would lock it, and as pg_locks shows it; what it is, if that is known."""
    row = f"pg_locks {tree.classid}/{tree.objid}/{tree.objsubid}"
    said = tree.name or " or ".join(tree.candidates)
    if tree.key is None:
        return f"{said or 'the lock of an extension'} ({row})"
    if said and tree.key.name is None:
        return f"{tree.key.sql} ({row}: {said})"
    return f"{tree.key.sql} ({row})"


def collisions(seen: Sequence[Key], about: About) -> Judged:
    """Two names with one key exclude each other."""
    by_key: dict[Key, Key] = {}
    findings = []
    for key in seen:
        other = by_key.setdefault(key, key)
        if (key.name, key.seed) != (other.name, other.seed):
            findings.append(_collision(other, key))
    about.keys = by_key
    return Judged(f"{counted(len(seen), 'name')}, {len(by_key)} different keys", tuple(findings))


def _collision(one: Key, other: Key) -> Finding:
    return find(
        "key-collision",
        f"{_named(one)} and {_named(other)} are one lock: they exclude each other",
        evidence=f"{one.sql} = {other.sql} = {one.value}",
        remedy=f"rename one of them, e.g. {_named(other)[:-1]}-2'"
        if other.name
        else "take another number for one of them",
    )


def _named(key: Key) -> str:
    return repr(key.name) if key.name is not None else key.sql
