"""A private cluster with a tiny lock table, from the same binaries as the server under test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .helpers import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

OPTIONS = {
    "listen_addresses": "''",
    "max_connections": "10",
    "max_locks_per_transaction": "10",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "fsync": "off",
}


@contextmanager
def small_cluster(superuser: Connection[Any]) -> Iterator[str]:
    """Start a cluster with `OPTIONS` beside the given server; yield its DSN, then remove it."""
    binaries = Path(one(superuser, "SELECT setting FROM pg_config WHERE name = 'BINDIR'"))
    if not (binaries / "initdb").exists():
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    owner = Path(one(superuser, "SHOW data_directory")).stat().st_uid
    home = Path(tempfile.mkdtemp(prefix="belief"))
    os.chown(home, owner, -1)
    options = " ".join(f"-c {name}={setting}" for name, setting in OPTIONS.items())
    data, log = str(home / "data"), str(home / "log")
    try:
        _run(owner, binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        control: list[str | Path] = [binaries / "pg_ctl", "-D", data, "-w"]
        try:
            _run(owner, *control, "-l", log, "-o", f"-k {home} {options}", "start")
            yield f"host={home} user=postgres dbname=postgres"
        finally:
            _run(owner, *control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home)


def _run(owner: int, *command: str | Path) -> None:
    """Run a program of the server as the owner of the data: as root it would refuse to start."""
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": owner, "group": pwd.getpwuid(owner).pw_gid, "extra_groups": []}
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={"LC_ALL": "C", "PATH": os.defpath},
        **identity,
    )
