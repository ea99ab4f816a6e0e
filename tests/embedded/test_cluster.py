"""One data directory and its server: awkward paths, missing parts, unreadable programs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg
import pytest
from local_users import born, processes_at
from waiting import eventually

from advlock.embedded._account import Account, signals_deferred
from advlock.embedded._binaries import private_copy, server_version, usable_bindir, wheel_bindir
from advlock.embedded._cluster import Cluster
from advlock.errors import ConfigError, DatabaseUnavailable


@pytest.fixture
def bindir(home: Path) -> Path:
    """Programs that the server's account can run."""
    return usable_bindir(Account.current(), home)[0]


@pytest.mark.parametrize("name", ["x" * 120, "two words, 'quoted'"])
def test_awkward_paths_work(home: Path, bindir: Path, name: str) -> None:
    """Too long or too odd a path for a socket gets a short one, which goes with the cluster."""
    cluster = Cluster(bindir, home / name)
    try:
        cluster.init()
        cluster.start()
        assert born(cluster.dsn())
        assert cluster.socket_dir != cluster.root
    finally:
        cluster.destroy()
    assert not cluster.root.exists()
    assert not cluster.socket_dir.exists()


def test_a_short_socket_directory_of_somebody_else_is_refused(home: Path, bindir: Path) -> None:
    """A directory under /tmp that others could write to is no place for our socket."""
    cluster = Cluster(bindir, home / ("x" * 120))
    cluster.init()
    cluster.socket_dir.mkdir()
    cluster.socket_dir.chmod(0o777)
    try:
        with pytest.raises(ConfigError, match="belongs to somebody else"):
            cluster.start()
    finally:
        cluster.destroy()


def test_start_and_stop_are_idempotent(home: Path, bindir: Path) -> None:
    """Starting a running server changes nothing, nor does stopping a stopped one."""
    cluster = Cluster(bindir, home / "pg", tcp=True)
    cluster.init()
    cluster.start()
    started = born(cluster.dsn(host="127.0.0.1"))
    cluster.init()
    cluster.start()
    assert born(cluster.dsn()) == started
    cluster.stop()
    cluster.stop()
    assert not cluster.running
    cluster.destroy()


def test_a_database_name_is_quoted(home: Path, bindir: Path) -> None:
    """A database whose name has quotes, spaces and backslashes is reached by its DSN."""
    cluster = Cluster(bindir, home / "pg")
    cluster.init()
    cluster.start()
    try:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute('CREATE DATABASE "it\'s \\ odd"')
        with psycopg.connect(cluster.dsn("it's \\ odd")) as connection:
            assert connection.info.dbname == "it's \\ odd"
    finally:
        cluster.destroy()


def test_a_wrong_setting_is_reported_with_the_servers_words(home: Path, bindir: Path) -> None:
    """A server that refuses to start says why in the error, at once."""
    cluster = Cluster(bindir, home / "pg", settings={"max_connections": "many"})
    cluster.init()
    with pytest.raises(DatabaseUnavailable, match='invalid value for parameter "max_connections"'):
        cluster.start()
    assert not cluster.running
    cluster.destroy()


def test_destroy_clears_the_memory_of_a_killed_server(home: Path, bindir: Path) -> None:
    """A killed server leaves a shared memory segment; destroying the cluster removes it."""
    cluster = Cluster(bindir, home / "pg")
    cluster.init()
    cluster.start()
    segment = (cluster.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    (postmaster,) = processes_at(cluster.root)
    os.kill(postmaster, 9)
    eventually(lambda: not cluster.running)
    assert segment in _segments()
    cluster.destroy()
    assert segment not in _segments()


def _segments() -> set[str]:
    table = Path("/proc/sysvipc/shm").read_text(encoding="ascii")
    return {line.split()[1] for line in table.splitlines()}


def test_an_interrupt_waits_for_the_end_of_a_step() -> None:
    """Ctrl-C during a step that must not be cut in two is raised right behind it, and only once."""
    handler, steps = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), signals_deferred():  # noqa: PT012 - what follows counts
        signal.raise_signal(signal.SIGINT)
        steps.append("after the signal")
    assert steps == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_missing_programs_are_reported(home: Path) -> None:
    """Without its programs, the error says how to get them."""
    cluster = Cluster(home / "nowhere", home / "pg")
    with pytest.raises(ConfigError, match=r"pip install 'advlock\[embedded\]'"):
        cluster.init()


@pytest.mark.parametrize("name", ["a$b", 'a"b', "a`b"])
def test_paths_that_a_shell_would_read_are_refused(home: Path, name: str) -> None:
    """pg_ctl hands the path to a shell unescaped, so such a path never gets that far."""
    with pytest.raises(ConfigError, match="choose a path"):
        Cluster(home, home / name)


def test_programs_out_of_reach_are_copied_once(home: Path) -> None:
    """The copy runs under the server's account, and only a complete one counts."""
    (home / "programs.new-cut-short").mkdir()
    bindir = private_copy(wheel_bindir(), home)
    account = Account.current()
    assert server_version(bindir, account) == server_version(wheel_bindir(), account)
    before = bindir.stat().st_mtime_ns
    assert private_copy(wheel_bindir(), home) == bindir
    assert bindir.stat().st_mtime_ns == before
    assert not list(home.glob("programs.new-*"))
