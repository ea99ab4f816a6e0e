"""Temporary directories for servers, which can be told from abandoned ones after a `kill -9`.

The directory itself is locked (flock) by the process that made it. It gets the name that others
look for only once the lock is held, so a directory of that name without a lock has no owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from advlock.embedded._account import Account, signals_deferred
from advlock.embedded._cluster import Cluster
from advlock.embedded._flock import try_exclusive
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "advlock-temp-"
_COMMON = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - mkdtemp makes the private name in it


class TemporaryHome:
    """A directory for throw-away clusters, each in a directory of its own below `path`.

    Args:
        path: The locked directory.

        lock: The descriptor that holds the lock; a child that inherits it keeps the directory.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._owner = os.getpid()

    @classmethod
    def create(cls) -> TemporaryHome:
        """Make a new one; the account that runs the server can enter it, and do no more.

        Raises:
            ConfigError: No temporary directory is open to that account.
        """
        parent = _parent(Account.current())
        with signals_deferred():
            path = Path(tempfile.mkdtemp(prefix=".advlock-new-", dir=parent))
            path.chmod(0o711)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            return cls(path.rename(parent / f"{_PREFIX}{secrets.token_hex(4)}"), lock)

    def fileno(self) -> int:
        """The descriptor of the lock."""
        return self._lock

    def remove(self) -> None:
        """Stop every server in it and delete it. In a forked child, or a second time: nothing."""
        if self._lock < 0 or self._owner != os.getpid():
            return
        with signals_deferred():
            _destroy(self.path)
            os.close(self._lock)
            self._lock = -1


def remove_abandoned() -> None:
    """Stop the servers, and delete the directories, of processes of ours that were killed."""
    for path in _parent(Account.current()).glob(f"{_PREFIX}*"):
        with _adopted(path) as abandoned:
            if abandoned:
                _destroy(path)


@contextlib.contextmanager
def _adopted(path: Path) -> Iterator[bool]:
    """Lock `path` if it is ours and nobody's any more."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        yield os.fstat(lock).st_uid == os.geteuid() and try_exclusive(lock)
    finally:
        os.close(lock)


def _destroy(home: Path) -> None:
    for root in home.iterdir():
        if (root / "data").exists():
            Cluster(_last_bindir(root / "data"), root).destroy()
    shutil.rmtree(home, ignore_errors=True)


def _last_bindir(data: Path) -> Path:
    """The programs that served `data` last: those of a killed process need not be our own."""
    try:
        command = (data / "postmaster.opts").read_text(encoding="utf-8")
    except FileNotFoundError:
        return data
    return Path(command.partition(' "')[0]).parent


def _parent(account: Account) -> Path:
    for candidate in (Path(tempfile.gettempdir()).resolve(), *_COMMON):
        if not account.foreign or account.can_enter(candidate):
            return candidate
    raise ConfigError(
        f"user {account.name}, who runs PostgreSQL, can enter neither TMPDIR nor /tmp: set TMPDIR"
    )
