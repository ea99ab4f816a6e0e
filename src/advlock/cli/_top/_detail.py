"""What there is to say about one line of the table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._inspect._why import explain
from advlock.cli.locks._json import key_text
from advlock.cli.locks._table import address, name_of, who
from advlock.cli.locks._text import age, folded, visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from advlock._holder import Holder
    from advlock._inspect._tree import LockTree, Snapshot
    from advlock.cli._top._view import Row

LABEL: Final = 9  # cells


class Fact(NamedTuple):
    """One thing to know: a label shorter than `LABEL`, the text, and what it means."""

    label: str
    text: str
    role: str = ""


def heading(row: Row) -> str:
    """What the details are about."""
    about = name_of(row.tree)
    return f"{about}: {who(row.who)}" if row.child and row.who else about


def facts(row: Row, seen: Snapshot) -> list[Fact]:
    """Everything about a row: the lock in words, the session, what it does, and the SQL for both.

    What one comes for stands first: a small screen cuts the end off.
    """
    said = [Fact("", folded(explain(row.tree, seen)))]
    said += [Fact("free it", sql, "sql") for sql in free_sql(row)]
    if row.who is not None:
        said += session(row.who, seen.at)
    said += [*_lock(row.tree), Fact("find it", find_sql(row.tree), "sql")]
    return said


def session(one: Holder, at: datetime) -> Iterator[Fact]:
    """Who a session is, what it does, and what is odd about it."""
    where = (one.user, one.application, one.client or "")
    told = ", ".join(visible(part) for part in where if part)
    if one.pid:
        yield Fact("session", f"{one.pid}: {told}" if told else str(one.pid))
    if one.state:
        lasting = age(one.state_since, at)
        yield Fact("state", visible(f"{one.state} for {lasting}" if lasting else one.state))
    if one.flags:
        yield Fact("flags", ", ".join(map(visible, one.flags)), "stuck")
    if one.query:
        yield Fact("query", folded(one.query), "sql")


def free_sql(row: Row) -> list[str]:
    """The statements that end the session of a row; on the line of a shared lock, each of them."""
    ends = (row.who,) if row.who is not None else row.tree.holders
    return [_end_sql(one) for one in ends]


def _end_sql(one: Holder) -> str:
    if one.pid or not one.query:
        return f"SELECT pg_terminate_backend({one.pid})"
    # A prepared transaction has no process; its query is what made it one (`_inspect._read`).
    return folded(one.query.replace("PREPARE TRANSACTION", "ROLLBACK PREPARED", 1))


def find_sql(tree: LockTree) -> str:
    """The statement that shows who holds a lock and who waits for it."""
    return (
        "SELECT * FROM pg_locks WHERE locktype = 'advisory'"  # noqa: S608 - to be read, three ints
        f" AND classid = {tree.classid} AND objid = {tree.objid} AND objsubid = {tree.objsubid}"
    )


def _lock(tree: LockTree) -> Iterator[Fact]:
    if tree.key is not None:
        yield Fact("key", key_text(tree.key))
        if tree.key.name is not None:
            yield Fact("made by", visible(tree.key.sql), "sql")
    yield Fact("pg_locks", address(tree))
    yield Fact("kind", tree.kind + (f"; owner: {visible(tree.owner)}" if tree.owner else ""))
