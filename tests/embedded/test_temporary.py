"""Throw-away servers: afterwards every process and every file is gone, however it ended."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest
from local_users import FORKING, TEMPORARY, born, processes_at
from waiting import eventually

from advlock import embedded

if TYPE_CHECKING:
    from pathlib import Path

    from local_users import NewUser

# What can be seen of a temporary server on its way up, in the order in which it appears.
STAGES = [
    "advlock-temp-*",
    "advlock-temp-*/pg/data.new-*/base",
    "advlock-temp-*/pg/data/postmaster.pid",
    "advlock-temp-*/pg/.s.PGSQL.5432",
]


@pytest.fixture
def tmpdir_is_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which this process makes its temporary servers."""
    monkeypatch.setattr("tempfile.tempdir", str(home))
    return home


def expect_nothing(home: Path) -> None:
    """Wait until no process and no file is left in `home`."""
    eventually(lambda: not processes_at(home), within=30, message="no server")
    assert list(home.iterdir()) == []


def test_nothing_is_left_of_it(tmpdir_is_home: Path) -> None:
    """Settings arrive; after the block everything is gone."""
    with (
        embedded.temporary(max_connections="17", search_path='"a b", public') as server,
        psycopg.connect(server.dsn) as connection,
    ):
        assert connection.execute("SHOW max_connections").fetchone() == ("17",)
        assert connection.execute("SHOW search_path").fetchone() == ('"a b", public',)
    expect_nothing(tmpdir_is_home)


def test_two_at_once_are_two_servers(tmpdir_is_home: Path) -> None:
    """Temporary servers share nothing, and starting one does not clear the other away."""
    with embedded.temporary() as one:
        started = born(one.dsn)
        with embedded.temporary() as other:
            assert born(other.dsn) != started
        assert born(one.dsn) == started
    expect_nothing(tmpdir_is_home)


def test_a_forked_child_does_not_remove_it(home: Path, user: NewUser) -> None:
    """A fork that ends inside the block, as any program ends, leaves the server to its parent."""
    parent = user(FORKING.replace("local()", "temporary()"), extra={"TMPDIR": str(home)})
    assert born(parent.joined())
    parent.leave()
    expect_nothing(home)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_start_leaves_nothing(home: Path, user: NewUser, stage: str) -> None:
    """Ctrl-C at any stage of the start ends the program, after everything is cleared away."""
    one = user(TEMPORARY, extra={"TMPDIR": str(home)})
    eventually(lambda: list(home.glob(stage)), within=30, message=stage)
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.process.wait(timeout=20) == -signal.SIGINT
    expect_nothing(home)


def test_a_second_interrupt_does_not_stop_the_clean_up(home: Path, user: NewUser) -> None:
    """An impatient user who goes on pressing Ctrl-C still gets a clean machine."""
    one = user(TEMPORARY, extra={"TMPDIR": str(home)})
    one.joined()
    os.killpg(one.process.pid, signal.SIGINT)
    eventually(lambda: not list(home.glob("*/pg/data/postmaster.pid")), within=30)
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.process.wait(timeout=20) != 0
    expect_nothing(home)


def test_what_a_killed_process_left_is_removed_by_the_next(home: Path, user: NewUser) -> None:
    """`kill -9` leaves a server behind; the next temporary server of the same user removes it."""
    killed = user(TEMPORARY, extra={"TMPDIR": str(home)})
    dsn = killed.joined()
    killed.kill()
    assert born(dsn)
    following = user(TEMPORARY, extra={"TMPDIR": str(home)})
    assert following.joined() != dsn
    assert len(list(home.iterdir())) == 1
    following.leave()
    expect_nothing(home)
