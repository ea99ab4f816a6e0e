"""The page about the catalogue has every entry of it.

`ADVLOCK_REGEN=1 python3 dev.py test tests/catalogue/test_docs.py` writes its tables anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from advlock._catalogue._entries import ENTRIES

if TYPE_CHECKING:
    from advlock._catalogue._entry import Entry

NPM = Path(__file__).parent / "npm"
PAGE = Path(__file__).parents[2] / "docs" / "well-known.md"
KINDS = sorted({entry.kind for entry in ENTRIES})


def link(source: str) -> str:
    """The file in which an entry was read, at its commit."""
    repository, _, rest = source.partition("@")
    commit, _, path = rest.partition(":")
    return f"[{repository.split('/')[1]}](https://github.com/{repository}/blob/{commit}/{path})"


def table(entries: list[Entry]) -> str:
    """A table of entries of one kind."""
    lines = [
        "| tool | key | what for | read in | confirmed by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in entries:
        cells = (entry.tool, f"`{entry.key}`", entry.meaning, link(entry.source), entry.witness)
        assert not any("|" in cell or "\n" in cell for cell in cells), entry
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_are_up_to_date(kind: str) -> None:
    """Each table of the page has exactly the entries of its kind, in their order."""
    expected = table([entry for entry in ENTRIES if entry.kind == kind])
    text = PAGE.read_text()
    place = re.compile(rf"(<!-- {kind} -->\n).*?(<!-- end -->)", re.DOTALL)
    assert place.search(text), f"the page has no place for {kind!r}"
    if os.environ.get("ADVLOCK_REGEN"):
        PAGE.write_text(place.sub(lambda found: f"{found[1]}\n{expected}\n\n{found[2]}", text))
    (found,) = place.finditer(PAGE.read_text())
    assert found[0] == f"{found[1]}\n{expected}\n\n{found[2]}", "write it anew with ADVLOCK_REGEN=1"


def test_what_comes_from_npm_is_pinned() -> None:
    """Every package has one version and a digest, and none says from which host it has to come."""
    wanted = json.loads((NPM / "package.json").read_text())["dependencies"]
    locked = json.loads((NPM / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == wanted
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert all(package["integrity"].startswith("sha512-") for package in locked.values())
    assert not any("resolved" in package for package in locked.values())
