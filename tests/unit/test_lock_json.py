"""JSON for programs, which may still end up on a terminal."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from lock_trees import AT, ours, seen, theirs, tree, waiter

from advlock._key import Key
from advlock.cli.locks._json import in_one_line, key_text, of_snapshot, text_of


@given(st.text(st.characters(), max_size=40))
def test_it_reads_back_and_touches_no_terminal(text: str) -> None:
    """Whatever sessions call themselves: printable lines, and the same text for a program."""
    one = tree(7, called=text, holders=(theirs(1, application=text, query=text),))
    lines = list(of_snapshot(seen(one, tree("x"))))
    assert all(line.isprintable() for line in lines)
    told = json.loads("\n".join(lines))
    assert json.loads(in_one_line(seen(one, tree("x")))) == told
    assert told["locks"][0]["name"] == told["locks"][0]["holders"][0]["query"] == text
    assert json.loads(text_of({"text": text})) == {"text": text}
    assert all(line.isprintable() for line in text_of({"text": text}).split("\n"))


def test_nothing_is_an_empty_list() -> None:
    """Without locks the object is complete all the same."""
    told = json.loads("".join(of_snapshot(seen(hidden=("a", "b")))))
    assert told == {
        "at": AT.isoformat(),
        "database": "app",
        "role": "ops",
        "locks": [],
        "hidden": ["a", "b"],
    }


def test_keys_are_text() -> None:
    """2**53 + 1 is 2**53 to jq, so a key is no number; and it is the one that ps takes."""
    assert [key_text(Key.of(key)) for key in (2**53 + 1, -42, (1, -2))] == [
        "9007199254740993",
        "-42",
        "1,-2",
    ]


def test_a_waiter_says_whom_it_waits_for() -> None:
    """In the order in which the server tells; holders have no such field."""
    one = tree(holders=(ours(1, 2),), waiters=(waiter(3, 1, 2),))
    (lock,) = json.loads("".join(of_snapshot(seen(one))))["locks"]
    assert lock["waiters"][0]["blocked_by"] == [1, 2]
    assert "blocked_by" not in lock["holders"][0]
