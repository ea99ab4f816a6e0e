"""The cron among all that breaks: each tick once, no job beside itself, a row for every tick."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .cron_run import DEEDS, JOBS, chaos, naive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

_SECONDS = 45.0
_NAIVE_SECONDS = 30.0  # at most: it ends with the first double
_SOUND_SECONDS = 4.0
_SKEWS = (2.0, 0.0, -2.0)
# What a job has to wait for after a restart of the server, and a busy machine.
_LONGEST_GAP = 40.0
ALWAYS = (*DEEDS, "continued", "server restarted")


def test_cron_chaos(
    newest: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """No tick ran twice, no job beside itself, and the rows and the jobs' own record agree."""
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    seconds = 60.0 * minutes if minutes else _SECONDS
    verdict = chaos(newest, tmp_path, seconds=seconds, seed=seed)
    record_property("chaos", verdict.statistics())
    assert verdict.passed, str(verdict)
    assert set(ALWAYS) <= set(verdict.faults()), str(verdict)
    assert {"succeeded", "lost", "skipped_overlap"} <= set(verdict.states), str(verdict)
    assert verdict.runs > seconds * len(JOBS) / 8, str(verdict)
    assert set(verdict.gaps) == {job.name for job in JOBS}, str(verdict)
    assert max(verdict.gaps.values()) < _LONGEST_GAP, str(verdict)


def _naive(rows: str) -> list[tuple[str, ...]]:
    return [("-m", "chaos.cron_naive", str(skew), rows) for skew in _SKEWS]


def test_without_the_row_ticks_run_twice(newest: Path, tmp_path: Path) -> None:
    """The control: a lock has no memory, so schedulers of different clocks run the same tick."""
    found = naive(
        newest,
        tmp_path,
        seconds=_NAIVE_SECONDS,
        programs=_naive("without-rows"),
        enough=lambda found: any(violation.kind == "double" for violation in found),
    )
    assert {violation.kind for violation in found} == {"double"}, [*map(str, found[:10])]


def test_with_the_row_they_do_not(newest: Path, tmp_path: Path) -> None:
    """The same clocks, and the row: each tick runs once."""
    found = naive(newest, tmp_path, seconds=_SOUND_SECONDS, programs=_naive("with-rows"))
    assert found == [], [*map(str, found[:10])]
