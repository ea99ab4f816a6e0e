"""Everything at once, through a pooler that lends sessions by the transaction."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from .history import Hold, Violation
from .pooled import arena, chaos, object_to, sort_out
from .pooled_nemesis import ANY_TIME, POOLED_EVENTS
from .run import KEYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIVENESS, SECONDS = 3.0, 60.0
LONG_LIVENESS = 10.0
ALWAYS = ("killed and replaced", "closed and replaced", "stopped", "packets dropped")
# Seconds until a control has failed. It takes two without faults and ten with them, on a machine
# that has nothing else to do.
PATIENCE = 80.0

LOST = Hold("pooled-sync", 1, "red", start=0, until=10_040_000_000)
NEXT = Hold("direct-sync", 2, "red", start=10_000_000_000, until=11_000_000_000)
ENDINGS = [(9_990_000_000, 9_995_000_000)]


def test_chaos_pooled(
    newest: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """No two believed at once on any route, nor is a lock left in the pool, whatever breaks."""
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    verdict = chaos(
        newest,
        tmp_path,
        seconds=60.0 * minutes if minutes else SECONDS,
        liveness=LONG_LIVENESS if minutes else LIVENESS,
        seed=seed,
    )
    record_property("chaos", verdict.statistics())
    assert verdict.passed, str(verdict)
    assert verdict.counts["lost"] > 0
    assert verdict.counts["granted"] > 20 * len(KEYS)
    assert {*POOLED_EVENTS, *ALWAYS} <= set(verdict.faults())
    assert set(ANY_TIME) & set(verdict.faults())
    assert min(verdict.load["transactions"], verdict.load["statements"]) > 500


@pytest.mark.parametrize("flag", ["--naive", "--without-pin"])
def test_without_a_pin_the_checker_objects(newest: Path, tmp_path: Path, flag: str) -> None:
    """The controls: nothing breaks, the pool is busy, and that is enough.

    The library notices some of it itself, when it wants to release what is not there.
    """
    seed = random.randrange(10**6)  # noqa: S311
    with arena(newest, tmp_path, LIVENESS, seed, flag) as ground:
        found, left = object_to(ground, PATIENCE)
    assert left
    assert flag != "--naive" or "overlap" in {violation.kind for violation in found}


def test_without_trust_the_checker_objects(newest: Path, tmp_path: Path) -> None:
    """Another control, among the same faults: workers that never ask whether a lock is lost."""
    verdict = chaos(
        newest,
        tmp_path,
        seconds=PATIENCE,
        liveness=LIVENESS,
        seed=random.randrange(10**6),  # noqa: S311
        without_trust=True,
    )
    overlaps = [one for one in verdict.violations if one.kind == "overlap"]
    assert [one for one in overlaps if one.earlier.worker.startswith("pooled")], str(verdict)


@pytest.mark.parametrize(
    ("kind", "lost", "later", "endings"),
    [
        pytest.param("token", LOST, NEXT, ENDINGS, id="a token"),
        pytest.param("overlap", replace(LOST, worker="direct-sync"), NEXT, ENDINGS, id="direct"),
        pytest.param("overlap", replace(LOST, released=True), NEXT, ENDINGS, id="released"),
        pytest.param("overlap", replace(LOST, until=10_051_000_000), NEXT, ENDINGS, id="too long"),
        pytest.param("overlap", LOST, NEXT, [], id="nothing ended"),
        pytest.param("overlap", LOST, NEXT, [(8 * 10**9, 8_990_000_000)], id="ended long before"),
        pytest.param("overlap", LOST, NEXT, [(10_001_000_000, 10_002_000_000)], id="ended later"),
    ],
)
def test_only_the_pooler_s_delay_is_excused(
    kind: str, lost: Hold, later: Hold, endings: list[tuple[int, int]]
) -> None:
    """A short overlap of a hold that ended with its session behind the pooler, and no other."""
    short, other = Violation("overlap", LOST, NEXT), Violation(kind, lost, later)
    assert sort_out([short], ENDINGS) == [short]
    found = [other]
    assert sort_out(found, endings) == []
    assert found == [other]
