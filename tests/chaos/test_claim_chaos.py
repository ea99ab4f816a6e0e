"""Rows that are claimed by many, who are killed: none is done twice, none is lost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from .claim_run import DEEDS, Note, chaos, overlaps, twice
from .cron_run import server as started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from advlock.embedded._cluster import Cluster

_SECONDS = 3.0
_NAIVE_SECONDS = 20.0  # at most: it ends with some doubles
_SEVERAL = """
SELECT count(*) > 20 FROM (SELECT FROM done GROUP BY job HAVING count(*) > 1) AS doubles
"""


@pytest.fixture(scope="module")
def cluster(newest: Path) -> Iterator[Cluster]:
    """A server that is crashed, and keeps its address."""
    with started(newest) as made:
        yield made


def test_claim_chaos(
    cluster: Cluster,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """No row was claimed twice at a time, or done twice, and none stayed locked."""
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    verdict = chaos(cluster, tmp_path, seconds=60 * minutes if minutes else _SECONDS, seed=seed)
    record_property("chaos", str(verdict))
    assert not verdict.violations, str(verdict)
    assert not verdict.failure, str(verdict)
    assert not verdict.stuck, str(verdict)
    assert verdict.done < verdict.begun, "nobody was interrupted"
    assert set(verdict.faults) == {*DEEDS, "server crashed"}, str(verdict)


def test_without_row_locks_rows_are_done_twice(cluster: Cluster, tmp_path: Path) -> None:
    """The control: the same statement without FOR UPDATE, and nothing that goes wrong."""
    verdict = chaos(
        *(cluster, tmp_path),
        seconds=_NAIVE_SECONDS,
        seed=1,
        naive=True,
        enough=lambda session: session.execute(_SEVERAL).fetchone()[0],
    )
    assert any("was done 2 times" in each for each in verdict.violations), str(verdict)
    assert any("at once" in each for each in verdict.violations), str(verdict)


_HISTORIES = {
    "one after the other": ("a begins, a ends, b begins, b ends, a begins, b begins", 0),
    "rolled back, then again": ("a begins, a ends, a begins, a ends, a begins", 0),
    "killed, then another": ("a begins, b begins, b ends, b begins", 0),
    "last words that are late": ("b begins, a begins, b ends, a ends, b begins", 0),
    "inside": ("a begins, b begins, b ends, a ends, a begins, b begins", 1),
    "crossed": ("a begins, b begins, a ends, b ends, a begins, b begins", 1),
}


@pytest.mark.parametrize(("told", "found"), _HISTORIES.values(), ids=_HISTORIES)
def test_the_checker_sees_who_worked_at_once(told: str, found: int) -> None:
    """Two at work on the same row, as far as it is proven, and nothing else."""
    notes = [Note(7, *step.split()) for step in told.split(", ")]
    assert overlaps(notes) == ["job 7: a and b at once"] * found


def test_the_checker_counts() -> None:
    """A row that was done twice is told."""
    assert twice([1, 2, 3]) == []
    assert twice([1, 2, 1]) == ["job 1 was done 2 times"]
