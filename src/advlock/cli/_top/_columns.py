"""The columns of the table: which of them a width has room for, and what stands in them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from advlock.cli._top._view import STUCK
from advlock.cli._top._words import flags
from advlock.cli.locks._json import key_text
from advlock.cli.locks._table import address, name_of, who
from advlock.cli.locks._text import age, visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from advlock.cli._top._view import Row

GAP: Final = 2


class Cell(NamedTuple):
    """A text, and what it means: the name of one of the table's styles."""

    text: str
    role: str = ""


class Column(NamedTuple):
    """One column.

    Attributes:
        head: What stands above it.

        width: How many cells it takes; for one that grows, at least.

        cell: What stands in it, given the row and the time of the picture.

        sort: What to sort by when its head is clicked.

        share: Its part of what is left over.

        right: Whether its text ends at its right edge.
    """

    head: str
    width: int
    cell: Callable[[Row, datetime], Cell]
    sort: str = ""
    share: int = 0
    right: bool = False


def _name(row: Row, at: datetime) -> Cell:  # noqa: ARG001 - as the others
    if row.child and row.who is not None:
        return Cell(f"  {row.branch}{who(row.who)}", _role(row))
    mark = {None: "  ", True: "▸ ", False: "▾ "}[row.folded]
    return Cell(mark + name_of(row.tree), "name" if row.tree.name is not None else "")


def _holder(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    if row.child and row.who is not None:
        return Cell(visible(row.who.user), "less")
    if row.who is not None:
        return Cell(who(row.who), _role(row))
    number = len(row.tree.holders)
    return Cell(f"{number} sessions", _role(row)) if number else Cell("nobody", "less")


def _only_holder(row: Row, at: datetime) -> Cell:
    """The same, where there is a column for the user."""
    return Cell("") if row.child else _holder(row, at)


def _state(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    if row.who is None:
        shared = any(one.shared for one in row.tree.holders)
        return Cell("shared" if shared else "held" if row.tree.holders else "free")
    if row.who.waiting:
        return Cell("waits", "waiting")
    return Cell("shared" if row.who.shared else "held")


def _age(row: Row, at: datetime) -> Cell:
    one = row.who
    if one is None:
        known = [holder.since for holder in row.tree.holders if holder.since]
        return Cell(age(min(known, default=None), at))
    return Cell(age(one.since, at), "waiting" if one.waiting else "")


def _queue(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    if row.child or not row.tree.waiters:
        return Cell("")
    return Cell(str(len(row.tree.waiters)), "waiting")


def _flags(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    sessions = (row.who,) if row.who is not None else row.tree.holders
    every = tuple(dict.fromkeys(flag for one in sessions for flag in one.flags))
    return Cell(flags(every), "stuck" if row.tree.waiters and STUCK & set(every) else "odd")


def _pid(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    return Cell(str(row.who.pid) if row.who else "", "less")


def _user(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    return Cell(visible(row.who.user) if row.who else "")


def _client(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    return Cell(visible(row.who.client or "") if row.who else "", "less")


def _application(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    return Cell(visible(row.who.application) if row.who else "", "less")


def _key(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    key = row.tree.key
    text = address(row.tree) if key is None else key_text(key)
    return Cell("" if row.child else text, "less")


def _kind(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    return Cell("" if row.child else row.tree.kind, "less")


def _database(row: Row, at: datetime) -> Cell:  # noqa: ARG001
    return Cell("" if row.child else visible(row.tree.database), "less")


def _role(row: Row) -> str:
    if row.who is not None and row.who.waiting:
        return "waiting"
    return (
        "stuck" if row.who is not None and row.tree.waiters and STUCK & set(row.who.flags) else ""
    )


NAME: Final = Column("NAME", 20, _name, "name", share=3)
HOLDER: Final = Column("HOLDER", 16, _holder, share=2)
_EVERY: Final = (
    NAME,
    Column("DATABASE", 12, _database),
    HOLDER,
    Column("STATE", 6, _state),
    Column("FOR", 6, _age, "age", right=True),
    Column("QUEUE", 5, _queue, "waiters", right=True),
    Column("PID", 7, _pid, right=True),
    Column("FLAGS", 11, _flags),
    Column("USER", 10, _user),
    Column("KEY", 20, _key, right=True),
    Column("KIND", 10, _kind),
    Column("CLIENT", 15, _client),
    Column("APPLICATION", 22, _application),
)
_ALWAYS: Final = ("NAME", "HOLDER", "STATE", "FOR", "QUEUE", "FLAGS")
# What comes next when there is room: what one types, then whom one calls.
_OPTIONAL: Final = ("PID", "USER", "KEY", "KIND", "CLIENT", "APPLICATION")
# Below these, a further column would cost more than it shows.
_ENOUGH: Final = {"NAME": 26, "HOLDER": 18}


def fit(width: int, *, databases: bool) -> list[Column]:
    """Choose the columns for a width, and give what is left over to the name and the holder."""
    chosen = [*_ALWAYS, "DATABASE"] if databases else [*_ALWAYS]
    for head in _OPTIONAL:
        if _needs([*chosen, head], _ENOUGH) > width:
            break
        chosen.append(head)
    columns = [column for column in _EVERY if column.head in chosen]
    if "USER" in chosen:
        columns[columns.index(HOLDER)] = HOLDER._replace(cell=_only_holder)
    spare = max(width - _needs(chosen, {}), 0)
    shares = sum(column.share for column in columns)
    extra = {column.head: spare * column.share // shares for column in columns}
    extra["NAME"] += spare - sum(extra.values())
    return [column._replace(width=column.width + extra[column.head]) for column in columns]


def _needs(heads: list[str], enough: dict[str, int]) -> int:
    widths = [enough.get(c.head, c.width) for c in _EVERY if c.head in heads]
    return sum(widths) + GAP * (len(widths) - 1)
