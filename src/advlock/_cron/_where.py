"""On which line each key of a TOML file stands; tomllib does not say. Pure.

Only a file with something to say about needs it, so it may cost a second reading.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Path: TypeAlias = tuple[str, ...]

# What may hold a line's end, a bracket or a # that does not count, and what does count.
_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|#[^\n]*|[\[\]{}\n]",
    re.DOTALL,
)
_DEPTH: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, from 1, on which each table and each key of it begins.

    Args:
        text: TOML that tomllib has read.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    for line, statement in _statements(text):
        tree = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _header(tree)
            paths: Iterator[Path] = (table[: n + 1] for n in range(len(table)))
        else:
            paths = _flat(tree, table)
        for path in paths:
            found.setdefault(path, line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield what stands for itself, a header or a key with its value, and its first line."""
    start, line, depth, newlines = 0, 1, 0, 0
    for match in _TOKEN.finditer(text + "\n"):
        piece = match[0]
        depth += _DEPTH.get(piece, 0)
        newlines += piece.count("\n")
        if piece == "\n" and depth == 0:
            statement = text[start : match.end()]
            if statement.strip() and not statement.lstrip().startswith("#"):
                yield line, statement
            start, line, newlines = match.end(), line + newlines, 0


def _header(tree: Mapping[str, Any]) -> Path:
    path: list[str] = []
    inner: Any = tree
    while inner:
        if isinstance(inner, list):  # [[of tables]], which all share a path
            inner = inner[0]
            continue
        ((key, inner),) = inner.items()
        path.append(key)
    return tuple(path)


def _flat(tree: Mapping[str, Any], above: Path) -> Iterator[Path]:
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _flat(value, (*above, key))
