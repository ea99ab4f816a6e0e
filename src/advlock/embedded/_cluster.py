"""One PostgreSQL data directory and the server that runs it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from advlock.embedded._account import Account, signals_deferred
from advlock.embedded._postmaster import Postmaster
from advlock.errors import ConfigError, DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from collections.abc import Mapping

SUPERUSER = "postgres"
_DEFAULT_PORT = 5432
# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL included.
_SOCKET_PATH_MAX = 103
# unix_socket_directories is a list with quoting rules of its own; such paths are not worth it.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/_.+-]+")
# pg_ctl puts the data directory between double quotes into a shell command, and escapes nothing.
_SHELL_ACTIVE = re.compile(r'["$`\\\n]')
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_STOP_SIGNAL = {"fast": "INT", "immediate": "QUIT"}
_POLL = 0.01
_LOG_MAX = 1_000_000
_IN_THE_WAY = "another server, or what is left of one, is in the way"
_ANOTHER_TRY_HELPS = (
    _IN_THE_WAY,
    "pre-existing shared memory block",  # a killed server's children need a moment to notice
    'lock file "postmaster.pid" already exists',  # the start of a killed starter is under way
    "Address already in use",  # somebody was faster with the free port
)


class Cluster:
    """A PostgreSQL data directory, and its server, run by the given binaries.

    Nothing outside `root` is touched, except a private directory under /tmp for the socket when
    `root` is too long for one. When we are root, all of it runs as an unprivileged account.

    Args:
        bindir: Where `initdb`, `pg_ctl` and `postgres` are.

        root: The directory for the data, the log and the socket; made when it is missing.

        tcp: Listen on a free port of 127.0.0.1, too. Any local user can connect to it.

        settings: Server settings for this start, such as `{"fsync": "off"}`.

    Raises:
        ConfigError: `root` cannot be used by PostgreSQL's own programs.
    """

    def __init__(
        self,
        bindir: Path,
        root: Path,
        *,
        tcp: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.bindir = bindir
        self.root = root.resolve()
        self.data = self.root / "data"
        self.log_path = self.root / "log"
        self.socket_dir = _socket_dir(self.root)
        self._tcp = tcp
        self._settings = dict(settings or {})
        self._account = Account.current()
        if _SHELL_ACTIVE.search(str(self.root)):
            raise ConfigError(
                f"PostgreSQL cannot live in {self.root}: choose a path without quotes, $, ` or \\"
            )

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<Cluster {str(self.root)!r} {state}>"

    @property
    def running(self) -> bool:
        """Whether a server is up, or on its way up or down."""
        return self._living() is not None

    @property
    def port(self) -> int:
        """The port of the running server (its Unix socket is named after it, too)."""
        living = self._living()
        return living.port if living and living.port else _DEFAULT_PORT

    def dsn(self, dbname: str = "postgres", *, host: str | None = None) -> str:
        """A libpq connection string for the superuser.

        Args:
            dbname: The database.

            host: An address to use instead of the Unix socket; for clusters with `tcp=True`.
        """
        parts = {
            "host": host or str(self.socket_dir),
            "port": str(self.port),
            "user": SUPERUSER,
            "dbname": dbname,
        }
        return " ".join(f"{name}={_quoted(value)}" for name, value in parts.items())

    def init(self) -> None:
        """Create the data directory, unless it is there; all of it or nothing.

        Raises:
            ConfigError: The binaries are missing, or `root` is out of reach for the account that
                runs the server.
        """
        if (self.data / "PG_VERSION").exists():
            return
        self._make_root()
        for unfinished in self.root.glob("data.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        fresh = self.root / f"data.new-{secrets.token_hex(4)}"
        try:
            self._initdb(fresh)
            fresh.rename(self.data)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def start(self) -> None:
        """Start the server and wait until it takes connections; nothing to do when it does.

        Whatever a killed server or a killed starter left behind is waited for or cleared. An
        interrupted start leaves no server running.

        Raises:
            ConfigError: The binaries are missing.
            DatabaseUnavailable: The server does not come up; the message has its last words.
        """
        # Before anything that an interrupt would undo: a server that others use stays up.
        if self._ready():
            return
        deadline = time.monotonic() + _START_TIMEOUT
        try:
            while not self._ready() and not self._launch(give_up=time.monotonic() > deadline):
                time.sleep(_POLL)
        except BaseException:
            with contextlib.suppress(LockError):
                self.stop("immediate")
            raise

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and wait until it is gone; nothing to do when there is none.

        Args:
            mode: "fast" rolls open transactions back and writes everything down; "immediate" is
                quicker and leaves the recovery to the next start.

        Raises:
            DatabaseUnavailable: The server does not stop.
        """
        for signal in dict.fromkeys((_STOP_SIGNAL[mode], _STOP_SIGNAL["immediate"])):
            if self._stopped_by(signal):
                return
        raise DatabaseUnavailable(f"PostgreSQL in {self.data} does not stop; see {self.log_path}")

    def destroy(self) -> None:
        """Stop the server and remove every file of it. A signal has to wait until that is done."""
        with signals_deferred():
            if not self.running and Postmaster.read(self.data):
                # A killed server leaves shared memory behind; nobody clears it as well as its heir.
                # Whose recovery need not sync what is about to go: that takes seconds.
                self._settings["fsync"] = "off"
                with contextlib.suppress(LockError):
                    self.start()
            self.stop("immediate")
            if self.socket_dir != self.root:
                shutil.rmtree(self.socket_dir, ignore_errors=True)
            shutil.rmtree(self.root, ignore_errors=True)

    def _living(self) -> Postmaster | None:
        named = Postmaster.read(self.data)
        return named if named and named.is_alive(self.data) else None

    def _ready(self) -> bool:
        """Whether the server takes connections; one without its socket is stopped for a new one."""
        living = self._living()
        if living is None or living.status != "ready":
            return False
        if (self.socket_dir / f".s.PGSQL.{living.port}").exists():
            return True
        self.stop("fast")
        return False

    def _launch(self, *, give_up: bool) -> bool:
        """Start a server if none is there; True when it is ready, False when to look again."""
        if self._living() is not None or self._remains_in_use():
            trouble = _IN_THE_WAY
        else:
            self._make_socket_dir()
            _rotate(self.log_path)
            trouble = self._pg_ctl_start()
        if not trouble:
            return True
        if give_up or not any(passing in trouble for passing in _ANOTHER_TRY_HELPS):
            raise DatabaseUnavailable(
                f"PostgreSQL in {self.data} did not start (see {self.log_path}): {trouble}"
            )
        return False

    def _pg_ctl_start(self) -> str:
        """Start the server; return what went wrong, empty when it is ready."""
        seen = self.log_path.stat().st_size if self.log_path.exists() else 0
        arguments = ["-D", str(self.data), "-l", str(self.log_path), "-w", "-o", self._options()]
        code, words = self._program("pg_ctl", "start", *arguments)
        if code == 0:
            return ""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(seen)
            words = log.read()[-2000:].decode(errors="replace").strip() or words
        return words

    def _options(self) -> str:
        """The server's command line. It wins over files, and leaves nothing in them."""
        port = _free_port() if self._tcp else _DEFAULT_PORT
        settings = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(port),
            "unix_socket_directories": str(self.socket_dir),
            **self._settings,
        }
        return " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())

    def _remains_in_use(self) -> bool:
        """Clear away a dead server's lock files; True while processes of it are still there.

        PostgreSQL clears them itself unless the dead server's number still exists, as a zombie or
        as an unrelated process: then it would refuse to start until somebody removes the file.
        """
        dead = Postmaster.read(self.data)
        if dead is None or not dead.pid_exists():
            return False
        in_use = dead.memory_in_use()
        if in_use is False:
            sockets = f"{self.socket_dir}/.s.PGSQL.{dead.port or self.port}"
            remains = [f"{self.data}/postmaster.pid", sockets, f"{sockets}.lock"]
            self._account.run(["rm", "-f", *remains])
        return bool(in_use)

    def _stopped_by(self, signal: str) -> bool:
        """Send `signal` to the server, if there is one, and wait until it is gone."""
        living = self._living()
        if living is None:
            return True
        # As the server's account, so that a forged pid file cannot aim a signal sent by root.
        self._account.run(["sh", "-c", f"kill -s {signal} {living.pid}"])
        deadline = time.monotonic() + _STOP_TIMEOUT
        while living.is_alive(self.data) and time.monotonic() < deadline:
            time.sleep(_POLL)
        return not living.is_alive(self.data)

    def _initdb(self, data: Path) -> None:
        arguments = ["-D", str(data), "-U", SUPERUSER, "-E", "UTF8", "--locale=C", "--auth=trust"]
        code, words = self._program("initdb", *arguments, "--no-sync", "--no-instructions")
        if code != 0:
            raise ConfigError(f"initdb could not create a database in {self.root}: {words}")

    def _program(self, name: str, *arguments: str) -> tuple[int, str]:
        program = self.bindir / name
        try:
            return self._account.run([str(program), *arguments])
        except OSError as error:
            raise ConfigError(
                f"{program} cannot be run as user {self._account.name} ({error.strerror}):"
                " pip install 'advlock[embedded]'"
            ) from error

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
            self._account.adopt(self.root)
        except OSError as error:
            raise ConfigError(f"no room for PostgreSQL in {self.root}: {error.strerror}") from error
        if self._account.foreign and not self._account.can_enter(self.root):
            raise ConfigError(
                f"as root, PostgreSQL runs as user {self._account.name}, who cannot get into"
                f" {self.root}: set ADVLOCK_HOME to a directory that everybody can enter"
            )

    def _make_socket_dir(self) -> None:
        """Make the short directory, or make sure that nobody else made it first."""
        path = self.socket_dir
        if path == self.root:
            return
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            self._account.adopt(path)
        found = path.lstat()
        if path.is_symlink() or found.st_uid != self._account.uid or found.st_mode & 0o077:
            raise ConfigError(
                f"{path} belongs to somebody else: remove it, or set ADVLOCK_HOME to a short path"
            )


def _socket_dir(root: Path) -> Path:
    longest = f"{root}/.s.PGSQL.65535"
    if len(os.fsencode(longest)) <= _SOCKET_PATH_MAX and _PLAIN_PATH.fullmatch(longest):
        return root
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    return Path("/tmp") / f"advlock-{os.geteuid()}-{digest}"  # noqa: S108 - private, checked above


def _quoted(value: str) -> str:
    if _PLAIN_PATH.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_MAX:
        log.replace(log.with_suffix(".1"))
