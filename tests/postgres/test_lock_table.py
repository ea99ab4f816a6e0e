"""The lock table has room for so many locks, and one session can take it all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

from .helpers import one
from .private_cluster import private_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

TAKE = "SELECT count(pg_advisory_lock({first}::bigint + i)) FROM generate_series(1, {count}) AS i"
SMALL = {"max_connections": "10", "max_locks_per_transaction": "10", "max_wal_senders": "0"}
MINE = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"


@pytest.fixture(scope="module")
def small(dsn: str) -> Iterator[str]:
    """Run a cluster whose lock table a test may fill without disturbing anybody."""
    with (
        psycopg.connect(dsn, autocommit=True) as session,
        private_cluster(session, **SMALL) as cluster,
    ):
        yield cluster.dsn


@pytest.fixture
def full(small: str) -> Iterator[tuple[Connection[Any], Connection[Any]]]:
    """Fill the lock table from one session; give that one and another, opened before."""
    with (
        psycopg.connect(small, autocommit=True) as glutton,
        psycopg.connect(small, autocommit=True) as other,
    ):
        other.execute(MINE, (0,))
        with pytest.raises(psycopg.errors.OutOfMemory) as failure:
            glutton.execute(TAKE.format(first=0, count=100_000))
        assert failure.value.sqlstate == "53200"
        yield glutton, other
        end_session(other, glutton.info.backend_pid)


def end_session(other: Connection[Any], pid: int) -> None:
    """End a session, or find it ended, and return once its locks are gone."""
    other.execute("SELECT pg_terminate_backend(%s)", (pid,))
    eventually(lambda: one(other, MINE, pid) == 0, message="its locks are gone")


Full = tuple["Connection[Any]", "Connection[Any]"]


def test_the_failed_statement_keeps_the_locks_it_took(full: Full) -> None:
    """53200 ends the statement, not the locks it took before: an open session counts them."""
    glutton, other = full
    held = one(other, MINE, glutton.info.backend_pid)
    formula = 10 * 10
    assert formula < held < 100_000
    assert one(other, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == held


def test_a_full_table_fails_everybody_and_says_what_to_raise(full: Full) -> None:
    """Another session's new lock fails with 53200 and a hint at max_locks_per_transaction."""
    _, other = full
    with pytest.raises(psycopg.errors.OutOfMemory) as failure:
        other.execute("SELECT pg_try_advisory_lock(-1)")
    assert failure.value.sqlstate == "53200"
    assert "max_locks_per_transaction" in str(failure.value.diag.message_hint)


def test_a_full_table_refuses_new_connections(full: Full, small: str) -> None:
    """Not even a new connection gets in while the lock table is full."""
    assert full
    with pytest.raises(psycopg.OperationalError, match="out of shared memory"):
        psycopg.connect(small)


def test_unlock_all_repairs_everything(full: Full, small: str) -> None:
    """The session that filled the table stays usable, and its unlock_all helps everybody."""
    glutton, other = full
    glutton.execute("SELECT pg_advisory_unlock_all()")
    assert one(other, "SELECT pg_try_advisory_lock(-1)") is True
    assert one(other, "SELECT pg_advisory_unlock(-1)") is True
    psycopg.connect(small).close()


def test_the_end_of_the_session_repairs_everything(full: Full, small: str) -> None:
    """The end of the session that filled the table frees it as well."""
    glutton, other = full
    end_session(other, glutton.info.backend_pid)
    psycopg.connect(small).close()


def test_many_locks_are_taken_and_freed_quickly(connect: Connect, key: int) -> None:
    """A thousand locks in one statement take well under a second, and so does freeing them."""
    session = connect()
    times = []
    for _ in range(3):  # what else the machine does may slow one of them down
        start = time.monotonic()
        session.execute(TAKE.format(first=key, count=1000))
        assert one(session, MINE, session.info.backend_pid) == 1000
        session.execute("SELECT pg_advisory_unlock_all()")
        times.append(time.monotonic() - start)
        assert one(session, MINE, session.info.backend_pid) == 0
    assert min(times) < 1
