"""The arithmetic of `advlock demo`: what is a run, a double, a miss, and a disagreement."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from advlock.cli._demo_count import (
    Note,
    Row,
    Span,
    Takeover,
    Tally,
    Verdict,
    by_jobs,
    by_table,
    disagreements,
    expected,
    overlaps,
)

FIRST = datetime(2026, 11, 26, 11, 0, 2, tzinfo=UTC)
TICKS = [FIRST + timedelta(seconds=2 * number) for number in range(3)]
ONCE = Tally(3, 0, 0)


def row(number: int, state: str = "succeeded", run: str | None = None, pid: int = 7) -> Row:
    """A row of the tick with this number."""
    began = state not in {"claimed", "queued"} and not state.startswith("skipped")
    return Row(TICKS[number], state, None, run or f"run-{number}", pid, began)


def note(number: int, run: str | None = None, pid: int = 7, *, ended: bool = True) -> Note:
    """A note of the tick with this number."""
    return Note(TICKS[number], run or f"run-{number}", pid, ended)


def name(pid: int | None) -> str:
    """What a host is called."""
    return f"host-{pid}"


ROWS = [row(0), row(1, "lost"), row(2, "skipped_overlap")]
NOTES = [note(0), note(1, ended=False)]


@pytest.mark.parametrize(
    ("since", "until", "numbers"),
    [(-2, 4, [0, 1, 2]), (-0.5, 5.9, [0, 1, 2]), (0, 4, [1, 2]), (0, 1.9, []), (4, 4, [])],
)
def test_ticks_are_due_by_arithmetic(since: float, until: float, numbers: list[int]) -> None:
    """After the first moment and up to the last one, aligned to the epoch."""
    span = (FIRST + timedelta(seconds=since), FIRST + timedelta(seconds=until))
    assert expected(*span, 2) == [TICKS[number] for number in numbers]


@pytest.mark.parametrize(
    ("rows", "tally"),
    [
        (ROWS, Tally(2, 0, 0)),
        ([], Tally(0, 0, 3)),
        ([row(0), row(0), row(2)], Tally(3, 1, 1)),
        ([row(0), row(1, "claimed"), row(2, "running")], Tally(2, 0, 2)),
    ],
)
def test_the_table_is_counted(rows: list[Row], tally: Tally) -> None:
    """A tick without a row is missed, and so is one whose row does not say what became of it."""
    assert by_table(TICKS, rows) == tally


@pytest.mark.parametrize(
    ("notes", "rows", "tally"),
    [
        (NOTES, ROWS, Tally(2, 0, 0)),
        (NOTES, [], Tally(2, 0, 1)),
        ([note(0), note(0, "other"), note(1)], ROWS, Tally(3, 1, 0)),
        ([], [row(0), row(1), row(2)], Tally(0, 0, 3)),
    ],
)
def test_the_notes_are_counted(notes: list[Note], rows: list[Row], tally: Tally) -> None:
    """That a tick ran, only a job can say; that it was skipped, only the table."""
    assert by_jobs(TICKS, notes, rows) == tally


def test_what_is_told_twice_alike_is_no_disagreement() -> None:
    """A lost run may have noted its end, or not; a skipped tick has no note."""
    assert disagreements(ROWS, NOTES, name) == []
    assert disagreements(ROWS, [note(0), note(1)], name) == []


@pytest.mark.parametrize(
    ("rows", "notes", "words"),
    [
        ([row(0)], [], "11:00:02: the table says that host-7 ran it, and no job noted that"),
        ([], [note(0)], "11:00:02: a job noted that host-7 ran it, and the table does not say so"),
        (
            [row(0, "skipped_missed")],
            [note(0)],
            "11:00:02: a job noted that host-7 ran it, and the table does not say so",
        ),
        (
            [row(0, pid=8)],
            [note(0)],
            "11:00:02: a job noted that host-7 ran it; the table says that host-8 did",
        ),
        (
            [row(1, run="run-0")],
            [note(0)],
            "11:00:02: a job noted this tick; the table has it at 11:00:04",
        ),
        (
            [row(0)],
            [note(0, ended=False)],
            "11:00:02: the table says that it succeeded, and the job noted no end",
        ),
    ],
)
def test_a_disagreement_is_told_in_words(rows: list[Row], notes: list[Note], words: str) -> None:
    """Whichever of the two knows of a run that the other does not, or tells of it differently."""
    assert disagreements(rows, notes, name) == [words]


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ([], 0),
        ([Span(1, 2), Span(2, 3)], 0),
        ([Span(2, 3), Span(1, 2)], 0),
        ([Span(1, 3), Span(2, 4)], 1),
        ([Span(1, 9), Span(2, 3), Span(4, 5)], 2),
    ],
)
def test_overlaps_are_counted(spans: list[Span], count: int) -> None:
    """A run overlaps when it begins before any earlier one has ended, in whatever order told."""
    assert overlaps(spans) == count


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "OK: 4 ticks, 3 runs, 0 doubles, 0 misses, 0 overlaps, 1 skipped, 2 lost, 2 takeovers",
        ),
        ({"overlaps": 1}, ", 1 overlap, "),
        ({"table": Tally(3, 0, 1)}, ", 1 or 0 misses, "),
        ({"jobs": Tally(4, 1, 0)}, ", 3 or 4 runs, 0 or 1 double, "),
        ({"takeovers": []}, ", 0 of 2 takeovers; "),
        ({"due": 0, "takeovers": []}, ", no kills; "),
        ({"disagreements": ["words"]}, "; the table and the jobs DISAGREE"),
        ({"failures": ["words"]}, ", 1 failure, "),
    ],
)
def test_what_a_good_verdict_takes(changes: dict[str, Any], words: str) -> None:
    """No double, no miss, no overlap, no contradiction, and every takeover seen."""
    seen = [Takeover("host", 2, 0.01), Takeover("scheduler", 1, 0.02)]
    facts = {"overlaps": 0, "skipped": 1, "lost": 2, "due": 2, "takeovers": seen}
    verdict = Verdict(**{"ticks": 4, "table": ONCE, "jobs": ONCE, **facts, **changes})
    assert verdict.good is (not changes)
    assert words in str(verdict)
    assert str(verdict).startswith("OK: " if verdict.good else "FAILED: ")
