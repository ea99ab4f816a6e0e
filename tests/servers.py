"""The PostgreSQL servers that the tests run against.

`ADVLOCK_TEST_DSN` names one; otherwise PostgreSQL 15 of the system, where it is installed, and the
embedded one. The latter live in a temporary directory of the test run, are started by whoever needs
them first, and are shared by all workers. A killed run's servers are stopped by the next run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row

from advlock.embedded._account import Account
from advlock.embedded._binaries import server_version, usable_bindir
from advlock.embedded._cluster import Cluster
from advlock.embedded._flock import exclusive
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from typing import Any

SETTINGS = {"fsync": "off", "max_connections": "200"}

_ADVISORY_LOCKS = """
SELECT l.pid, l.classid::bigint, l.objid::bigint, l.objsubid, l.mode, l.granted,
       coalesce(a.application_name, '') AS application
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY l.granted DESC, l.pid
"""


@dataclass(frozen=True, slots=True)
class LockRow:
    """A row of pg_locks for an advisory lock: somebody holds it, or waits for it."""

    pid: int
    classid: int
    objid: int
    objsubid: int
    mode: str
    granted: bool
    application: str


def locks_in_db(admin: psycopg.Connection[Any]) -> list[LockRow]:
    """The advisory locks, held and waited for, in the database of the connection `admin`."""
    with admin.cursor(row_factory=class_row(LockRow)) as cursor:
        return cursor.execute(_ADVISORY_LOCKS).fetchall()


@dataclass(frozen=True, slots=True)
class Server:
    """A server that tests may use as its superuser.

    Attributes:
        name: "pg15", "pg18": its major version, and the id of the test parameter.

        version: The full version, such as "15.9".

        cluster: Its data directory; None for the server of ADVLOCK_TEST_DSN.

        given: ADVLOCK_TEST_DSN.
    """

    name: str
    version: str
    cluster: Cluster | None = None
    given: str = ""

    def start(self) -> None:
        """Start it unless it runs already; any number of processes may do so at once."""
        if self.cluster is not None:
            with exclusive(self.cluster.root.parent / f"start-{self.name}"):
                self.cluster.init()
                self.cluster.start()

    def dsn(self, dbname: str) -> str:
        """How to reach a database: over the Unix socket, or as ADVLOCK_TEST_DSN has it."""
        if self.cluster is not None:
            return self.cluster.dsn(dbname)
        return make_conninfo(self.given, dbname=dbname)

    def tcp_dsn(self, dbname: str) -> str:
        """How to reach a database over TCP; with ADVLOCK_TEST_DSN the same as `dsn`."""
        if self.cluster is not None:
            return self.cluster.dsn(dbname, host="127.0.0.1")
        return make_conninfo(self.given, dbname=dbname)

    @property
    def superuser_dsn(self) -> str:
        """How to reach the maintenance database as a superuser."""
        return self.given or self.dsn("postgres")

    @property
    def log_path(self) -> Path | None:
        """The server's log; None where the tests cannot read it."""
        return self.cluster.log_path if self.cluster is not None else None


def find_servers(home: Path | None) -> list[Server]:
    """The servers of this test run, none of them started yet.

    Args:
        home: The run's temporary directory; None with ADVLOCK_TEST_DSN.

    Raises:
        ConfigError: There is no server to be had; the message says how to get one.
    """
    if home is None:
        return [_given_server(os.environ["ADVLOCK_TEST_DSN"])]
    account = Account.current()
    found = {}
    for bindir in (_system_bindir(), _wheel_bindir(account, home)):
        version = server_version(bindir, account) if bindir else None
        if bindir and version:
            name = f"pg{version.partition('.')[0]}"
            found[name] = Server(
                name, version, Cluster(bindir, home / name, tcp=True, settings=SETTINGS)
            )
    if not found:
        raise ConfigError(
            "the tests need PostgreSQL: pip install 'advlock[embedded]', or set ADVLOCK_TEST_DSN"
        )
    return list(found.values())


def _given_server(dsn: str) -> Server:
    with psycopg.connect(dsn) as connection:
        number = connection.info.server_version
    return Server(f"pg{number // 10000}", f"{number // 10000}.{number % 10000}", given=dsn)


def _system_bindir() -> Path | None:
    """Debian's PostgreSQL 15, else the one that pg_config tells about, else the one in PATH."""
    candidates = [Path("/usr/lib/postgresql/15/bin")]
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(told.stdout.strip()))
    if pg_ctl := shutil.which("pg_ctl"):
        candidates.append(Path(pg_ctl).resolve().parent)
    programs = ("initdb", "pg_ctl", "postgres")
    complete = (c for c in candidates if all((c / name).exists() for name in programs))
    return next(complete, None)


def _wheel_bindir(account: Account, home: Path) -> Path | None:
    try:
        return usable_bindir(account, home)[0]
    except ConfigError:
        return None
