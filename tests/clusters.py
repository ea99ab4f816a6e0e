"""Servers of a test's own: to restart, to fill up, to ask for passwords, to copy, to hide."""

from __future__ import annotations

import re
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from advlock.embedded._account import Account
from advlock.embedded._cluster import Cluster
from advlock.embedded._temporary import TemporaryHome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

SETTINGS = {
    "fsync": "off",
    "max_connections": "20",
    "max_locks_per_transaction": "10",
    "max_wal_senders": "2",
    "autovacuum": "off",
}


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A directory that the server's account may enter; everything in it ends with the block."""
    home = TemporaryHome.create()
    try:
        yield home.path
    finally:
        home.remove()


@contextmanager
def private_cluster(server: Server) -> Iterator[Cluster]:
    """Start a cluster of the same version as `server`, with a tiny lock table."""
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    with temporary_home() as home:
        cluster = Cluster(server.cluster.bindir, home / "private", tcp=True, settings=SETTINGS)
        cluster.init()
        cluster.start()
        yield cluster


@contextmanager
def steady_cluster(server: Server) -> Iterator[Cluster]:
    """Start a cluster that keeps its address over a restart: that of its Unix socket."""
    with private_cluster(server) as cluster:
        cluster._settings |= {"port": str(cluster.port), "listen_addresses": ""}
        yield cluster


def ask_for_passwords(cluster: Cluster, role: str, password: str) -> None:
    """Make a role that has to prove itself."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as session:
        session.execute("SET password_encryption = 'scram-sha-256'")
        session.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        hba = cluster.data / "pg_hba.conf"
        hba.write_text(
            f"local all {role} scram-sha-256\nhost all {role} all scram-sha-256\n" + hba.read_text()
        )
        session.execute("SELECT pg_reload_conf()")


@contextmanager
def hot_standby(primary: Cluster) -> Iterator[Cluster]:
    """Start a read replica of `primary`."""
    account = Account.current()
    standby = Cluster(
        primary.bindir, primary.root.with_name("standby"), tcp=True, settings=SETTINGS
    )
    standby.root.mkdir(mode=0o700)
    account.adopt(standby.root)
    program = str(primary.bindir / "pg_basebackup")
    code, words = account.run(
        [program, "-D", str(standby.data), "-R", "-c", "fast", "-d", primary.dsn()]
    )
    assert code == 0, words
    standby.start()
    try:
        yield standby
    finally:
        standby.destroy()


def answers(dsn: str) -> bool:
    """Whether a server takes connections there."""
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Log:
    """What a server writes to its log from now on, about one client's sessions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    def since(self) -> list[str]:
        """The lines written since then, but for those about connections of the test itself."""
        time.sleep(0.05)
        with self._path.open("rb") as log:
            log.seek(self._start)
            return [line for line in log.read().decode(errors="replace").splitlines() if line]


def about(lines: list[str], *pids: int) -> list[str]:
    """Those lines of a log that are about one of these server processes."""
    pattern = re.compile("|".join(rf"\[{pid}\]" for pid in pids))
    return [line for line in lines if pids and pattern.search(line)]
