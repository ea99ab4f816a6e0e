"""What a README tells to type, and whether what is printed then is what it shows.

In its blocks of `console`, lines that begin with `$ ` are typed into one shell, block by block, and
the lines below are printed, in any order: processes that run at once finish in any. `…` stands for
whatever differs from run to run, and in a line of its own for any further lines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANYTHING = "…"


class Step(NamedTuple):
    """A command, and the lines that it prints."""

    command: str
    shown: tuple[str, ...]


def steps(readme: Path) -> Iterator[Step]:
    """Read them all."""
    for block in _CONSOLE.findall(readme.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            while shown and shown[0].startswith("> "):
                command += "\n" + shown.pop(0)[2:]
            yield Step(command, tuple(shown))


def differences(shown: tuple[str, ...], printed: list[str]) -> list[str]:
    """What is missing, and what is too much."""
    left, missing = list(printed), []
    for line in shown:
        if line == _ANYTHING:
            continue
        pattern = ".*".join(map(re.escape, line.split(_ANYTHING)))
        found = next((each for each in left if re.fullmatch(pattern, each)), None)
        if found is None:
            missing.append(f"missing: {line}")
        else:
            left.remove(found)
    return missing + ([] if _ANYTHING in shown else [f"not shown: {line}" for line in left])
