"""Columns that fit: all of them into a file, the important ones onto a terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import click

from advlock.cli.locks._json import key_text
from advlock.cli.locks._text import age, clock, cut, padded, shortened, visible, width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from advlock._holder import Holder
    from advlock._inspect._tree import LockTree
    from advlock.cli.locks._lines import Line

_GAP: Final = 2
_NONE: Final = "-"


class Column(NamedTuple):
    """A column.

    Attributes:
        head: Its heading.

        cell: What it shows of a line.

        rank: When it goes, on a narrow terminal: the highest first; 0 stays.

        usual: A value that says nothing: if all lines have it, a terminal does without.

        comfortable: To how many columns it is shortened, before another column goes; 0: never.

        least: To how many in the end, one after the other; of a name that is a key, all.

        right: Whether it is a number, which stands at the right.
    """

    head: str
    cell: Callable[[Line, datetime], str]
    rank: int = 0
    usual: str | None = _NONE
    comfortable: int = 0
    least: tuple[int, ...] = ()
    right: bool = False


def name_of(tree: LockTree) -> str:
    """What a lock is called, as far as anybody knows; else its key."""
    if tree.name is not None:
        return visible(tree.name) or "''"
    if tree.candidates:
        each = dict.fromkeys(one.partition(": ")[0] for one in tree.candidates)
        sure = "one of" if len(each) > 1 else "perhaps"
        return visible(f"{sure} {', '.join(each)}")
    return address(tree) if tree.key is None else key_text(tree.key)


def address(tree: LockTree) -> str:
    """The three numbers of pg_locks."""
    return f"{tree.classid}/{tree.objid}/{tree.objsubid}"


def who(session: Holder) -> str:
    """Who it is, as exactly as anybody knows: the process, else the application, else the role."""
    if session.host:
        return visible(f"{session.host}:{session.process}")
    return visible(session.application or session.user) or _NONE


# In the order in which they stand. Ranks: what pg_locks calls it and who says so go first, then
# what can be looked up by the pid; the name, who has it and what is odd about that stay.
COLUMNS: Final = (
    Column(
        "NAME",
        lambda line, _: line.branch + name_of(line.tree),
        comfortable=26,
        least=(23, 14),
        usual="",
    ),
    Column("STATE", lambda line, _: "waiting" if line.session.waiting else "held", usual=""),
    Column(
        "MODE",
        lambda line, _: "shared" if line.session.shared else "exclusive",
        rank=3,
        usual="exclusive",
    ),
    Column("WHO", lambda line, _: who(line.session), comfortable=18, least=(16, 10)),
    Column("PID", lambda line, _: str(line.session.pid or _NONE), right=True),
    Column("SINCE", lambda line, now: clock(line.session.since, now) or _NONE, rank=2),
    Column("FOR", lambda line, now: age(line.session.since, now) or _NONE, right=True),
    Column("FLAGS", lambda line, _: ",".join(line.session.flags) or _NONE, least=(19, 10)),
    Column("USER", lambda line, _: visible(line.session.user) or _NONE, rank=5, comfortable=16),
    Column("CLIENT", lambda line, _: visible(line.session.client or _NONE), rank=6),
    Column("KIND", lambda line, _: line.tree.kind, rank=7),
    Column(
        "DATABASE", lambda line, _: visible(line.tree.database) or _NONE, rank=1, comfortable=16
    ),
    Column("KEY", lambda line, _: key_text(line.tree.key) if line.tree.key else _NONE, rank=4),
    Column("PG_LOCKS", lambda line, _: address(line.tree), rank=8),
)


def table(
    found: Sequence[Line],
    now: datetime,
    *,
    columns: int | None = None,
    databases: bool = False,
    mark: str = "…",
) -> list[str]:
    """Lay out lines below their heads.

    Args:
        found: The lines.
        now: By the server's clock.
        columns: How wide the terminal is; None for a file, which gets everything.
        databases: Whether the locks are of several databases.
        mark: What stands for what was left out.
    """
    chosen = [column for column in COLUMNS if databases or column.head != "DATABASE"]
    cells = {column: [column.cell(line, now) for line in found] for column in chosen}
    if columns is not None:
        chosen = [c for c in chosen if c.usual is None or set(cells[c]) != {c.usual}]
    widths = {c: max(len(c.head), *map(width, cells[c])) for c in chosen}
    if columns is not None:
        _fit(widths, columns)
    heads = [padded(c.head, w, right=c.right) for c, w in widths.items()]
    rows = zip(*(cells[column] for column in widths), strict=True)
    head = "  ".join(heads).rstrip()
    shown = [click.style(head if columns is None else cut(head, columns, mark), bold=True)]
    for line, row in zip(found, rows, strict=True):
        parts = [
            padded(shortened(cell, w, mark), w, right=column.right)
            for cell, (column, w) in zip(row, widths.items(), strict=True)
        ]
        text = "  ".join(parts).rstrip()
        if columns is not None:
            text = _coloured(cut(text, columns, mark), line)
        shown.append(text)
    return shown


def _fit(widths: dict[Column, int], columns: int) -> None:
    """Shorten columns and leave some out, until all fit; if they cannot, the lines are cut.

    A column goes only when shortening others to what is comfortable was not enough; what is left
    over then is given back to those that were shortened.
    """
    natural = dict(widths)

    def excess() -> int:
        return sum(widths.values()) + _GAP * (len(widths) - 1) - columns

    def shrink(column: Column, least: int) -> None:
        if least and excess() > 0:
            least = max(least, len(column.head))
            widths[column] = max(min(widths[column], least), widths[column] - excess())

    for column in tuple(widths):
        shrink(column, column.comfortable)
    for column in sorted(widths, key=lambda column: -column.rank):
        if excess() > 0 and column.rank:
            del widths[column]
    for steps in zip(*(column.least or (0, 0) for column in reversed(widths)), strict=True):
        for column, least in zip(reversed(widths), steps, strict=True):
            shrink(column, least)
    for column, given in tuple(widths.items()):
        widths[column] = min(natural[column], given + max(0, -excess()))


def _coloured(text: str, line: Line) -> str:
    if line.session.flags:
        return click.style(text, "yellow")
    return click.style(text, dim=True) if line.session.waiting else text
