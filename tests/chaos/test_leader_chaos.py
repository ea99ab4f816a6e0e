"""Terms never overlap, whoever is killed, stopped or cut off meanwhile."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .leader_run import EVENTS, leaders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

SECONDS = 5.0
MOST_SECONDS = 40.0


def test_leader_chaos(
    newest: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """No two led at one instant, tokens grew, and after each fault somebody led again."""
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    verdict = leaders(newest, tmp_path, seconds=60.0 * minutes if minutes else SECONDS, seed=seed)
    record_property("chaos", verdict.statistics())
    assert verdict.passed, str(verdict)
    assert verdict.counts["lost"] > 0
    assert set(verdict.faults()) == set(EVENTS)


def test_leaders_that_do_not_ask_overlap(newest: Path, tmp_path: Path) -> None:
    """The control: candidates that work on whatever happens to their term."""
    seed = random.randrange(10**6)  # noqa: S311
    verdict = leaders(newest, tmp_path, seconds=MOST_SECONDS, seed=seed, without_trust=True)
    assert "overlap" in {violation.kind for violation in verdict.violations}, str(verdict)
