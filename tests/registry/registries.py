"""Registries in files of a test's own, and the command that reads them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advlock import cli
from advlock._registry._load import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._registry._registry import Registry

SOURCE = Path(__file__).parents[2] / "src"
# Two names that hashtext gives one number, and hashtextextended two.
TWINS = ("job:11352", "job:189279")


def written(folder: Path, text: str, name: str = "advlock.toml") -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text)
    return path


def registry(folder: Path, text: str) -> Registry:
    """The registry that this text is."""
    found = load(written(folder, text), lines=True)
    assert found is not None
    return found


def advlock(
    folder: Path, *arguments: str, dsn: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, with no database but the one that is given."""
    ours = ("ADVLOCK_", "PG", "DATABASE_URL")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    env["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, sys.path[1:])])
    if dsn is not None:
        env["ADVLOCK_DSN"] = dsn
    argv: Sequence[str] = [sys.executable, "-m", "advlock", *arguments]
    return subprocess.run(argv, cwd=folder, env=env, check=False, capture_output=True, text=True)


def as_json(folder: Path, *arguments: str) -> Any:
    """What a command writes with --json; in this process, which saves the start of one."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as stdout:
        cli.main([*arguments, "--json"])
    return json.loads(stdout.getvalue())
