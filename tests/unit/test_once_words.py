"""`once`: what is refused before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest

from advlock import ConfigError, Locks, cli
from advlock.cli.exits import Exit


@pytest.mark.parametrize("per", [0, -1, "soon", 1e12, True, float("nan"), float("inf")])
def test_a_window_that_cannot_be_is_refused(per: Any) -> None:
    """At once, and not when it is entered."""
    with pytest.raises(ConfigError):
        Locks("host=nowhere").once("x", per=per)


@pytest.mark.parametrize("name", ["", 7, (1, 2), b"x", "x" * 1001, "a\0b", None], ids=repr)
def test_a_name_that_cannot_be_is_refused(name: Any) -> None:
    """It has to be a string that a row can have."""
    with pytest.raises(ConfigError):
        Locks("host=nowhere").once(name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "has no name"),
        (["x"], "no command to run"),
        (["x", "true"], "put -- before the command"),
        (["--list", "x"], "--list runs no command"),
        (["--forget", "x", "--", "true"], "--forget NAME runs no command"),
        (["--json", "x", "--", "true"], "--json goes with --list"),
        (["-n", "-w", "3s", "x", "--", "true"], "exclude each other"),
        (["--list", "--forget", "x"], "--list and --forget exclude each other"),
        (["--per", "0", "x", "--", "true"], "per must be more than 0"),
        (["--per", "soon", "x", "--", "true"], "is no duration"),
        (["", "--", "true"], "empty"),
        (["x" * 1001, "--", "true"], "longer than 1000 bytes"),
        (["\udcff", "--", "true"], "is not UTF-8"),
    ],
    ids=str,
)
def test_wrong_usage(words: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    """64, and what is wrong."""
    assert cli.main(["once", *words]) == Exit.USAGE
    out, err = capfd.readouterr()
    assert (told in err, out) == (True, "")
