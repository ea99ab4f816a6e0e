"""The columns of `ps`: all into a file, and onto a terminal what matters most."""

from __future__ import annotations

import itertools
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lock_trees import AT, ago, ours, theirs, tree, waiter

from advlock._inspect._tree import LockTree
from advlock.cli.locks._lines import lines
from advlock.cli.locks._table import COLUMNS, name_of, table
from advlock.cli.locks._text import width

ALL = ["NAME", "STATE", "MODE", "WHO", "PID", "SINCE", "FOR", "FLAGS", "USER", "CLIENT", "KIND"]
ALL += ["KEY", "PG_LOCKS"]
WIDE = tree(
    "billing:nightly-report:europe:2026",
    holders=(
        ours(88_123, 4242, client="10.0.0.5:41234", flags=("idle-in-transaction",), shared=True),
        theirs(88_124, application="a rather long application name", shared=True),
    ),
    waiters=(waiter(88_125, 88_123, application="日本語のアプリケーション"),),
)


def shown(*trees: LockTree, **how: Any) -> list[str]:
    """The lines, without colours."""
    return [click.unstyle(line) for line in table(list(lines(trees)), AT, **how)]


def test_a_file_gets_every_column_and_a_line_for_each_session() -> None:
    """Into a pipe nothing is left out or shortened, so that grep and awk can rely on it."""
    heads, *rows = shown(WIDE)
    assert heads.split() == ALL
    assert len(rows) == 3
    assert all("billing:nightly-report:europe:2026" in row for row in rows)
    assert "a rather long application name" in rows[2]
    assert shown(WIDE, databases=True)[0].split()[-3:] == ["DATABASE", "KEY", "PG_LOCKS"]


def test_a_line_says_everything() -> None:
    """One of our sessions: process, since when, for how long, and the key in both spellings."""
    holder = ours(8812, 4242, client="10.0.0.5:41234")
    (_, row) = shown(tree("nightly", holders=(holder,)))
    key = WIDE.key.of("nightly") if WIDE.key else None
    since = f"{ago(720).astimezone():%H:%M:%S}"
    address = f"{key.classid}/{key.objid}/1" if key else ""
    assert row.split() == (
        f"nightly held exclusive web-1:4242 8812 {since} 12m - app 10.0.0.5:41234 recorded"
        f" {key.value if key else ''} {address}".split()
    )


def test_what_is_not_known_is_a_dash() -> None:
    """Since when a foreign session holds its lock, nobody knows; it is never guessed."""
    (_, row) = shown(tree((1, -2), holders=(theirs(9),)))
    assert row.split() == (
        [
            "1,-2",
            "held",
            "exclusive",
            "psql",
            "9",
            "-",
            "-",
            "-",
            "ops",
            "-",
            "unknown",
            "1,-2",
            "1/4294967294/2",
        ]
    )


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120, 200])
def test_a_terminal_s_lines_fit(columns: int) -> None:
    """No line is wider than the terminal; what matters most is there at every width."""
    heads, *rows = shown(WIDE, columns=columns)
    assert all(width(line) <= columns for line in (heads, *rows))
    assert heads.split()[:2] == ["NAME", "STATE"]
    assert set(heads.split()) <= {*ALL, *(head[:columns] for head in ALL)} or "…" in heads


def test_at_80_columns_the_important_ones_are_left() -> None:
    """Name, state, who, process, age and flags; the name keeps both its ends."""
    heads, first, *_ = shown(WIDE, columns=80)
    assert {"NAME", "STATE", "WHO", "PID", "FOR", "FLAGS"} <= set(heads.split())
    name = first.split()[0]
    assert (name[:8], name[-4:]) == ("billing:", "2026")


def test_columns_go_in_their_order() -> None:
    """As the terminal gets narrower, columns only ever go, the least important first."""
    ranks = {column.head: column.rank for column in COLUMNS}
    left = [set(shown(WIDE, columns=n)[0].split()) & set(ALL) for n in range(240, 60, -1)]
    for wider, narrower in itertools.pairwise(left):
        assert narrower <= wider
        stay = max(ranks[head] for head in narrower)
        assert all(ranks[head] > stay for head in wider - narrower)


def test_a_terminal_does_without_columns_that_say_nothing() -> None:
    """No flags anywhere, all exclusive, all on a Unix socket: those columns would be empty."""
    heads = shown(tree(holders=(ours(1, 2),)), columns=300)[0].split()
    assert not {"FLAGS", "MODE", "CLIENT"} & set(heads)


def test_a_key_without_a_name_stays_whole_at_80_columns() -> None:
    """It can be typed only as a whole."""
    key = -(2**63)
    holder = theirs(9, application="x" * 60, flags=("idle-in-transaction", "holds-back-vacuum"))
    assert str(key) in "\n".join(shown(tree(key, holders=(holder,)), columns=80))


def test_a_key_of_several_tools_is_one_of_them() -> None:
    """Which tool it is, nobody can know; one that is an extension's has the numbers of pg_locks."""
    candidates = ("Rails: migrations", "sqlx: migrations", "sqlx: something else")
    assert name_of(tree(7, kind="well-known", candidates=candidates)) == "one of Rails, sqlx"
    assert name_of(tree(7, kind="well-known", candidates=candidates[1:])) == "perhaps sqlx"
    assert name_of(LockTree(7, 8, 9, None, "app")) == "7/8/9"
    assert name_of(tree(7)) == "7"
    assert name_of(tree("evil\x1b[31m")) == r"evil\x1b[31m"


@given(
    st.lists(st.text(st.characters(), max_size=70), min_size=1, max_size=4),
    st.integers(20, 130),
    st.booleans(),
)
def test_no_text_breaks_a_line(texts: list[str], columns: int, ascii_only: bool) -> None:
    """Whatever sessions call themselves: one line each, printable, and no wider than allowed."""
    trees = [
        tree(7, called=text, holders=(theirs(1, application=text, user=text, client=text),))
        for text in texts
    ]
    mark = ".." if ascii_only else "…"
    rows = shown(*trees, columns=columns, mark=mark)
    assert len(rows) == len(texts) + 1
    assert all(row.isprintable() and width(row) <= columns for row in rows)
    assert all(row.isprintable() for row in shown(*trees))
