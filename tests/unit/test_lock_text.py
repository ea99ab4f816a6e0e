"""Foreign text cannot move the cursor, and takes the room that it is given."""

from __future__ import annotations

import unicodedata
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lock_trees import AT, ago

from advlock.cli.locks._text import age, clock, cut, folded, padded, shortened, visible, width


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("psql", "psql"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b31m", r"\x9b31m"),
        ("user\u202egpj.exe", r"user\u202egpj.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("a\nb\tc\rd\0", r"a\nb\tc\rd\x00"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("Überprüfung 日本", "Überprüfung 日本"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled(raw: str, shown: str) -> None:
    """Escapes, controls, overrides and invisible characters are shown; letters stay as they are."""
    assert visible(raw) == shown


@given(st.text(st.characters()))
def test_nothing_unprintable_is_left(raw: str) -> None:
    """Whatever comes in, what goes out is printable and in one line."""
    assert visible(raw).isprintable()
    assert folded(raw).isprintable()


def test_a_query_becomes_one_line() -> None:
    """Line breaks and indentation of a query are one space; its control characters are shown."""
    assert folded("SELECT\n\t  1,\r\n  '\x1b[31m'") == r"SELECT 1, '\x1b[31m'"


def test_a_wide_character_takes_two_columns() -> None:
    """CJK and full-width characters count twice, combining ones not at all."""
    assert [width(text) for text in ("ab", "日本", "\uff46", "e\u0301", "é")] == [2, 4, 2, 1, 1]


@given(st.text(st.characters(exclude_categories=("C",))), st.integers(0, 30), st.booleans())
def test_shortened_text_fits(text: str, most: int, ascii_only: bool) -> None:
    """It is never wider than asked for, and is left alone where it fits."""
    mark = ".." if ascii_only else "…"
    for short in (shortened(text, most, mark), cut(text, max(most, 2), mark)):
        assert width(short) <= max(most, 2)
    assert width(shortened(text, most, mark)) <= most
    if width(text) <= most:
        assert shortened(text, most, mark) == text


def test_a_name_is_shortened_in_its_middle() -> None:
    """Both ends stay: `user:12345` and `user:12346` differ at the end."""
    assert shortened("billing:invoice:user:12345", 13) == "billin…:12345"
    assert padded("日本", 6) == "日本  "
    assert padded("7", 3, right=True) == "  7"
    assert unicodedata.east_asian_width("日") == "W"


def test_times_have_a_date_when_they_are_old() -> None:
    """A clock's time is enough for today; yesterday's has a date; none is empty."""
    assert clock(ago(60), AT) == f"{ago(60).astimezone():%H:%M:%S}"
    assert clock(ago(86_400), AT) == f"{ago(86_400).astimezone():%Y-%m-%d %H:%M:%S}"
    assert clock(None, AT) == ""


def test_ages_are_in_whole_seconds() -> None:
    """No signature is finer than a second, and a clock that is behind makes no negative age."""
    assert [age(ago(n), AT) for n in (0.9, 720, 7500, 200_000)] == ["0s", "12m", "2h05m", "2d07h"]
    assert age(AT + timedelta(seconds=3), AT) == "0s"
    assert age(None, AT) == ""
