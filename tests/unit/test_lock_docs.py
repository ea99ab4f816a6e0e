"""The picture of `ps` in docs/ps.md is what the code draws; ADVLOCK_REGEN=1 draws it anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
import pytest
from lock_trees import AT, ago, ours, theirs, tree, waiter

from advlock.cli import main
from advlock.cli.exits import Exit
from advlock.cli.locks._lines import lines
from advlock.cli.locks._table import table

PICTURE = Path(__file__).parents[2] / "docs" / "ps-output" / "terminal.txt"


def test_the_picture_in_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks made by hand, at 80 columns."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    nightly = tree(
        "nightly-report",
        holders=(ours(8812, 4242, flags=("idle-in-transaction",)),),
        waiters=(
            waiter(8830, 8812, host="web-2", process=99, since=ago(718)),
            waiter(8831, 8812, 8830, host="web-3", process=7, since=ago(41)),
        ),
    )
    readers = tree(
        "catalog",
        holders=(theirs(8901, application="psql", shared=True), ours(8902, 4250, shared=True)),
        waiters=(
            waiter(8910, 8901, 8902, application="import"),
            waiter(8911, 8910, application="api", shared=True, since=ago(12)),
        ),
    )
    backup = tree("backup", holders=(ours(9001, 5120, since=ago(3 * 86_400)),))
    prisma = tree(72707369, called="Prisma Migrate", kind="well-known", holders=(theirs(9100),))
    unknown = tree((1, -2), holders=(theirs(9200, application="PostgreSQL JDBC Driver"),))
    found = list(lines([nightly, readers, backup, prisma, unknown]))
    try:
        drawn = "\n".join(click.unstyle(line) for line in table(found, AT, columns=80)) + "\n"
    finally:
        monkeypatch.undo()
        time.tzset()
    if os.environ.get("ADVLOCK_REGEN"):
        PICTURE.write_text(drawn)
    assert PICTURE.read_text() == drawn, "write it anew with ADVLOCK_REGEN=1"


@pytest.mark.parametrize("command", ["ps", "top", "why", "kill"])
def test_an_empty_name_is_refused(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked: a shell's unset variable is no lock that nobody holds."""
    assert main([command, ""]) == Exit.USAGE
    assert "a lock's name is empty" in capfd.readouterr().err
