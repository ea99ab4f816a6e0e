"""An empty database and a copy of the example for each test."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """An empty database, as a URL, which more programs understand than libpq's own form."""
    name = f"example_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
    parts = {
        key: quote(str(value), "") for key, value in conninfo_to_dict(server.dsn(name)).items()
    }
    password = f":{parts['password']}" if "password" in parts else ""
    where = f"host={parts['host']}&port={parts.get('port', '5432')}"
    yield f"postgresql://{parts['user']}{password}@/{name}?{where}"
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Example:
    """A copy of an example, in which commands are run as a user runs them.

    Attributes:
        folder: The copy.

        env: The environment: a database, and the programs of the package and its tests.
    """

    def __init__(self, folder: Path, url: str) -> None:
        # Unbuffered, a line and its end are two writes, and those of two workers mingle.
        ours = ("ADVLOCK_", "PG", "DATABASE_URL", "PYTHONUNBUFFERED")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        programs = os.pathsep.join((str(Path(sys.executable).parent), clean["PATH"]))
        self.folder = folder
        self.env = {**clean, "PATH": programs, "DATABASE_URL": url}
        self._started: list[tuple[subprocess.Popen[str], Path]] = []

    def run(self, command: str, **more: str) -> list[str]:
        """Run a line of shell to its end; the lines that it printed."""
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{command}"],
            cwd=self.folder,
            env=self.env | more,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.splitlines()

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a program; `said` has what it prints."""
        path = self.folder / f"said-{len(self._started)}"
        with path.open("w") as output:
            process = subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
            )
        self._started.append((process, path))
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """What a program has printed so far."""
        (path,) = (path for started, path in self._started if started is process)
        return path.read_text()

    def close(self) -> None:
        """End what is left."""
        for process, _ in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def example(url: str, tmp_path: Path) -> Iterator[Callable[[str], Example]]:
    """Make a copy of the example of that name."""
    made: list[Example] = []

    def copy(name: str) -> Example:
        folder = shutil.copytree(
            EXAMPLES / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        made.append(Example(folder, url))
        return made[-1]

    yield copy
    for each in made:
        each.close()
