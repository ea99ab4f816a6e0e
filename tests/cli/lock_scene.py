"""Real sessions that hold locks and wait for them, `advlock` in this process, and on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import termios
import time
import uuid
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import make_conninfo
from waiting import eventually

from .helpers import ADVLOCK, PATIENCE, default_signals

if TYPE_CHECKING:
    from psycopg import Connection

    from .helpers import Cli, Running


_PIDS: WeakKeyDictionary[Connection[Any], int] = WeakKeyDictionary()


class Scene:
    """Sessions of others; `close` ends them all."""

    def __init__(self, dsn: str, admin: Connection[Any]) -> None:
        self.dsn = dsn
        self.admin = admin
        self._sessions: list[Connection[Any]] = []

    def session(self, application: str = "psql", **options: Any) -> Connection[Any]:
        """A session that signs like that."""
        address = make_conninfo(self.dsn, application_name=application, **options)
        session = psycopg.connect(address, autocommit=True)
        self._sessions.append(session)
        _PIDS[session] = session.info.backend_pid
        return session

    def hold(self, lock: str, application: str = "psql", **options: Any) -> Connection[Any]:
        """A session that holds a lock, as one would write it in SQL; or `SHARED: 42`."""
        session = self.session(application, **options)
        session.execute(_taking(lock))
        return session

    def wait(self, lock: str, application: str = "psql", **options: Any) -> Connection[Any]:
        """A session that waits for a lock; it is in the queue."""
        session = self.session(application, **options)
        session.pgconn.send_query(_taking(lock).encode())
        waiting = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
        pid = pid_of(session)
        eventually(lambda: self.admin.execute(waiting, [pid]).fetchone() == (1,))
        return session

    def alive(self, session: Connection[Any]) -> bool:
        """Whether the server has this session."""
        there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        return self.admin.execute(there, [pid_of(session)]).fetchone() == (1,)

    def role(self, name: str = "") -> str:
        """A role that may connect, and no more."""
        role = name or f"weak_{uuid.uuid4().hex[:8]}"
        self.admin.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN").format(_identifier(role)))
        self._roles.append(role)
        return role

    @property
    def _roles(self) -> list[str]:
        return self.__dict__.setdefault("roles", [])

    def close(self) -> None:
        """End all sessions, also those that wait, and forget the roles."""
        for session in self._sessions:
            self.admin.execute("SELECT pg_terminate_backend(%s)", [pid_of(session)])
            session.close()
        for role in self._roles:
            self.admin.execute(psycopg.sql.SQL("DROP ROLE {}").format(_identifier(role)))


def _identifier(name: str) -> psycopg.sql.Identifier:
    return psycopg.sql.Identifier(name)


def _taking(lock: str) -> str:
    mode, colon, key = lock.rpartition("SHARED: ")
    del mode
    return f"SELECT pg_advisory_lock{'_shared' if colon else ''}({key})"


def pid_of(session: Connection[Any]) -> int:
    """The server process, also of a session that is closed."""
    return _PIDS[session]


class Told:
    """What a command told."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def rows(self) -> list[str]:
        """The lines below the heads."""
        return self.out.splitlines()[1:]

    @property
    def json(self) -> Any:
        """The one JSON value."""
        return json.loads(self.out)


class OnTerminal:
    """A command on a pseudo-terminal, 80 by 24: stdin, stdout and stderr."""

    def __init__(
        self,
        cli: Cli,
        *args: str,
        columns: int = 80,
        rows: int = 24,
        more: dict[str, str] | None = None,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._before = termios.tcgetattr(slave)
        self._slave = slave

        def take() -> None:
            default_signals()
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        ours = {"COLUMNS", "LINES", "NO_COLOR"}
        env = {name: value for name, value in cli.env.items() if name not in ours} | (more or {})
        settings: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.running: Running = cli.program(
            *ADVLOCK, *args, preexec_fn=take, env=env | {"TERM": "xterm"}, **settings
        )
        self.seen = ""

    def until(self, text: str) -> str:
        """Read until that text has come; return everything since the last time."""
        end = time.monotonic() + PATIENCE
        got = ""
        while text not in got:
            ready = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready[0], f"{text!r} did not come; there is: {got!r}"
            got += os.read(self.master, 65536).decode()
        self.seen += got
        return got

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def code(self) -> int:
        """Wait for its end; the exit code. What it still wrote is in `seen`."""
        code = self.running.code()
        with contextlib.suppress(OSError):
            while select.select([self.master], [], [], 0)[0]:
                self.seen += os.read(self.master, 65536).decode()
        return code

    def unchanged(self) -> bool:
        """Whether the terminal's settings are what they were."""
        return termios.tcgetattr(self._slave) == self._before

    def close(self) -> None:
        """Close both ends."""
        os.close(self.master)
        os.close(self._slave)
