"""The checker of the cron's chaos finds what was planted, and nothing in what is sound."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .cron_history import Row, Run, check_rows, check_runs, compare, longest_gaps, read_record

TICK = "2026-01-01T00:00:0{}+00:00"
START = 1767225600
AGAIN = frozenset({"again"})


@st.composite
def sound(draw: st.DrawFn) -> list[Run]:
    """Runs of one job, one after the other, each of a later tick."""
    now, tick, runs = 0, START, []
    for number in range(draw(st.integers(2, 8))):
        begin = now + draw(st.integers(1, 10**9))
        now = begin + draw(st.integers(0, 10**9))
        tick += draw(st.integers(1, 3))
        runs.append(Run("job", float(tick), str(number), 100 + number, begin, now))
    return runs


def kinds(runs: list[Run], again: frozenset[str] = frozenset()) -> set[str]:
    """What the checker finds."""
    return {violation.kind for violation in check_runs(runs, again)}


@given(st.data(), sound(), sound())
def test_sound_runs_pass(data: st.DataObject, runs: list[Run], other: list[Run]) -> None:
    """In whatever order they are read; jobs have nothing to do with each other."""
    for run in other:
        run.job = "other"
    assert check_runs(data.draw(st.permutations(runs + other))) == []


@given(st.data(), sound())
def test_a_planted_double_is_found(data: st.DataObject, runs: list[Run]) -> None:
    """A later run of a tick that had one, by whomever; unless ticks may run again."""
    first = data.draw(st.sampled_from(runs))
    later = runs[-1].end or 0
    runs.append(replace(first, run_id=data.draw(st.sampled_from(["0", "x"])), begin=later + 1))
    runs[-1].end = later + 2
    (found,) = check_runs(data.draw(st.permutations(runs)))
    assert (found.kind, found.job) == ("double", "job")
    for run in runs:
        run.job = "again"
    assert check_runs(runs, AGAIN) == []


def test_a_tick_that_runs_again_for_ever_is_found() -> None:
    """After three losses it is given up, so a fifth run is one too many."""
    runs = [Run("again", float(START), str(n), n, 10 * n, 10 * n + 5) for n in range(4)]
    assert kinds(runs, AGAIN) == set()
    assert kinds([*runs, Run("again", float(START), "x", 9, 100, 105)], AGAIN) == {"double"}


@given(st.data(), sound())
def test_a_planted_overlap_is_found(data: st.DataObject, runs: list[Run]) -> None:
    """Be it of one instant, by a neighbour, or by one much later; also of jobs that run again."""
    index = data.draw(st.integers(0, len(runs) - 2))
    struck = runs[data.draw(st.integers(index + 1, len(runs) - 1))]
    runs[index].end = struck.begin + data.draw(st.integers(0, 10**9))
    for run in runs:
        run.job = "again"
    assert kinds(data.draw(st.permutations(runs)), AGAIN) == {"overlap"}


@given(st.data(), sound())
def test_an_end_that_nobody_knows_of_is_found(data: st.DataObject, runs: list[Run]) -> None:
    """A job that neither ended nor was killed has vanished."""
    data.draw(st.sampled_from(runs)).end = None
    assert kinds(runs) == {"vanished"}


def row(tick: int, state: str, run_id: str | None = None, job: str = "job", losses: int = 0) -> Row:
    """A row of the second `tick`."""
    return Row(job, float(START + tick), state, run_id, losses)


def test_ticks_without_a_row_and_rows_without_an_end_are_found() -> None:
    """Every tick between the first and the last has to have one, of every job."""
    ticks = range(START + 1, START + 4)
    rows = [row(tick, "succeeded", str(tick)) for tick in (1, 2, 3)]
    others = [row(tick, "skipped_missed", job="other") for tick in (1, 2, 3)]
    assert check_rows(rows + others, ["job", "other"], ticks) == []
    for missing in rows + others:
        left = [one for one in rows + others if one != missing]
        (found,) = check_rows(left, ["job", "other"], ticks)
        assert (found.kind, found.job) == ("missing", missing.job)
    for state in ("claimed", "queued", "running"):
        (found,) = check_rows([*rows, row(4, state)], ["job"], ticks)
        assert found.kind == "unsettled"


RAN = Run("job", float(START), "a", 1, 10, 20)


@pytest.mark.parametrize(
    ("state", "runs", "kind"),
    [
        ("succeeded", [RAN], None),
        ("lost", [RAN], None),
        ("lost", [], None),
        ("failed", [replace(RAN, killed=True)], None),
        ("skipped_overlap", [], None),
        ("succeeded", [], "denied"),
        ("succeeded", [replace(RAN, killed=True)], "denied"),
        ("succeeded", [replace(RAN, run_id="b")], "denied"),
        ("skipped_overlap", [RAN], "denied"),
        ("skipped_missed", [replace(RAN, run_id="b")], "denied"),
        ("lost", [replace(RAN, run_id="b")], "unwritten"),
        ("lost", [RAN, replace(RAN, run_id="b")], "unwritten"),
        ("succeeded", [RAN, replace(RAN, tick=RAN.tick + 1)], "unwritten"),
    ],
)
def test_a_row_that_the_jobs_deny_is_found(state: str, runs: list[Run], kind: str | None) -> None:
    """A success has a whole run, what was skipped has none, and every run has its row."""
    found = compare(runs, [row(0, state, "a" if state in {"succeeded", "lost"} else None)])
    if state == "failed":
        found = compare(runs, [row(0, state, "a")])
    assert [violation.kind for violation in found] == ([kind] if kind else [])


def test_a_tick_that_is_to_run_again_may_do_so_and_must() -> None:
    """Other runs before the last are no contradiction; giving up after one loss is."""
    runs = [replace(RAN, job="again", run_id=run_id) for run_id in "ba"]
    assert compare(runs, [row(0, "succeeded", "a", "again", 1)], AGAIN) == []
    assert compare(runs, [row(0, "lost", "a", "again", 4)], AGAIN) == []
    (found,) = compare(runs, [row(0, "lost", "a", "again", 1)], AGAIN)
    assert found.kind == "given up"


def test_the_record_can_be_read() -> None:
    """Runs end, or are killed: while they run, before they wrote their end, before they began."""
    lines = [
        f"begin job {TICK.format(0)} a 1 10",
        f"end job {TICK.format(0)} a 1 20",
        f"begin job {TICK.format(1)} b 2 30",
        "killed 2 40",
        f"begin job {TICK.format(2)} c 3 50",
        "killed 3 60",
        f"end job {TICK.format(2)} c 3 61",
        "killed 4 70",
        f"begin job {TICK.format(3)} d 4 71",
        f"begin job {TICK.format(4)} e 2 {10**10}",
    ]
    told = [(run.run_id, run.begin, run.end, run.killed) for run in read_record("\n".join(lines))]
    assert told == [
        ("a", 10, 20, False),
        ("b", 30, 40, True),
        ("c", 50, 61, False),
        ("d", 71, 71, True),
        ("e", 10**10, None, False),
    ]
    assert read_record(lines[0])[0].tick == START


def test_gaps_are_measured_from_the_end_of_a_run_to_the_next() -> None:
    """In seconds, the longest of each job."""
    runs = [
        Run("job", 0.0, str(n), n, begin * 10**9, end * 10**9)
        for n, (begin, end) in enumerate([(0, 1), (2, 3), (7, 8)])
    ]
    assert longest_gaps(reversed(runs)) == {"job": 4.0}
