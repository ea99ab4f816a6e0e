"""`advlock run --wait 10m migrate -- alembic upgrade head`, by three replicas at once."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from .conftest import Example

MIGRATE = ("advlock", "run", "--wait", "10m", "migrate", "--", "alembic", "upgrade", "head")
PATIENCE = 30.0  # seconds, on a busy machine

_LOCK = "SELECT pg_advisory_lock(hashtextextended('migrate', 0))"

_WAITING_FOR_THE_LOCK = """
SELECT count(DISTINCT application_name) FROM pg_stat_activity
WHERE application_name LIKE 'advlock:migrate %~%' AND datname = current_database()
"""
_WAITING_IN_A_MIGRATION = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ILIKE %s AND datname = current_database()
"""
# What the first revisions do, without the time that it takes to start Alembic.
_TO_VERSION_1 = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0001');
CREATE TABLE customer (id bigserial PRIMARY KEY);
"""
_TO_VERSION_2 = f"""
{_TO_VERSION_1}
UPDATE alembic_version SET version_num = '0002';
ALTER TABLE customer ADD email text;
"""
_BUILD = "CREATE INDEX CONCURRENTLY customer_email ON customer (email)"
_END_BUILDERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE query LIKE 'CREATE INDEX CONC%' AND datname = current_database()
"""
_INDEX_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('customer_email')"


@pytest.fixture
def migrations(example: Callable[[str], Example]) -> Example:
    """A copy of the project."""
    return example("migrations")


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A bystander."""
    with psycopg.connect(url, autocommit=True) as session:
        yield session


@pytest.fixture
def rival(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody in whose transaction something is that a migration has to wait for."""
    with psycopg.connect(url) as session:
        yield session


def count(admin: psycopg.Connection[Any], statement: str, *values: object) -> int:
    """The first column of the first row."""
    row = admin.execute(statement, values or None).fetchone()
    assert row
    return int(row[0])


def waits(admin: psycopg.Connection[Any], *, statement: str) -> None:
    """Wait until a migration waits in such a statement."""
    pattern = f"%{statement}%"
    eventually(
        lambda: count(admin, _WAITING_IN_A_MIGRATION, pattern) == 1,
        within=PATIENCE,
        message=f"a migration that waits in {statement}",
    )


def others_wait(admin: psycopg.Connection[Any], number: int) -> None:
    """Wait until so many replicas wait for the lock."""
    eventually(
        lambda: count(admin, _WAITING_FOR_THE_LOCK) == number,
        within=PATIENCE,
        message=f"{number} who wait for the lock",
    )


def kill_with_its_command(process: subprocess.Popen[str]) -> None:
    """Kill `advlock run` and what it runs, as when a container ends."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    assert len(children) == 1
    for pid in (process.pid, *children):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def check_done(admin: psycopg.Connection[Any]) -> None:
    """The database is at the last version, with all that belongs to it."""
    assert count(admin, "SELECT version_num FROM alembic_version") == 3
    assert count(admin, _INDEX_IS_VALID) == 1


def test_one_of_three_migrates(
    migrations: Example, admin: psycopg.Connection[Any], rival: psycopg.Connection[Any]
) -> None:
    """The others wait meanwhile, also while an index is built concurrently, and then do nothing."""
    rival.execute("CREATE TABLE customer ()")  # whoever makes it, too, has to wait for our COMMIT
    replicas = [migrations.start(*MIGRATE) for _ in range(3)]
    waits(admin, statement="CREATE TABLE customer")
    others_wait(admin, 2)
    rival.rollback()
    assert [replica.wait(PATIENCE) for replica in replicas] == [0, 0, 0]
    upgrades = sorted(migrations.said(replica).count("Running upgrade") for replica in replicas)
    assert upgrades == [0, 0, 3]
    check_done(admin)


def test_the_next_one_continues_where_one_was_killed(
    migrations: Example, admin: psycopg.Connection[Any], rival: psycopg.Connection[Any]
) -> None:
    """Even though the dead one's session goes on for a while: what it began is rolled back."""
    admin.execute(_TO_VERSION_1)
    rival.execute("LOCK TABLE customer IN SHARE MODE")
    first = migrations.start(*MIGRATE)
    waits(admin, statement="ALTER TABLE customer")
    second = migrations.start(*MIGRATE)
    others_wait(admin, 1)
    kill_with_its_command(first)
    eventually(
        lambda: count(admin, _WAITING_IN_A_MIGRATION, "%ALTER TABLE customer%") == 2,
        within=PATIENCE,
        message="the second one behind the session of the first",
    )
    rival.rollback()
    assert second.wait(PATIENCE) == 0
    assert migrations.said(second).count("Running upgrade") == 2
    check_done(admin)


def test_an_index_that_somebody_died_while_building_is_built_anew(
    migrations: Example, admin: psycopg.Connection[Any], rival: psycopg.Connection[Any]
) -> None:
    """What `CREATE INDEX CONCURRENTLY` leaves behind is invalid, and in the way."""
    admin.execute(_TO_VERSION_2)
    rival.execute("LOCK TABLE customer IN ROW EXCLUSIVE MODE")
    first = migrations.start(*MIGRATE)
    waits(admin, statement="CREATE INDEX CONCURRENTLY")
    kill_with_its_command(first)
    admin.execute(_END_BUILDERS)
    rival.rollback()
    assert count(admin, _INDEX_IS_VALID) == 0
    assert migrations.start(*MIGRATE).wait(PATIENCE) == 0
    check_done(admin)


def test_behind_a_plain_waiter_the_index_is_never_built(
    url: str, admin: psycopg.Connection[Any]
) -> None:
    """The control: who waits in `SELECT pg_advisory_lock(…)` is what the index waits for."""
    admin.execute(_TO_VERSION_2)
    with (
        psycopg.connect(url, autocommit=True) as holder,
        psycopg.connect(url, autocommit=True) as waiter,
        psycopg.connect(url, autocommit=True) as builder,
        ThreadPoolExecutor() as threads,
    ):
        holder.execute(_LOCK)
        pending = threads.submit(waiter.execute, _LOCK)
        waits(admin, statement="pg_advisory_lock")
        building = threads.submit(builder.execute, _BUILD)
        pids = (waiter.info.backend_pid, builder.info.backend_pid)
        blocked = "SELECT %s = ANY(pg_blocking_pids(%s))"
        eventually(lambda: count(admin, blocked, *pids), within=PATIENCE)
        assert not building.done()
        waiter.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            pending.result()
        building.result()
    assert count(admin, _INDEX_IS_VALID) == 1
