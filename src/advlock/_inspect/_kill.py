"""End the session that has a lock, or what it runs: which, whether, and what came of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from advlock._inspect import _kill_sql
from advlock._plan import Refused, Script, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._holder import Holder, Waiter
    from advlock._inspect._tree import LockTree
    from advlock._plan import SessionPlan

_NOT_ALLOWED = "42501"
_TRUE = ("t", "True")  # as libpq has it, and as str() of what psycopg made of it
# Where a role's name was made in a database of another encoding, and its bytes are no text here.
_NO_TEXT = "\N{REPLACEMENT CHARACTER}"

Outcome: TypeAlias = Literal["sent", "gone", "another", "released", "ourselves", "forbidden"]


@dataclass(frozen=True, slots=True)
class Target:
    """One session, and the lock because of which it is to end.

    Attributes:
        tree: The lock.

        session: Who has it, or waits for it.

        others: What else it holds; all of that will be free as well.

        waits_for: What else it waits for.
    """

    tree: LockTree
    session: Holder
    others: tuple[LockTree, ...] = ()
    waits_for: tuple[LockTree, ...] = ()

    @property
    def heirs(self) -> tuple[Waiter, ...]:
        """Who wait for what is free when this session is gone, as far as the queue is known."""
        return tuple(w for w in self.tree.waiters if w.pid != self.session.pid)

    @property
    def idle(self) -> bool:
        """Whether it is known to run nothing, so that there is nothing to cancel."""
        return not self.session.waiting and (self.session.state or "active").startswith("idle")

    @property
    def prepared(self) -> bool:
        """Whether it is no session but a transaction that waits for its second phase."""
        return self.session.pid == 0

    @property
    def pooled(self) -> bool:
        """Whether a pooler seems to lend this session to its clients."""
        return any(flag in {"pinned", "idle-pooled"} for flag in self.session.flags)


class Signalled(NamedTuple):
    """What came of it.

    Attributes:
        outcome: `sent`; or nothing was done: the session is `gone`, its number belongs to
            `another` one, it has `released` the lock, it is `ourselves`, or this is `forbidden`.

        superuser: The session is a superuser's.

        role: Our role, quoted as in SQL.

        owner: The session's role, likewise.

        message: The server's own words.
    """

    outcome: Outcome
    superuser: bool = False
    role: str = ""
    owner: str = ""
    message: str = ""


class Still(NamedTuple):
    """How it stands a moment later: whether the session is there, and whether it has the lock."""

    there: bool
    locked: bool


def targets(
    trees: Sequence[LockTree], every: Sequence[LockTree], pid: int | None = None
) -> list[Target]:
    """Find who could be meant: the holders of these locks; with `pid` that session alone.

    Args:
        trees: The locks that are meant.
        every: All that were seen: what else a session holds is freed with it.
        pid: A server process; then those who wait are found, too. A session that shares a lock and
            wants it alone is found twice, first as its holder.
    """
    return [_target(tree, session, every) for tree in trees for session in _sessions(tree, pid)]


def _sessions(tree: LockTree, pid: int | None) -> Sequence[Holder]:
    if pid is None:
        return tree.holders
    return [one for one in (*tree.holders, *tree.waiters) if one.pid == pid]


def address(tree: LockTree) -> tuple[str, int, int, int]:
    """What one lock is, and no other of the server, whatever it is called."""
    return tree.database, tree.classid, tree.objid, tree.objsubid


def signal(target: Target, *, cancel: bool = False) -> SessionPlan[Signalled]:
    """End this session, or cancel what it runs, if it still is what it was.

    Nothing happens to any other session: see `_kill_sql.SIGNAL`.

    Raises:
        Refused: the server had another reason not to than a privilege that is missing.
    """
    session = target.session
    # Since when it exists is enough to know it by.
    unknown = _NO_TEXT in session.user and session.connected is not None
    arguments = (
        *_identity(target),
        None if unknown else session.user,
        session.application,
        *_lock(target),
        str(cancel).lower(),
    )
    try:
        (answer,) = yield Script((Step(_kill_sql.SIGNAL, arguments),))
    except Refused as refusal:
        if refusal.sqlstate != _NOT_ALLOWED:
            raise
        return (yield from _forbidden(session.pid, refusal))
    there, same, locked, ours, sent = (str(value) in _TRUE for value in answer[0])
    if ours:
        return Signalled("ourselves")
    if not same:
        return Signalled("another" if there else "gone")
    if not locked:
        return Signalled("released")
    # The signal finds no process only if that ended just now.
    return Signalled("sent" if sent else "gone")


def still(target: Target) -> SessionPlan[Still]:
    """Ask whether the session is there, and has the lock."""
    arguments = (*_identity(target), *_lock(target))
    (answer,) = yield Script((Step(_kill_sql.STILL, arguments),))
    return Still(*(str(value) in _TRUE for value in answer[0]))


def _target(tree: LockTree, session: Holder, every: Sequence[LockTree]) -> Target:
    pid = session.pid
    rest = [other for other in every if pid and address(other) != address(tree)]
    others = tuple(other for other in rest if any(h.pid == pid for h in other.holders))
    waits = tuple(other for other in rest if any(w.pid == pid for w in other.waiters))
    return Target(tree, session, others, waits)


def _identity(target: Target) -> tuple[str, str | None]:
    connected = target.session.connected
    return str(target.session.pid), None if connected is None else connected.isoformat()


def _lock(target: Target) -> tuple[str, ...]:
    tree = target.tree
    numbers = (str(tree.classid), str(tree.objid), str(tree.objsubid))
    return (*numbers, tree.database, str(not target.session.waiting).lower())


def _forbidden(pid: int, refusal: Refused) -> SessionPlan[Signalled]:
    (answer,) = yield Script((Step(_kill_sql.RIGHTS, (str(pid),)),))
    superuser, role, owner = answer[0]
    return Signalled("forbidden", str(superuser) in _TRUE, role or "", owner or "", refusal.message)
