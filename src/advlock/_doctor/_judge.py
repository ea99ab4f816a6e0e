"""What a verdict is made of, and the words that all of them need. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from advlock._duration import brief

if TYPE_CHECKING:
    from advlock._doctor._report import Finding


class Judged(NamedTuple):
    """What one check came to: a fact, and what is wrong with it."""

    fact: str
    findings: tuple[Finding, ...] = ()


def took(seconds: float) -> str:
    """Say how long something took: `0.58ms`, `12ms`, `1.2s`."""
    return f"{seconds * 1000:.2f}ms" if seconds < 0.01 else brief(seconds)  # noqa: PLR2004


def counted(number: int, noun: str) -> str:
    """Say how many there are: `1 lock`, `2 locks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
