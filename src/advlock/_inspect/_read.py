"""Read the answer of `_sql.LOOK` into what people see. Pure.

The columns of pg_locks are unsigned halves; a database is told by its oid until here. A session
that holds a lock in both modes, or several times, is one holder.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock._inspect import _stuck
from advlock._inspect._hidden import hidden
from advlock._inspect._naming import Naming, Recorded, Signed
from advlock._inspect._one import in_queue
from advlock._inspect._session_row import SessionRow, of_row
from advlock._inspect._tree import LockTree, Snapshot
from advlock._key import pg_encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advlock._holder import Holder, Waiter
    from advlock._inspect._naming import Columns, Namer
    from advlock._key import Key

Readable = dict[str, bool]
Lock = tuple[str, "Columns"]  # the oid of its database, and its number

_TEXTS: Final = 4  # columns before those that are JSON


class Answer(NamedTuple):
    """The columns of `_sql.LOOK`."""

    at: float
    database: str
    role: str
    encoding: str
    readable: Readable
    held: Sequence[Any]
    waits: Sequence[Any]
    sessions: Sequence[Any]
    prepared: Sequence[Any]
    databases: Mapping[str, str]
    names: Sequence[Any]
    runs: Sequence[Any]
    hosts: Sequence[Any]


def parse(row: Sequence[str | None]) -> Answer:
    """Take the JSON apart, once."""
    at, *texts = row[:_TEXTS]
    database, role, encoding = (text or "" for text in texts)
    # An aggregate of no rows is NULL.
    readable, *rest = (None if text is None else json.loads(text) for text in row[_TEXTS:])
    held, waits, sessions, prepared, databases, names, runs, hosts = (told or () for told in rest)
    return Answer(
        float(at or 0),
        database,
        role,
        encoding,
        readable or {},
        held,
        waits,
        sessions,
        prepared,
        databases or {},
        names,
        runs,
        hosts,
    )


def snapshot(
    answer: Answer,
    namer: Namer,
    asked: Mapping[Key, Naming] | None = None,
    *,
    limits: Limits | None = None,
    locked: bool = False,
) -> Snapshot:
    """Make what people see.

    Args:
        answer: What the server said.
        namer: Names keys.
        asked: What somebody looks for.
        limits: When a session is odd.
        locked: Whether our tables could not be read for the moment.
    """
    namer.speak(pg_encoding(answer.encoding))
    reading = _Reading(answer, namer, limits or Limits())
    trees = reading.trees(asked)
    trees.sort(key=_order)
    return Snapshot(
        datetime.fromtimestamp(answer.at, UTC),
        answer.database,
        answer.role,
        tuple(trees),
        hidden(answer, reading.sessions.values(), trees, locked=locked),
    )


class Limits(NamedTuple):
    """After how many seconds an idle holder, or a waiter, is odd."""

    idle: float = _stuck.IDLE
    waiting: float = _stuck.WAITING


def _order(tree: LockTree) -> tuple[Any, ...]:
    """Those with waiters first, then by name; those without a name last."""
    numbers = (tree.database, tree.objsubid, tree.classid, tree.objid)
    return (not tree.waiters, tree.name is None, tree.name or "", *numbers)


class _Reading:
    """One answer on its way."""

    def __init__(self, answer: Answer, namer: Namer, limits: Limits) -> None:
        self._answer = answer
        self._namer = namer
        self._limits = limits
        self.sessions = {row[0]: of_row(row[:-1], single=row[-1]) for row in answer.sessions}
        self._prepared = {vxid: _prepared(*told) for vxid, *told in answer.prepared}
        self._recorded = _recorded(answer, namer)
        self._seen: dict[Any, Holder] = {}

    def trees(self, asked: Mapping[Key, Naming] | None) -> list[LockTree]:
        """Read all locks."""
        held: dict[Lock, dict[int | str, bool]] = defaultdict(dict)
        for pid, vxid, database, shared, keys in self._answer.held:
            who = pid if pid is not None else vxid
            for columns in _threes(keys):
                holders = held[database, columns]
                holders[who] = shared and holders.get(who, True)
        waits: dict[Lock, list[Any]] = defaultdict(list)
        for row in self._answer.waits:
            waits[row[1], (row[3], row[4], row[5])].append(row)
        return [
            self._tree(lock, held.get(lock, {}), waits.get(lock, ()), asked)
            for lock in (held if not waits else dict.fromkeys((*held, *waits)))
        ]

    def _tree(
        self,
        lock: Lock,
        held: Mapping[int | str, bool],
        waits: Sequence[Any],
        asked: Mapping[Key, Naming] | None,
    ) -> LockTree:
        oid, columns = lock
        database = self._answer.databases.get(oid, "")
        if database == self._answer.database:
            naming = self._naming(columns, [*held, *(row[0] for row in waits)], asked)
        else:
            naming = self._namer.name_elsewhere(columns, database)
        waiters = [self._waiter(row) for row in waits]
        waiters.sort(key=in_queue)
        return LockTree(
            *columns,
            naming.key,
            database,
            naming.name,
            naming.kind,
            naming.description,
            naming.owner,
            naming.candidates,
            tuple([self._holder(who, shared, naming.key) for who, shared in held.items()]),
            tuple(waiters),
        )

    def _naming(
        self, columns: Columns, who: Sequence[int | str], asked: Mapping[Key, Naming] | None
    ) -> Naming:
        signed = []
        for pid in who:
            session = self._session(pid)
            if session.label is not None and session.label.name:
                signed.append(Signed(session.label, session.single))
        recorded = self._recorded.get(columns, ())
        return self._namer.name(columns, recorded, signed, asked)

    def _session(self, who: int | str) -> SessionRow:
        if isinstance(who, str):
            return self._prepared.get(who) or SessionRow(0)
        found = self.sessions.get(who)
        return found if found is not None else SessionRow(who)  # it has just ended

    def _holder(self, who: int | str, shared: bool, key: Key | None) -> Holder:  # noqa: FBT001
        session = self._session(who)
        since = self._namer.since(session, key)
        # Thousands of locks of one session are alike.
        found = self._seen.get((who, shared, since))
        if found is None:
            at = self._answer.at
            flags: tuple[str, ...] = (_stuck.PREPARED,)
            if session.pid:
                flags = _stuck.of_holder(session, at, idle=self._limits.idle)
            found = session.holder(shared=shared, since=since, flags=flags)
            self._seen[who, shared, since] = found
        return found

    def _waiter(self, row: Sequence[Any]) -> Waiter:
        pid, _, shared, *_, waitstart, blockers = row
        session = self._session(pid)
        flags = _stuck.of_waiter(session, waitstart, self._answer.at, waiting=self._limits.waiting)
        return session.waiter(
            shared=shared,
            since=session.since_of_wait(waitstart),
            flags=flags,
            blocked_by=tuple(dict.fromkeys(blockers or ())),
        )


def _threes(numbers: Sequence[int]) -> Iterator[Columns]:
    """Cut a list of numbers into `classid`, `objid`, `objsubid`."""
    each = iter(numbers)
    return zip(each, each, each, strict=True)


def _prepared(gid: str, owner: str, at: float) -> SessionRow:
    """Make a session of a transaction that was prepared: it has no process any more."""
    quoted = gid.replace("'", "''")
    return SessionRow(
        0,
        gid,
        user=owner or "",
        state="prepared transaction",
        state_since=at,
        transaction=at,
        query=f"PREPARE TRANSACTION '{quoted}'",
    )


def _recorded(answer: Answer, namer: Namer) -> dict[Columns, list[Recorded]]:
    """Sort what was written down by the lock that it is about.

    Tables that somebody else made, under our names, may have anything in them: that names nothing.
    """
    found: dict[Columns, list[Recorded]] = defaultdict(list)
    for key, name, scheme, seed in answer.names:
        if _is_sound(key, name, scheme, seed):
            found[_columns(key)].append(Recorded(name, scheme, seed or 0))
    for key, job, at in answer.runs:
        if (tick := _tick(at)) is None or not isinstance(key, int):
            continue
        about = f"a run of the cron's job {job}, due {tick}"
        # Runs that may overlap have a lock each; which of the two it is, the hash tells.
        found[_columns(key)] += [
            Recorded(f"cron:{job}", description=about),
            Recorded(f"cron:{job}@{tick}", description=about),
        ]
    for ident, host, pid, source in answer.hosts:
        name = f"cron-host:{ident}"
        if (made := namer.make(name)) is not None:
            about = f"the cron's scheduler {host}:{pid} ({source}) is alive"
            found[made.classid, made.objid, made.objsubid].append(Recorded(name, description=about))
    return found


def _is_sound(key: Any, name: Any, scheme: Any, seed: Any) -> bool:
    numbers = isinstance(key, int) and isinstance(seed or 0, int)
    return numbers and isinstance(name, str) and isinstance(scheme, str)


def _tick(at: Any) -> str | None:
    """Spell when a run was due; None for `infinity`, and for a year that Python does not have."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _columns(key: int) -> Columns:
    return key >> 32 & 0xFFFFFFFF, key & 0xFFFFFFFF, 1
