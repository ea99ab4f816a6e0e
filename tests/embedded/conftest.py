"""A home directory for embedded servers, and processes that use them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from local_users import User, processes_at
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_users import NewUser


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that any account can enter; a server that still runs in it is a failure."""
    path = Path(tempfile.mkdtemp(prefix="advlock-test-")).resolve()
    path.chmod(0o711)
    yield path
    left = processes_at(path)
    for pid in left:
        os.kill(pid, signal.SIGQUIT)
    eventually(lambda: not processes_at(path))
    shutil.rmtree(path)
    assert not left, "a server was left running"


@pytest.fixture
def user(home: Path) -> Iterator[NewUser]:
    """Start a process that uses the server in `home`; whatever happens, it ends with the test."""
    users: list[User] = []

    def new(*args: Any, **kwargs: Any) -> User:
        users.append(User(home, *args, **kwargs))
        return users[-1]

    yield new
    for one in users:
        one.kill()
