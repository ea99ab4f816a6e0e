"""Foreign text, made harmless, and its width on a terminal. Pure.

Any client may set its `application_name` to anything, and a query is anything: what they contain
must neither move the cursor, nor recolour the line, nor turn it around (CVE-2021-42574).
"""

from __future__ import annotations

import unicodedata
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from advlock._duration import brief

if TYPE_CHECKING:
    from datetime import datetime

_DAY: Final = timedelta(days=1)
_LATIN: Final = 0x100
_PLANE: Final = 0x10000


def visible(text: str) -> str:
    r"""Return text with control, format and other unprintable characters spelled: `\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def folded(text: str) -> str:
    """Return text in one line: runs of white space become one space, the rest as `visible`."""
    return visible(" ".join(text.split()))


def width(text: str) -> int:
    """Return how many columns a terminal gives to text: two to a CJK character."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def shortened(text: str, most: int, mark: str = "…") -> str:
    """Shorten text in its middle, to at most so many columns: both ends of a name tell it apart."""
    if width(text) <= most:
        return text
    room = most - width(mark)
    if room < 1:
        return _head(text, most)
    tail = _head(text[::-1], room // 2)[::-1]
    return _head(text, room - width(tail)) + mark + tail


def cut(text: str, most: int, mark: str = "…") -> str:
    """Shorten text at its end, to at most so many columns."""
    if width(text) <= most:
        return text
    return _head(text, most - width(mark)) + mark


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """Fill text up with spaces to so many columns."""
    space = " " * (columns - width(text))
    return space + text if right else text + space


def clock(when: datetime | None, now: datetime) -> str:
    """Return a time by the clocks here, with its date when it is a day ago or more."""
    if when is None:
        return ""
    shown = "%H:%M:%S" if abs(now - when) < _DAY else "%Y-%m-%d %H:%M:%S"
    return f"{when.astimezone():{shown}}"


def age(since: datetime | None, now: datetime) -> str:
    """Return how long ago something was, in whole seconds: `12m`, `2h05m`."""
    return "" if since is None else brief(max(0, int((now - since).total_seconds())))


def _columns(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0
    return 1 + (unicodedata.east_asian_width(character) in "WF")


def _head(text: str, most: int) -> str:
    taken = 0
    for number, character in enumerate(text):
        taken += _columns(character)
        if taken > most:
            return text[:number]
    return text


def _spelled(character: str) -> str:
    if character in "\n\r\t":
        return repr(character)[1:-1]
    number = ord(character)
    if number < _LATIN:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < _PLANE else f"\\U{number:08x}"
