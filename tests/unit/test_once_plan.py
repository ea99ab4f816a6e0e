"""The plan of `once`, against a table that is played by hand."""

from __future__ import annotations

from typing import Any

import pytest
from driven import drive
from hypothesis import given
from hypothesis import strategies as st

from advlock import ConfigError, Key, LockLost, _schema_sql
from advlock._once import _plan, _sql
from advlock._once._done import Done, Run
from advlock._plan import Refused, Script

KEY = Key.of("once:x")
OURS = str(KEY.value)
NEVER = ("1000.0", *[None] * 8, "read committed")
BEGUN = (*NEVER[:6], "their-run", "3", OURS, "read committed")
ELSEWHERE = (*BEGUN[:8], "17", "read committed")
DONE = ("1000.0", "900.5", "900.0", "web-1", "7", "3", "their-run", "3", OURS, "read committed")
LOOK = [_sql.HASTE, _schema_sql.TRUSTED, _sql.LOOK]
CLAIM, MARK, PRUNE = (
    [_sql.HASTE, _schema_sql.TRUSTED, _sql.STILL, _sql.TRIGGERS, sql]
    for sql in (_sql.CLAIM, _sql.MARK, _sql.PRUNE)
)


def sql(asked: list[Script]) -> list[list[str]]:
    """The statements of each script."""
    return [[step.sql for step in script.steps] for script in asked]


def answer(*rows: Any) -> list[Any]:
    """The rows of the last of two statements."""
    return [[("",)], [*rows]]


def test_what_is_done_is_one_round_trip() -> None:
    """A look, and no more."""
    asked, done = drive(_plan.look("x", None), answer(DONE))
    assert sql(asked) == [LOOK]
    assert isinstance(done, Done)
    assert (done.name, done.host, done.pid, done.token) == ("x", "web-1", 7, 3)
    assert drive(_plan.look("x", None), answer(NEVER))[1] is None


@pytest.mark.parametrize("state", ["42P01", "3F000"])
def test_no_table_is_not_done(state: str) -> None:
    """Nobody has ever done anything."""
    assert drive(_plan.look("x", None), Refused(state, ""))[1] is None
    assert drive(_plan.records(), Refused(state, ""))[1] == []
    assert drive(_plan.forget("x"), Refused(state, ""))[1] is False


def test_other_refusals_are_passed_on() -> None:
    """No right, for example; the list says by itself what that means."""
    for plan in (_plan.look("x", None), _plan.forget("x")):
        with pytest.raises(Refused):
            drive(plan, *[Refused("42501", "")] * 2)
    with pytest.raises(ConfigError, match="advlock init --sql"):
        drive(_plan.records(), Refused("42501", ""))


def test_it_is_begun_after_a_look() -> None:
    """The claim names the run that the look has seen; with a window, old ones are pruned."""
    for row, per, more in ((NEVER, None, []), (BEGUN, None, []), (DONE, 99.0, [PRUNE])):
        plan = _plan.begin("x", per, KEY, token=5)
        answers = [answer(row), answer(("x",)), answer()]
        asked, run = drive(plan, *answers[: 2 + len(more)])
        assert sql(asked) == [LOOK, CLAIM, *more]
        assert isinstance(run, Run)
        parameters = asked[1].steps[-1].params
        assert parameters[2:4] == ("5", run.run_id)
        assert parameters[6:] == (None if per is None else "99.0", row[6])


def test_what_was_done_meanwhile_is_not_begun() -> None:
    """Whoever had the lock before us may have done it, also between the look and the claim."""
    assert drive(_plan.begin("x", None, KEY, token=5), answer(DONE))[0][1:] == []
    answers = [answer(BEGUN), answer(), answer(DONE)]
    asked, done = drive(_plan.begin("x", None, KEY, token=5), *answers)
    assert sql(asked) == [LOOK, CLAIM, LOOK]
    assert isinstance(done, Done)


def test_a_row_that_changes_all_the_time_is_left_to_others() -> None:
    """The lock is not ours any more."""
    with pytest.raises(LockLost):
        drive(_plan.begin("x", None, KEY, token=5), *[answer(BEGUN), answer()] * 4)


def test_whoever_got_the_lock_later_is_not_overtaken() -> None:
    """Somebody has begun between the look and the claim: the smaller token gives way."""
    for token, verdict in (("9", None), ("4", Run)):
        other = (*NEVER[:6], "another-run", token, OURS, "read committed")
        answers = [answer(BEGUN), answer(), answer(other), answer(("x",))]
        if verdict is None:
            with pytest.raises(LockLost, match="somebody else has begun"):
                drive(_plan.begin("x", None, KEY, token=5), *answers[:3])
        else:
            assert isinstance(drive(_plan.begin("x", None, KEY, token=5), *answers)[1], Run)


def test_a_mark_counts_only_if_it_was_written() -> None:
    """No row, no mark."""
    run = Run("x", 5, "our-run")
    assert drive(_plan.mark(run), answer(("x",)))[1] is True
    assert drive(_plan.mark(run), answer())[1] is False
    (script,) = drive(_plan.mark(run))[0]
    assert script.steps[-1].params == ("x", "our-run")
    # A table that is locked is waited for, a second at a time; where there is no plpgsql, not.
    locked, absent = Refused("55P03", ""), Refused("42704", "")
    asked, marked = drive(_plan.mark(run), *[locked] * 4, answer(("x",)))
    assert marked is True
    assert sql(asked) == [MARK] * 5
    with pytest.raises(Refused):
        drive(_plan.mark(run), *[locked] * 5)
    asked, marked = drive(_plan.mark(run), absent, answer(("x",)))
    assert marked is True
    assert sql(asked) == [MARK, [one for one in MARK if one != _sql.STILL]]


def test_another_key_is_asked_for() -> None:
    """Whoever holds it does it; whoever does not has come to no end."""
    plan = _plan.begin("x", None, KEY, token=5)
    with pytest.raises(ConfigError, match=f"under the lock 17, and ours is {OURS}"):
        drive(plan, answer(ELSEWHERE), [[("t",)]])
    plan = _plan.begin("x", None, KEY, token=5)
    asked, run = drive(plan, answer(ELSEWHERE), [[("f",)]], answer(("x",)))
    assert sql(asked) == [LOOK, [_sql.HELD], CLAIM]
    assert isinstance(run, Run)


@given(
    started=st.floats(0, 2e9),
    took=st.floats(0, 1e6),
    later=st.floats(-1e6, 1e6),
    per=st.none() | st.floats(1e-6, 1e6),
)
def test_a_window_is_counted_from_the_beginning(
    started: float, took: float, later: float, per: float | None
) -> None:
    """It is due again when the window is over, and never before; without one, never."""
    now = started + later
    row = (repr(now), repr(started + took), repr(started), "h", "1", "1", "r")
    due = _plan.judge("x", per, row) is None
    assert due is (per is not None and now >= started + per)
