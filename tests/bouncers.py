"""PgBouncers of a test's own: to configure, to question, to restart and to kill."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import answers, free_port, temporary_home
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from waiting import eventually

from advlock.embedded._account import Account

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

PROGRAM = Path("/usr/sbin/pgbouncer")
MODES = ("session", "transaction", "statement")


class Bouncer:
    """A PgBouncer before one server. Its clients need no password.

    Attributes:
        port: Where it listens, on 127.0.0.1; it keeps the port over a restart.

        settings: Its section [pgbouncer]; a change takes effect with the next `start` or `reload`.
    """

    def __init__(self, upstream: str, home: Path, mode: str, settings: dict[str, object]) -> None:
        given = conninfo_to_dict(upstream)
        self._user = given["user"]
        self._target = " ".join(f"{word}={given[word]}" for word in ("host", "port", "user"))
        self._config = home / "pgbouncer.ini"
        self._words = home / "pgbouncer.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._meant = False  # whether it was ended on purpose
        self.port = free_port()
        self.settings: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "admin_users": "admin",
            "pool_mode": mode,
            "default_pool_size": 20,
            "max_client_conn": 500,
            "logfile": "",
        } | settings

    def dsn(self, dbname: str = "postgres", **options: object) -> str:
        """How a client reaches a database through it."""
        return make_conninfo(
            host="127.0.0.1", port=self.port, user=self._user, dbname=dbname, **options
        )

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._write()
        self._meant = False
        account = Account.current()
        # A session of its own: what a test does to its own process group is nothing to it.
        switch: dict[str, Any] = {"start_new_session": True}
        if account.foreign:
            switch |= {"user": account.uid, "group": account.gid, "extra_groups": []}
        with self._words.open("ab") as words:
            self._process = process = subprocess.Popen(
                [PROGRAM, self._config], stdout=words, stderr=words, cwd="/", **switch
            )
        eventually(lambda: process.poll() is not None or answers(self.dsn("pgbouncer")), within=10)
        assert process.poll() is None, f"PgBouncer ended at once with {process.returncode}"

    def _write(self) -> None:
        lines = [f"[databases]\n* = {self._target}\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in self.settings.items()]
        self._config.write_text("\n".join(lines) + "\n")
        self._config.chmod(0o644)

    def reload(self, **settings: object) -> None:
        """Change settings while it runs."""
        self.settings |= settings
        self._write()
        self.ask("RELOAD")

    def ask(self, command: str) -> list[dict[str, Any]]:
        """Give its console a command, such as "SHOW SERVERS"; return the rows of the answer."""
        dsn = make_conninfo(self.dsn("pgbouncer"), user="admin")
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as console:
            # It knows the simple protocol only, and its errors are ours.
            cursor = psycopg.ClientCursor(console, row_factory=dict_row).execute(command)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def pinned(self) -> int:
        """How many server connections are linked to a client now."""
        return sum(row["state"] == "active" for row in self.ask("SHOW SERVERS"))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running program."""
        assert self._process is not None
        return self._process

    def check(self) -> None:
        """Fail if it has ended by itself, with the last that it said."""
        code = self.process.poll()
        if code is not None and not self._meant:
            words = self._words.read_text(errors="replace").splitlines()[-20:]
            raise AssertionError("\n".join((f"PgBouncer ended with {code}:", *words)))

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._meant = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as an administrator does, at once (SIGTERM)."""
        self._meant = True
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def retire(self) -> None:
        """Have it end once nobody needs it (SIGINT)."""
        self._meant = True
        self.process.send_signal(signal.SIGINT)

    def restart(self) -> None:
        """Kill it and start it again at the same address."""
        self.kill()
        self.start()


@contextmanager
def bouncer(server: Server, mode: str, **settings: object) -> Iterator[Bouncer]:
    """Start a PgBouncer in front of `server`; it ends with the block.

    Args:
        server: Where it leads to.

        mode: One of `MODES`.

        settings: Of its section [pgbouncer], such as `server_reset_query=""`.
    """
    with bouncer_before(server.superuser_dsn, mode, **settings) as made:
        yield made


@contextmanager
def bouncer_before(upstream: str, mode: str, **settings: object) -> Iterator[Bouncer]:
    """Start a PgBouncer in front of a server that a DSN with host, port and user names."""
    if not PROGRAM.exists():
        pytest.skip("PgBouncer is not installed")
    with temporary_home() as home:
        made = Bouncer(upstream, home, mode, settings)
        made.start()
        try:
            yield made
            made.check()
        finally:
            made.kill()
