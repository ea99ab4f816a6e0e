"""What the help and the docs say in seconds is what follows from the settings."""

from __future__ import annotations

import math
import re
from pathlib import Path

from advlock._duration import seconds
from advlock._liveness import Bounds
from advlock.cli.run import WORST_CASE

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text()
KILL_AFTER = 10.0  # the default


def row(liveness: str) -> list[str]:
    """What is to be said of one `--liveness`: a row of the table."""
    bounds = Bounds(seconds(liveness))
    lets_go = float(bounds.user_timeout) / 1000
    return [
        f"`{liveness}`",
        f"{bounds.heartbeat:.1f}",
        f"{bounds.trust:.4g}",
        f"{lets_go:g} to {bounds.liveness:g}",
        f"{math.floor(2 * (lets_go - bounds.trust)) / 2:g}",
        f"{bounds.trust + KILL_AFTER - lets_go:.4g}",
    ]


def test_the_table_of_the_docs_is_computed() -> None:
    """Each row, and the default's among them."""
    rows = [
        line.strip("| ").split(" | ") for line in re.findall(r"^\| `\d+s` .*$", PAGE, re.MULTILINE)
    ]
    assert rows == [row(shown[0].strip("`")) for shown in rows]
    assert "`10s`" in [shown[0] for shown in rows]


def test_the_prose_and_the_help_say_the_same() -> None:
    """The numbers of the default stand in the text, too."""
    _, _, trust, lets_go, harmless, overlap = row("10s")
    assert f"no word from the server for {trust} s" in PAGE
    assert (
        f"at the default settings for {overlap} seconds at most; `--kill-after {harmless}s`" in PAGE
    )
    assert f"A lease below {lets_go.split()[0]} seconds" in PAGE
    said = " ".join(WORST_CASE.split())
    for words in (
        f"for {trust} s:",
        f"after {lets_go} s.",
        f"run {overlap} s",
        f"{harmless}s it does",
    ):
        assert words in said


def test_a_short_lease_is_what_the_trust_follows() -> None:
    """As the docs say: 80 % of it, where it is shorter than the server's patience."""
    assert Bounds(lease=5.0).trust == 4.0
    assert Bounds(lease=20.0).trust == Bounds().trust
