"""The server that the processes of one user share: the first one starts it, the last one stops it.

Who uses it is written down where `kill -9` cannot falsify it: every user holds a shared flock on
the file `users`. Joining and leaving are serialised by an exclusive flock on the file `start`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from pathlib import Path

from advlock.embedded._account import Account
from advlock.embedded._binaries import usable_bindir
from advlock.embedded._cluster import Cluster
from advlock.embedded._flock import exclusive, open_lock_file, try_exclusive
from advlock.errors import ConfigError


def home_directory() -> Path:
    """Where this user's server lives: ADVLOCK_HOME, or the usual place for data.

    Raises:
        ConfigError: The account has no home directory, and ADVLOCK_HOME is not set.
    """
    if chosen := os.environ.get("ADVLOCK_HOME"):
        return Path(chosen).expanduser().resolve()
    if os.geteuid() == 0:
        return Path("/var/lib/advlock")
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        return (data if data.is_absolute() else Path.home() / ".local/share") / "advlock"
    except RuntimeError as error:
        raise ConfigError(
            "this account has no home directory for --local: set ADVLOCK_HOME to a directory"
        ) from error


class SharedServer:
    """This process's part in the shared server of one home directory. Thread-safe.

    Any number of joins in this process make one user of the server.
    """

    def __init__(self, home: Path) -> None:
        self.cluster: Cluster | None = None
        self._home = home
        self._mutex = threading.Lock()
        self._joined = 0
        self._share = -1
        self._owner = os.getpid()

    def join(self) -> Cluster:
        """Become a user of the server; start it if it is not running.

        Raises:
            ConfigError: The wheel is missing, or the home directory cannot be used.
            DatabaseUnavailable: The server does not start.
        """
        with self._mutex:
            if self.cluster is None or self._share < 0 or not self.cluster.running:
                self.cluster = self._enter()
            self._joined += 1
            return self.cluster

    def leave(self) -> None:
        """Take one join back; the last user of all stops the server. In a forked child: nothing."""
        # There the mutex may be held for ever, by a thread that the fork has not copied.
        if self._owner != os.getpid():
            return
        with self._mutex:
            self._joined -= 1
            if self._joined <= 0:
                self._exit()

    def abandon(self) -> None:
        """Take all joins back, as the interpreter exits."""
        if self._owner == os.getpid():
            self._exit()

    def fileno(self) -> int:
        """The descriptor whose lock keeps the server alive; -1 when we are not a user of it."""
        return self._share

    def _enter(self) -> Cluster:
        _make_home(self._home)
        with exclusive(self._home / "start"):
            if self._share < 0:
                self._share = open_lock_file(self._home / "users")
            try:
                fcntl.flock(self._share, fcntl.LOCK_SH)
                cluster = self.cluster = self._find_cluster()
                cluster.init()
                cluster.start()
            except BaseException:
                if not self._joined:
                    self._withdraw()
                raise
            return cluster

    def _find_cluster(self) -> Cluster:
        bindir, version = usable_bindir(Account.current(), self._home)
        cluster = Cluster(bindir, self._home / f"pg{version.partition('.')[0]}")
        if not cluster.running:
            for copy in self._home.glob("programs-*"):
                if copy not in bindir.parents:
                    shutil.rmtree(copy, ignore_errors=True)
        return cluster

    def _exit(self) -> None:
        if self._share >= 0:
            with exclusive(self._home / "start"):
                self._withdraw()

    def _withdraw(self) -> None:
        """Give our share back, and stop the server if nobody else has one."""
        self._drop_share()
        users = open_lock_file(self._home / "users")
        try:
            if self.cluster is not None and try_exclusive(users):
                self.cluster.stop()
        finally:
            os.close(users)

    def _drop_share(self) -> None:
        """Close, never unlock: a child that inherited the descriptor keeps its part of the lock."""
        share, self._share = self._share, -1
        os.close(share)


def _make_home(home: Path) -> None:
    """Make the directory; root's can be entered by the account that runs the server."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
            if os.geteuid() == 0:
                home.chmod(0o711)
        os.close(open_lock_file(home / "start"))
    except OSError as error:
        raise ConfigError(
            f"cannot write to {home} ({error.strerror}): set ADVLOCK_HOME to a directory of yours"
        ) from error
