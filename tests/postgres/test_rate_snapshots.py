"""Why the lock of a rate limit is a statement of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .helpers import one

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"


def pipelined(session: Connection[Any], *statements: str) -> list[Any]:
    """Send statements in one pipeline without BEGIN: one implicit transaction."""
    with session.pipeline():
        cursors = [session.execute(statement.encode()) for statement in statements]
    rows = [cursor.fetchone() for cursor in cursors]
    return [row[0] for row in rows if row]


@pytest.mark.parametrize("apart", [True, False])
def test_the_next_statement_of_a_pipeline_sees_what_was_committed_meanwhile(
    connect: Connect, key: int, table: str, apart: bool
) -> None:
    """Its snapshot is taken after the lock was granted; that of a statement that waits, before."""
    first, second, witness = connect(), connect(), connect()
    first.execute("BEGIN")
    first.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
    look = f"(SELECT count(*) FROM {table})"
    lock = f"pg_advisory_xact_lock({key})"
    texts = [f"SELECT {lock}", f"SELECT {look}"] if apart else [f"SELECT {look}, {lock}"]
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(pipelined(second, *texts)))
    thread.start()
    eventually(lambda: one(witness, WAITS, second.info.backend_pid))
    first.execute(f"INSERT INTO {table} VALUES (1)")
    first.execute("COMMIT")
    thread.join(20)
    assert int(seen[-1]) == (1 if apart else 0)
