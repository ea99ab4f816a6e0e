"""Fixtures of the tests of `ps`, `why` and `kill`."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from advlock import cli as commands

from .lock_scene import OnTerminal, Scene, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg import Connection

    from .helpers import Cli


@pytest.fixture
def number() -> int:
    """A key that no other test uses."""
    return secrets.randbelow(2**61) + 2**61


@pytest.fixture
def scene(dsn: str, admin: Connection[Any]) -> Iterator[Scene]:
    """Sessions that end with the test."""
    made = Scene(dsn, admin)
    yield made
    made.close()


@pytest.fixture
def advlock(
    dsn: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Told]:
    """`advlock ARGS` in this process, in an empty directory; a start takes a third of a second."""
    for variable in ("ADVLOCK_DSN", "DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*args: str, dsn: str = dsn) -> Told:
        monkeypatch.setenv("ADVLOCK_DSN", dsn)
        capfd.readouterr()
        with open(os.devnull) as nothing:  # noqa: PTH123 - a file without a path to speak of
            monkeypatch.setattr("sys.stdin", nothing)
            code = commands.main(list(args))
        return Told(code, *capfd.readouterr())

    return run


@pytest.fixture
def on_terminal(cli: Cli) -> Iterator[Callable[..., OnTerminal]]:
    """Starts `advlock ARGS` on a terminal of its own."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, **how: Any) -> OnTerminal:
            made = OnTerminal(cli, *args, **how)
            stack.callback(made.close)
            return made

        yield start
