"""The checker finds every overlap and every token out of order, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from .history import Diary, History, Hold, check

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

STEP = st.integers(1, 10**10)


@st.composite
def sound(draw: DrawFn, least: int = 0) -> list[Hold]:
    """Holds of one key, in order: one after the other, with tokens that grow."""
    now, token, row = 0, 0, []
    for _ in range(draw(st.integers(least, 8))):
        start = now + draw(STEP)
        now = start + draw(st.integers(0, 10**10))
        token += draw(STEP)
        row.append(Hold("w", draw(st.integers(1, 3)), "red", start, now, token))
    return row


@st.composite
def sound_pair(draw: DrawFn) -> tuple[list[Hold], int]:
    """Such a row, and the index of one that has a successor."""
    row = draw(sound(least=2))
    return row, draw(st.integers(0, len(row) - 2))


@given(st.data(), sound(), sound())
def test_sound_histories_pass(data: st.DataObject, red: list[Hold], other: list[Hold]) -> None:
    """In whatever order they are read; keys have nothing to do with each other."""
    green = [replace(hold, key="green") for hold in other]
    for hold in red:
        if data.draw(st.booleans()):
            hold.token = None
        if data.draw(st.booleans()):
            hold.until = None
    assert check(data.draw(st.permutations(red + green))) == []


@given(st.data(), sound_pair())
def test_every_overlap_is_found(data: st.DataObject, pair: tuple[list[Hold], int]) -> None:
    """Be it of one instant, or of one hold by several others."""
    row, index = pair
    last = data.draw(st.integers(index + 1, len(row) - 1))
    touched = row[last].start
    row[index].until = touched + data.draw(st.integers(0, 10**10))
    found = check(data.draw(st.permutations(row)))
    struck = {hold.start for hold in row[index + 1 :] if hold.start <= (row[index].until or 0)}
    assert {v.later.start for v in found if v.kind == "overlap"} == struck
    assert len(struck) >= last - index


@given(st.data(), sound_pair())
def test_every_token_that_does_not_grow_is_found(
    data: st.DataObject, pair: tuple[list[Hold], int]
) -> None:
    """Be it equal to an earlier one, or smaller."""
    row, index = pair
    later = data.draw(st.integers(index + 1, len(row) - 1))
    row[later].token = data.draw(st.integers(1, row[index].token or 0))
    found = check(data.draw(st.permutations(row)))
    assert row[later] in [v.later for v in found if v.kind == "token"]


@given(st.data(), sound_pair())
def test_swapped_tokens_are_found(data: st.DataObject, pair: tuple[list[Hold], int]) -> None:
    """Two holds whose tokens are each other's."""
    row, index = pair
    later = data.draw(st.integers(index + 1, len(row) - 1))
    row[index].token, row[later].token = row[later].token, row[index].token
    assert [v for v in check(row) if v.kind == "token"]


def test_a_hold_that_nobody_vouched_for_claims_nothing() -> None:
    """A grant alone is no belief: the process may have been stopped before it could act."""
    assert check([Hold("a", 1, "k", 10), Hold("b", 2, "k", 5, until=20)]) == []


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """The start is after the grant, the end is the last look, and both files are read on."""
    diary, history = Diary(tmp_path, "w"), History(tmp_path)
    before = time.monotonic_ns()
    first, second = diary.granted("red"), diary.granted("green")
    first.told_yours(before + 10**9)
    assert [hold.key for hold in history.holds()] == ["red", "green"]
    first.told_yours(before + 2 * 10**9)
    first.token(7)
    first.ends("released")
    red, green = history.holds()
    assert (red.until, red.token, red.worker) == (before + 2 * 10**9, 7, "w")
    assert before <= red.start <= green.start <= time.monotonic_ns()
    assert (green.until, green.token) == (None, None)
    second.told_yours(before + 1)
    assert [hold.until for hold in history.holds()] == [red.until, before + 1]
    assert [event["event"] for event in history.events] == [
        *("granted", "granted", "token", "released")
    ]


LOOKER = """
import sys, time
from pathlib import Path
from chaos.history import Diary
page = Diary(Path(sys.argv[1]), "w").granted("red")
while True:
    now = time.monotonic_ns()
    page.told_yours(now)
    print(now, flush=True)
    time.sleep(0.001)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_process_has_written_its_last_look(
    tmp_path: Path, request: pytest.FixtureRequest, number: signal.Signals
) -> None:
    """Nothing is buffered: the last look that it told us of is in the file."""
    tests = request.path.parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", LOOKER, str(tmp_path)],
        cwd=tests,
        env={"PYTHONPATH": str(tests)},
        stdout=subprocess.PIPE,
        text=True,
    ) as looker:
        try:
            assert looker.stdout
            for _ in range(20):
                told = int(looker.stdout.readline())
            looker.send_signal(number)
            stat = Path(f"/proc/{looker.pid}/stat")
            eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] in "TZ")
            (hold,) = History(tmp_path).holds()
            now = time.monotonic_ns()
        finally:
            looker.kill()
    assert told <= (hold.until or 0) < now
