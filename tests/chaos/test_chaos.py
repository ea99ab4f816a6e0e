"""Everything at once, and still one holder at a time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from .nemesis import SERVER_EVENTS
from .run import KEYS, chaos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Server

LIVENESS, SECONDS = 3.0, {"pg15": 30.0}
LONG_LIVENESS, MOST_SECONDS = 10.0, 60.0
ALWAYS = ("killed and replaced", "stopped", "continued", "packets dropped")


def test_chaos(
    server: Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """No two believed at once, tokens grew, no lock was left, and every key was granted again."""
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    verdict = chaos(
        server.cluster.bindir,
        tmp_path,
        seconds=60.0 * minutes if minutes else SECONDS.get(server.name, MOST_SECONDS),
        liveness=LONG_LIVENESS if minutes else LIVENESS,
        seed=seed,
    )
    record_property("chaos", verdict.statistics())
    assert verdict.passed, str(verdict)
    assert verdict.counts["lost"] > 0
    assert verdict.counts["granted"] > 20 * len(KEYS)
    assert {*SERVER_EVENTS, *ALWAYS} <= set(verdict.faults())


def test_without_trust_the_checker_objects(server: Server, tmp_path: Path) -> None:
    """The control: workers that never ask whether a lock is lost, among the same faults."""
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    seed = random.randrange(10**6)  # noqa: S311
    verdict = chaos(
        server.cluster.bindir,
        tmp_path,
        seconds=MOST_SECONDS,
        liveness=LIVENESS,
        seed=seed,
        without_trust=True,
    )
    assert "overlap" in {violation.kind for violation in verdict.violations}, str(verdict)
