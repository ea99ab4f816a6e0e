"""`alembic upgrade head` with a `migration_lock()` in env.py, by several processes at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

import advlock

from .migrators import (
    END_THE_LOCK_S_SESSION,
    INDEX_IS_VALID,
    PATIENCE,
    WAITING,
    one,
    wait_for_the_lock,
    wait_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from examples.conftest import Example
    from servers import Server

    Admin = psycopg.Connection[Any]

UPGRADE = ("alembic", "upgrade", "head")
LOCK = "alembic:alembic_version"
FAILED = 255  # what alembic ends with when it says "FAILED: …"

_VERSION = "SELECT version_num FROM alembic_version"
# What the first revision does, without the time that it takes to start Alembic.
_TO_VERSION_1 = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
CREATE TABLE customer (id bigserial PRIMARY KEY);
"""


@pytest.fixture
def admin(url: str) -> Iterator[Admin]:
    """A bystander."""
    with psycopg.connect(url, autocommit=True) as session:
        yield session


@pytest.fixture
def rival(url: str) -> Iterator[Admin]:
    """Somebody in whose transaction something is that a migration has to wait for."""
    with psycopg.connect(url) as session:
        yield session


@pytest.fixture
def project(example: Callable[[str], Example]) -> Example:
    """A copy of the example."""
    return example("alembic_env")


@pytest.fixture(params=["direct", "transaction"])
def routed(
    request: pytest.FixtureRequest, project: Example, server: Server, url: str
) -> Iterator[Example]:
    """The same, also behind a PgBouncer in transaction mode."""
    if request.param == "direct":
        yield project
        return
    with bouncer(server, request.param) as pooler:
        behind(project, pooler.port, url)
        yield project


def behind(project: Example, port: int, url: str) -> None:
    """Send a project to the same database on another port of this host."""
    where = conninfo_to_dict(url)
    project.env["DATABASE_URL"] = f"postgresql://{where['user']}@127.0.0.1:{port}/{where['dbname']}"


def rewrite(project: Example, old: str, new: str) -> None:
    """Change the project's env.py."""
    path = project.folder / "migrations" / "env.py"
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))


def test_one_of_five_migrates(routed: Example, admin: Admin, rival: Admin) -> None:
    """The others wait meanwhile, also while an index is built concurrently, and then do nothing."""
    rival.execute("CREATE TABLE customer ()")
    processes = [routed.start(*UPGRADE) for _ in range(5)]
    wait_in(admin, "CREATE TABLE customer")
    wait_for_the_lock(routed, processes, LOCK, 4)
    rival.rollback()
    codes = [process.wait(PATIENCE) for process in processes]
    said = [routed.said(process) for process in processes]
    assert codes == [0] * 5, "\n".join(said)
    upgrades = sorted(text.count("Running upgrade") for text in said)
    assert upgrades == [0, 0, 0, 0, 3]
    assert one(admin, _VERSION) == "0003"
    assert one(admin, INDEX_IS_VALID)


def test_without_the_lock_they_collide(project: Example, admin: Admin, rival: Admin) -> None:
    """The control: both begin, and one of them fails."""
    rewrite(project, 'migration_lock(connection, wait="10m"), ', "")
    admin.execute(_TO_VERSION_1)
    rival.execute("LOCK TABLE customer IN SHARE MODE")
    processes = [project.start(*UPGRADE) for _ in range(2)]
    wait_in(admin, "ALTER TABLE customer", number=2)
    rival.rollback()
    assert sorted(process.wait(PATIENCE) for process in processes) == [0, 1]
    assert any("already exists" in project.said(process) for process in processes)


def test_another_one_goes_on_where_one_was_killed(
    routed: Example, admin: Admin, rival: Admin
) -> None:
    """`kill -9` frees the lock at once; what the dead one had begun is rolled back."""
    admin.execute(_TO_VERSION_1)
    rival.execute("LOCK TABLE customer IN SHARE MODE")
    first = routed.start(*UPGRADE)
    wait_in(admin, "ALTER TABLE customer")
    second = routed.start(*UPGRADE)
    wait_for_the_lock(routed, [second], LOCK, 1)
    first.send_signal(signal.SIGKILL)
    eventually(lambda: "0001 -> 0002" in routed.said(second), within=PATIENCE)
    rival.rollback()
    assert second.wait(PATIENCE) == 0
    assert routed.said(second).count("Running upgrade") == 2
    assert one(admin, INDEX_IS_VALID)


def test_who_has_lost_the_lock_stops(project: Example, admin: Admin, rival: Admin) -> None:
    """Its statement is cancelled, nothing of it stays, and it says so and fails."""
    admin.execute(_TO_VERSION_1)
    rival.execute("LOCK TABLE customer IN SHARE MODE")
    process = project.start(*UPGRADE)
    wait_in(admin, "ALTER TABLE customer")
    assert one(admin, END_THE_LOCK_S_SESSION)
    assert process.wait(PATIENCE) == FAILED
    assert one(admin, WAITING, "%ALTER TABLE%") == 0  # though the rival is still there
    assert one(admin, _VERSION) == "0001"
    assert f"FAILED: the lock '{LOCK}' was lost: " in project.said(process)


def test_who_has_waited_long_enough_says_who_holds_it(project: Example, url: str) -> None:
    """It fails with one line, not with a traceback."""
    rewrite(project, '"10m"', '"2s"')  # after a shorter wait there is less time to say who
    with advlock.Locks(url) as locks, locks.hold(LOCK):
        process = project.start(*UPGRADE)
        assert process.wait(PATIENCE) == FAILED
    assert f"FAILED: '{LOCK}' was not free within 2 s: held by " in project.said(process)
    assert "Traceback" not in project.said(process)
