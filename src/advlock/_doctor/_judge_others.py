"""The verdicts on other people's locks: who waits too long, who holds one and does nothing. Pure.

A server cannot know from outside whether a waiter's client is gone. What is certain: no session of
advlock's waits for longer than half a second at a time, so whoever waits for minutes in one go is
somebody else's, holds back VACUUM meanwhile, and may be a ghost.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from advlock import _label
from advlock._doctor._judge import Judged, counted
from advlock._doctor._report import find
from advlock._duration import brief
from advlock._key import Key
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._doctor._about import About
    from advlock._doctor._report import Finding
    from advlock._doctor._seen import Rows

_SHOWN: Final = 10
_SHOWN_KEYS: Final = 3


def waiters(seen: Rows, about: About) -> Judged:
    """Some wait; one that waits for minutes in one statement is worth a look."""
    long = [row for row in seen if row[4] and float(row[4]) > about.limits.waiting]
    fact = counted(len(seen), "session") + f" waiting, {len(long) or 'none'} of them for long"
    if not seen:
        fact = "nobody waits for an advisory lock"
    return Judged(fact, _first([_long_waiter(row, about) for row in long]))


def _long_waiter(row: tuple[str | None, ...], about: About) -> Finding:
    pid, _, _, _, age, application, user, snapshot, blockers = row
    back = ", and holds back VACUUM" if snapshot == "t" else ""
    return find(
        "long-waiter",
        f"session {pid} has waited for an advisory lock for {brief(float(age or 0))}{back}; if its "
        "client is gone, it is a ghost that will be granted the lock",
        evidence=f"{_who(pid, application, user)} waits for {_key(row[1:4], about)}, "
        f"held or asked for before by {blockers or 'nobody'}",
        remedy=f"if nobody needs it any more: SELECT pg_terminate_backend({pid})",
    )


def idle_holders(seen: Rows, about: About) -> Judged:
    """A session that holds a lock, has said nothing for long, and is none of ours."""
    sessions = [list(rows) for _, rows in groupby(seen, key=lambda row: row[0])]
    hidden = sum(rows[0][4] is None for rows in sessions)
    suspects = [rows for rows in sessions if _is_suspect(rows[0], about)]
    fact = f"{counted(len(seen), 'advisory lock')} held by others in this database"
    if hidden:
        fact += f"; what {hidden} of the sessions do is hidden from this role"
    if suspects:
        fact += f"; {counted(len(suspects), 'session')} idle for long"
    return Judged(fact, _first([_leaked(rows, about) for rows in suspects]))


def _is_suspect(row: tuple[str | None, ...], about: About) -> bool:
    _, _, _, _, state, idle, application, _ = row
    if state != "idle" or _label.parse(application or ""):
        return False
    return float(idle or 0) > about.limits.idle


def _leaked(rows: Rows, about: About) -> Finding:
    pid, *_, idle, application, user = rows[0]
    keys = [_key(row[1:4], about) for row in rows[:_SHOWN_KEYS]]
    more = f" and {len(rows) - len(keys)} more" if len(rows) > len(keys) else ""
    return find(
        "leaked-lock",
        f"session {pid} has held {counted(len(rows), 'advisory lock')} and done nothing for "
        f"{brief(float(idle or 0))}: a leader at rest, or a lock that leaked into a pool",
        evidence=f"{_who(pid, application, user)} holds {', '.join(keys)}{more}",
        remedy=f"if nobody needs it any more: SELECT pg_terminate_backend({pid})",
    )


def _first(findings: list[Finding]) -> tuple[Finding, ...]:
    """Of many alike, the first ten: they are in order of age."""
    return tuple(findings[:_SHOWN])


def _who(pid: str | None, application: str | None, user: str | None) -> str:
    name = f"{application!r}" if application else "a session without application_name"
    return f"{name} (pid {pid}, role {user})"


def _key(columns: Sequence[str | None], about: About) -> str:
    """Spell a key as one would lock it, and as pg_locks shows it."""
    classid, objid, objsubid = (int(column or 0) for column in columns)
    row = f"pg_locks {classid}/{objid}/{objsubid}"
    try:
        key = Key.from_pg(classid, objid, objsubid)
    except ConfigError:
        return f"an extension's lock ({row})"
    named = about.keys.get(key)
    return f"{named.sql if named else key.sql} ({row})"


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
