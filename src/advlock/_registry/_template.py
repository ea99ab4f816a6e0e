"""Template names, `user:{id}`: what they match, and whether two can match the same name. Pure."""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

# A field ends at a colon, as words do in a name: `user:{id}` is not meant for `user:7:avatar`.
_FIELD: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MATCHED: Final = "[^:]+"
_ANY: Final = None  # an item of a template that stands for one or more characters but the colon
_FILLER: Final = "x"


def is_template(name: str) -> bool:
    """Tell whether a name of the registry has fields."""
    return _FIELD.search(name) is not None


def fields(name: str) -> tuple[str, ...]:
    """The names of a template's fields, in their order."""
    return tuple(_FIELD.findall(name))


def check(name: str) -> None:
    """Refuse a name whose braces are no fields that could be told apart.

    Raises:
        ConfigError: with what to write instead.
    """
    rest = _FIELD.sub("\0", name)
    if "{" in rest or "}" in rest:
        raise ConfigError(
            "has a brace that is no field; a field is written {word}, of letters, digits and _"
        )
    if "\0\0" in rest:
        raise ConfigError(
            "has two fields without anything in between; put a colon there, or make them one"
        )
    named = fields(name)
    for field in named:
        if named.count(field) > 1:
            raise ConfigError(f"has the field {{{field}}} twice; give each a name of its own")


@lru_cache(maxsize=4096)
def pattern(name: str) -> re.Pattern[str]:
    """What a template matches as a whole, with a group for each field."""
    parts = _FIELD.split(name)  # text, field, text, field, …, text
    return re.compile(
        "".join(
            f"(?P<{part}>{_MATCHED})" if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )
    )


def matches(template: str, name: str) -> bool:
    """Tell whether `name` is one of those that the template stands for."""
    return pattern(template).fullmatch(name) is not None


def filled(name: str, filler: str) -> str:
    """A name that a template stands for, each field replaced."""
    return _FIELD.sub(lambda _: filler, name)


def common(one: str, other: str) -> str | None:
    """Return a name that both stand for, the shortest; None if there is none.

    Either may be a plain name. No field has a colon in it, so this goes word by word.
    """
    ours, theirs = one.split(":"), other.split(":")
    if len(ours) != len(theirs):
        return None
    words: list[str] = []
    for mine, its in zip(ours, theirs, strict=True):
        word = _common(mine, its)
        if word is None:
            return None
        words.append(word)
    return ":".join(words)


@lru_cache(maxsize=4096)
def _common(one: str, other: str) -> str | None:
    # The two are automata, and this walks the states of both at a time.
    a, b = _items(one), _items(other)
    seen: dict[tuple[int, int], str] = {(0, 0): ""}
    queue = deque(seen)
    while queue:
        at = queue.popleft()
        if at == (len(a), len(b)):
            return seen[at]
        for char, to in _steps(a, b, *at):
            if to not in seen:
                seen[to] = seen[at] + char
                queue.append(to)
    return None


@lru_cache(maxsize=4096)
def _items(name: str) -> tuple[str | None, ...]:
    parts = _FIELD.split(name)
    items: list[str | None] = []
    for number, part in enumerate(parts):
        items += (_ANY,) if number % 2 else part
    return tuple(items)


def _steps(
    a: tuple[str | None, ...], b: tuple[str | None, ...], i: int, j: int
) -> Iterator[tuple[str, tuple[int, int]]]:
    if i == len(a) or j == len(b):
        return
    x, y = a[i], b[j]
    char = x if x is not None else y if y is not None else _FILLER
    if x is not None and y is not None and x != y:
        return
    for di in (1,) if x is not None else (1, 0):  # a field may go on after this character
        for dj in (1,) if y is not None else (1, 0):
            yield char, (i + di, j + dj)
