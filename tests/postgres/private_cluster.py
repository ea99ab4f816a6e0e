"""Clusters of a test's own, to crash, to copy, to promote; from the server's own binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from .helpers import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

OPTIONS = {
    "listen_addresses": "",
    "max_connections": "40",
    "max_wal_senders": "2",
    "autovacuum": "off",
    "fsync": "off",
}


@dataclass(frozen=True, slots=True)
class PrivateCluster:
    """A data directory and what runs on it.

    Attributes:
        binaries: The directory of the server's programs.

        owner: The user id that owns the files and runs the server.

        home: The directory of everything; the server's Unix socket is in it.

        options: Settings of the server, name by name.
    """

    binaries: Path
    owner: int
    home: Path
    options: dict[str, str]

    @property
    def dsn(self) -> str:
        """How its superuser reaches it, over the Unix socket."""
        return f"host={self.home} user=postgres dbname=postgres"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    def connect(self, **overrides: str) -> Connection[Any]:
        """Open a session of the superuser, or of another user, in autocommit mode."""
        return psycopg.connect(make_conninfo(self.dsn, **overrides), autocommit=True)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = " ".join(f"-c {name}='{setting}'" for name, setting in self.options.items())
        log = str(self.home / "log")
        self._control("-l", log, "-o", f"-k {self.home} {options}", "start")

    def crash(self) -> None:
        """Stop the server as a power cut would: nothing is flushed, nothing is tidied up."""
        self._control("-m", "immediate", "stop")

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of the server as the owner of the data: as root it would refuse to."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            group = pwd.getpwuid(self.owner).pw_gid
            identity = {"user": self.owner, "group": group, "extra_groups": []}
        subprocess.run(
            [self.binaries / program, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={"LC_ALL": "C", "PATH": os.defpath},
            **identity,
        )

    def _control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", *arguments)


@contextmanager
def private_cluster(
    superuser: Connection[Any], *trusted: str, **options: str
) -> Iterator[PrivateCluster]:
    """Make and start a cluster beside the given server; end and remove it with the block.

    Args:
        superuser: A session on the given server, whose programs are used.

        trusted: Networks such as "10.0.0.0/30" that may connect without a password.

        options: Settings on top of `OPTIONS`.
    """
    binaries = Path(one(superuser, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    if not (binaries / "initdb").exists():
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    owner = Path(one(superuser, "SHOW data_directory")).stat().st_uid
    with _home(owner) as home:
        cluster = PrivateCluster(binaries, owner, home, OPTIONS | options)
        data = str(cluster.data)
        access = ("-U", "postgres", "-A", "trust", "-E", "UTF8")
        cluster.run("initdb", "-D", data, "--no-sync", *access)
        with (cluster.data / "pg_hba.conf").open("a") as rules:
            rules.writelines(f"host all all {network} trust\n" for network in trusted)
        with _running(cluster):
            yield cluster


@contextmanager
def standby_of(primary: PrivateCluster) -> Iterator[PrivateCluster]:
    """Copy a running cluster and start the copy as its streaming standby."""
    with _home(primary.owner) as home:
        standby = PrivateCluster(primary.binaries, primary.owner, home, primary.options)
        source = ("-d", primary.dsn)
        standby.run("pg_basebackup", "-D", str(standby.data), "-R", "-c", "fast", "-N", *source)
        with _running(standby):
            yield standby


@contextmanager
def _home(owner: int) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="belief"))
    try:
        os.chown(home, owner, -1)
        yield home
    finally:
        shutil.rmtree(home)


@contextmanager
def _running(cluster: PrivateCluster) -> Iterator[None]:
    cluster.start()
    try:
        yield
    finally:
        cluster.crash()
