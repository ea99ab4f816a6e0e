"""How locks and sessions are called on the screen. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock.cli.locks._text import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

# Short enough for a column; the details have them in full.
_FLAGS: Final = {
    "idle-in-transaction": "idle in tx",
    "idle-pooled": "pooled",
    "holds-back-vacuum": "no vacuum",
}


def flags(every: Iterable[str]) -> str:
    """What is odd about a session, in few words."""
    return ", ".join(_FLAGS.get(flag, visible(flag)) for flag in every)


def counted(number: int, noun: str) -> str:
    """`1 lock`, `2 locks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
