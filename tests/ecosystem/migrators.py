"""Several processes that migrate at once, whatever they migrate with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from waiting import eventually

if TYPE_CHECKING:
    import subprocess

    import psycopg
    from examples.conftest import Example

    Admin = psycopg.Connection[Any]

PATIENCE = 40.0  # seconds, on a busy machine

WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query ILIKE %s AND datname = current_database()
"""
# Whoever migrates holds it alone; who only finds that there is nothing to do may share it.
END_THE_LOCK_S_SESSION = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# What Django and Alembic say.
MIGRATES = ("Applying ", "Running upgrade ")
INDEX_IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('customer_email')"


def one(admin: Admin, statement: str, *values: object) -> Any:
    """The first column of the first row."""
    row = admin.execute(statement, values or None).fetchone()
    return row and row[0]


def wait_in(admin: Admin, statement: str, *, number: int = 1) -> None:
    """Wait until so many migrations wait in such a statement."""
    eventually(
        lambda: one(admin, WAITING, f"%{statement}%") == number,
        within=PATIENCE,
        message=f"{number} that wait in {statement}",
    )


def wait_for_the_lock(
    project: Example, processes: list[subprocess.Popen[str]], lock: str, number: int
) -> None:
    """Wait until so many have said that they do, and migrate nothing.

    Whoever migrates may have waited, too: for those who only looked what there is to do.
    """

    def waits(process: subprocess.Popen[str]) -> bool:
        said = project.said(process)
        return f"waiting for '{lock}', held by " in said and not any(w in said for w in MIGRATES)

    eventually(
        lambda: sum(map(waits, processes)) == number,
        within=PATIENCE,
        message=f"{number} who wait for the lock",
    )
