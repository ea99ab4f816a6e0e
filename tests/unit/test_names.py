"""What is to be recorded, when, and what becomes of it: decided without a database."""

from __future__ import annotations

import json

import pytest
from driven import drive

from advlock import Key, _names, _names_sql
from advlock._names import DAY, Done, Names

ABSENT, BUSY, AGAIN, SOON = _names._ABSENT, _names._BUSY, _names._AGAIN, _names.SOON
FOREVER = 1e9  # a session that is in use all the time


def noted(*names: str) -> Names:
    """A client that has used these."""
    used = Names()
    for name in names:
        used.note(Key.of(name))
    return used


def test_a_name_is_taken_once() -> None:
    """However often it is used, and whoever used it in this process before."""
    used, other = noted("a", "b", "a"), noted("b", "c")
    other.done = used.done
    assert not used.note(Key.of("a"))
    taken = used.take(0)
    assert {entry.name for entry in taken} == {"a", "b"}
    used.settle(taken, "yes", 1)
    assert [entry.name for entry in other.take(2)] == ["c"]
    assert not used.due(1 + AGAIN, FOREVER), "there is nothing left"


def test_after_a_day_it_is_taken_again() -> None:
    """So that the table knows what is still in use."""
    used = noted("a")
    assert not used.stale(0)
    used.settle(used.take(0), "yes", 0)
    used.note(Key.of("a"))
    assert used.take(DAY - 1) == []
    assert not used.stale(DAY - 1)
    assert used.stale(DAY)
    assert not used.stale(DAY), "once a day"
    used.note(Key.of("a"))
    assert [entry.name for entry in used.take(DAY)] == ["a"]


def test_only_names_are_taken() -> None:
    """Numbers have none, and what the table's index cannot hold is left out."""
    used = Names()
    longest = "é" * (_names.LONGEST_NAME // 2)
    for key in (Key.of(42), Key.of((1, 2)), Key.of(longest + "x"), Key.of(longest)):
        used.note(key)
    used.note(Key.slot("s", 2))
    used.note(Key.hashtext("h"))
    entries = {entry.name: entry for entry in used.take(0)}
    assert entries.keys() == {longest, "s", "h"}
    assert (entries["s"].seed, entries["h"].scheme) == (2, "hashtext")


@pytest.mark.parametrize(
    ("verdict", "pause"),
    [
        (None, ABSENT),
        ("42501", ABSENT),
        ("25006", ABSENT),
        ("55P03", BUSY),
        ("53100", BUSY),
        ("57014", BUSY),
        ("", BUSY),
    ],
)
def test_what_was_not_recorded_is_kept_for_later(verdict: str | None, pause: float) -> None:
    """For long where there is no table for us, else for a while."""
    used = noted("a", "b")
    taken = used.take(0)
    used.settle(taken, verdict, 10)
    assert not used.due(10 + pause - 0.1, FOREVER)
    assert used.pause(10) == pause
    assert used.due(10 + pause, FOREVER)
    assert {*used.take(10 + pause)} == {*taken}


def test_a_program_that_soon_ends_records_nothing() -> None:
    """Names wait for a second, so that those of the same moment go together."""
    used = noted("a")
    assert used.pause(5) == SOON
    assert not used.due(5 + SOON - 0.1, FOREVER)
    used.note(Key.of("b"))
    assert used.due(5 + SOON, FOREVER)
    assert len(used.take(5 + SOON)) == 2


def test_an_idle_client_stays_silent() -> None:
    """Where there is no table it is looked for again only while the client is used."""
    used = noted("a")
    used.settle(used.take(0), None, 10)
    later = 10 + 5 * ABSENT
    assert not used.due(later, 9.9), "what it was used for last was to look for the table"
    assert used.due(later, 10.1)


def test_names_that_come_while_others_are_recorded_need_no_further_use() -> None:
    """Nor do those that were too many for once; then an idle client stays silent."""
    used = noted("a")
    taken = used.take(0)
    used.note(Key.of("b"))
    used.settle(taken, "yes", 10)
    assert not used.due(10 + AGAIN - 0.1, 5)
    assert used.due(10 + AGAIN, 5)
    used.settle(used.take(10 + AGAIN), None, 20)
    assert not used.due(20 + 5 * ABSENT, 5)


def test_what_will_not_do_is_not_tried_again() -> None:
    """A name that the server refuses keeps no other from being recorded."""
    used = noted("a")
    used.settle(used.take(0), "22P05", 0)
    used.note(Key.of("b"))
    assert used.due(AGAIN, FOREVER)
    assert [entry.name for entry in used.take(AGAIN)] == ["b"]


def test_a_flush_that_never_ends_does_not_end_all() -> None:
    """An event loop may be closed in the middle of one."""
    used = noted("a")
    used.take(0)
    used.note(Key.of("b"))
    assert not used.due(_names._UNDER_WAY - 1, FOREVER)
    assert used.due(_names._UNDER_WAY, FOREVER)


def test_everything_is_bounded() -> None:
    """What waits, what is sent at a time, and what is remembered."""
    used = Names()
    for n in range(_names._MOST_NOTED + 10):
        used.note(Key.of(f"user:{n}"))
    assert len(used._noted) == _names._MOST_NOTED
    taken = used.take(0)
    assert len(taken) == _names._MOST_AT_ONCE
    long = noted(*(f"{n:0{_names.LONGEST_NAME}}" for n in range(100))).take(0)
    assert 0 < len(long) * _names.LONGEST_NAME <= _names._LONGEST_AT_ONCE + _names.LONGEST_NAME
    for n in range(2 * _names._MOST_NOTED):
        used.note(Key.of(f"other:{n}"))
    used.settle(taken, "", 0)
    assert len(used._noted) == _names._MOST_NOTED
    done = Done()
    for n in range(0, 3 * _names._MOST_DONE, 500):
        done.add([_names.Entry(n + m, "x", "hashtextextended", 0) for m in range(500)], 0)
    assert len(done._when) <= _names._MOST_DONE + 500


def test_names_travel_in_ascii_where_the_server_can_read_that() -> None:
    """So that nothing has to be converted before the server's handler for errors is in place."""
    entries = noted("größer").take(0)
    for encoding, expected in (("UTF8", "gr\\u00f6\\u00dfer"), ("SQL_ASCII", "größer")):
        asked, verdict = drive(_names.write(entries, encoding), [[], [], [("yes",)]])
        sent = asked[0].steps[1].params[0]
        assert expected in sent
        assert json.loads(sent)[0]["name"] == "größer"
        assert verdict == "yes"
    assert drive(_names.look(), [[]]) == ([drive(_names.look())[0][0]], None)
    assert drive(_names.look())[0][0].steps[-1].sql == _names_sql.LOOK
