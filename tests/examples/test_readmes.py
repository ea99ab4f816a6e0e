"""Every README under examples/ tells the truth."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .readme import Step, differences, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Example

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


@pytest.mark.parametrize("name", [n for n in NAMES if [*steps(EXAMPLES / n / "README.md")]])
def test_its_commands_print_what_it_shows(name: str, example: Callable[[str], Example]) -> None:
    """Typed one after the other into one shell, in a copy of the directory."""
    made = example(name)
    all_steps = [*steps(made.folder / "README.md")]
    script = "set -e\n" + "\necho ---\n".join(step.command for step in all_steps)
    parts = "\n".join(made.run(script)).split("---")
    assert len(parts) == len(all_steps), parts
    for step, printed in zip(all_steps, parts, strict=True):
        assert not differences(step.shown, printed.strip("\n").splitlines()), printed


def test_without_a_database_there_is_local() -> None:
    """A command gets an empty one, the programs of the package, and says how it ended."""
    script = (
        "cd claim_rows && python outbox.py fill && python outbox.py show && advlock once --list"
    )
    done = subprocess.run(
        [sys.executable, "local.py", "sh", "-c", f"{script}; exit 3"],
        cwd=EXAMPLES,
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[0] == "0 of 6 sent", done.stderr


def test_every_example_is_in_the_index_and_in_a_how_to() -> None:
    """The index links to each, and so does a page of the documentation."""
    linked = set(re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text()))
    folders = {p.name for p in EXAMPLES.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert linked == folders == set(NAMES)
    pages = "".join(page.read_text() for page in (EXAMPLES.parent / "docs").glob("*.md"))
    assert not {name for name in NAMES if f"examples/{name}" not in pages}


def test_what_is_shown_is_compared() -> None:
    """Lines in any order; `…` for what differs; nothing missing, nothing more."""
    assert Step("a\nb", ("x",)) in [*_read("$ a\n> b\nx\n$ c\n")]
    assert differences(("a …", "b"), ["b", "a 17"]) == []
    assert differences(("a", "a"), ["a"]) == ["missing: a"]
    assert differences(("a",), ["a", "b"]) == ["not shown: b"]
    assert differences(("a", "…"), ["a", "b", "c"]) == []
    assert differences((), ["b"]) == ["not shown: b"]


def _read(block: str) -> list[Step]:
    class Page:
        def read_text(self) -> str:
            return f"```console\n{block}```\n"

    return [*steps(Page())]  # type: ignore[arg-type]
