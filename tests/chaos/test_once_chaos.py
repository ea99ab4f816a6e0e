"""`once` among processes that are killed and stopped: done to the end once, and never by two."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .once_run import chaos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

_SECONDS, _AT_MOST = 4.0, 30.0
_KINDS = (*["plain"] * 3, *["window"] * 3, *["here"] * 3)


def test_once_chaos(
    newest: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """No two bodies at once; a mark each, with its work; nobody goes on before; no early window."""
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    seconds = 60.0 * minutes if minutes else _SECONDS
    verdict = chaos(newest, _KINDS, seconds=seconds, seed=seed)
    record_property("chaos", str(verdict))
    assert not verdict.violations, str(verdict)
    assert set(+verdict.done) == set(_KINDS), str(verdict)
    assert set(verdict.deeds) == {"killed", "stopped", "session ended"}, str(verdict)


def test_without_a_lock_it_is_done_twice(newest: Path) -> None:
    """The control: who looks, does it and writes that down is not alone."""
    expected = ("was at it", "done again")
    verdict = chaos(newest, ["naive"] * 4, seconds=_AT_MOST, seed=1, expected=expected)
    assert verdict.has(expected), str(verdict)
