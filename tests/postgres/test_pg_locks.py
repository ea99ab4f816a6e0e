"""pg_locks as the inspector's source: what its columns mean, and who may read what."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .helpers import answers, one, start_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

BIGINTS = [
    0,
    1,
    -1,
    -42,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32 - 1,
    2**32,
    -(2**32),
    2**63 - 1,
    -(2**63),
    (1 << 32) | 2,
]
PAIRS = [(0, 0), (1, 2), (-1, -1), (-7, 3), (2**31 - 1, -(2**31))]

ROWS = """
    SELECT classid::bigint, objid::bigint, objsubid, mode, granted FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid()"""

# The way back: the row of a bigint key, looked up by the two unsigned halves of the key.
LOOKUP = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = 1
      AND classid = ((%(key)s::bigint >> 32) & 4294967295)::text::oid
      AND objid = (%(key)s::bigint & 4294967295)::text::oid"""


@pytest.mark.parametrize("bigint", BIGINTS)
def test_a_bigint_key_is_two_unsigned_halves(connect: Connect, bigint: int) -> None:
    """For a bigint key classid and objid are its unsigned halves, and objsubid is 1."""
    session = connect()
    session.execute("SELECT pg_advisory_lock(%s::bigint)", (bigint,))
    unsigned = bigint % 2**64
    row = (unsigned >> 32, unsigned % 2**32, 1, "ExclusiveLock", True)
    assert session.execute(ROWS).fetchall() == [row]
    assert session.execute(LOOKUP, {"key": bigint}).fetchone() == (1,)
    decoded = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks"
    mine = "WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    assert one(session, f"{decoded} {mine}") == bigint


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_two_unsigned_ints(connect: Connect, pair: tuple[int, int]) -> None:
    """For two int keys classid and objid are each of them, unsigned, and objsubid is 2."""
    session = connect()
    session.execute("SELECT pg_advisory_lock_shared(%s::int, %s::int)", pair)
    row = (pair[0] % 2**32, pair[1] % 2**32, 2, "ShareLock", True)
    assert session.execute(ROWS).fetchall() == [row]


def test_a_pair_and_the_bigint_with_its_halves_are_two_locks(connect: Connect) -> None:
    """(1, 2) and (1 << 32) | 2 differ in objsubid alone, and do not exclude each other."""
    session, other = connect(), connect()
    high, low = 1 + secrets.randbelow(2**30), secrets.randbelow(2**31)
    assert one(session, f"SELECT pg_try_advisory_lock({high}, {low})") is True
    assert one(other, f"SELECT pg_try_advisory_lock({(high << 32) | low})") is True
    assert one(other, f"SELECT pg_try_advisory_lock({high}, {low})") is False


def test_the_same_key_in_another_database_is_another_lock(connect: Connect, key: int) -> None:
    """Advisory locks belong to a database, while pg_locks shows those of all: filter on it."""
    here, there = connect(), connect(dbname="postgres")
    for session in (here, there):
        assert one(session, f"SELECT pg_try_advisory_lock({key})") is True
    seen = here.execute(
        "SELECT datname FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE locktype = 'advisory' AND objsubid = 1"
        " AND (classid::bigint << 32) | objid::bigint = %s",
        (key,),
    ).fetchall()
    assert sorted(seen) == sorted([(here.info.dbname,), ("postgres",)])


def test_waiters_have_a_waitstart_and_know_their_blockers(connect: Connect, key: int) -> None:
    """Only waiters have a waitstart; pg_blocking_pids names the holder and those before."""
    holder, first, second = connect(), connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    start_waiting(holder, first, key)
    start_waiting(holder, second, key)
    pids = [session.info.backend_pid for session in (holder, first, second)]
    since = "SELECT waitstart IS NOT NULL FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
    # "This can be null for a very short period of time after the wait started" (docs, pg_locks).
    for pid in pids[1:]:
        eventually(partial(one, holder, since, pid), message="a waitstart")
    assert one(holder, since, pids[0]) is False
    assert one(holder, "SELECT pg_blocking_pids(%s)", pids[1]) == pids[:1]
    assert sorted(one(holder, "SELECT pg_blocking_pids(%s)", pids[2])) == sorted(pids[:2])
    holder.execute("SELECT pg_advisory_unlock_all()")
    answers(first)


@pytest.fixture
def nobody(connect: Connect) -> Iterator[str]:
    """Create a role without any privilege, and drop it afterwards."""
    name = f"belief_{secrets.randbelow(2**40)}"
    session = connect()
    session.execute(f"CREATE ROLE {name}")
    yield name
    session.execute(f"DROP ROLE {name}")


def test_other_roles_read_the_name_but_not_the_query(
    connect: Connect, key: int, nobody: str
) -> None:
    """An unprivileged role sees all of pg_locks and application_name, not query and address."""
    holder, reader = connect(application_name="advlock belief"), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    sql = """
        SELECT application_name, query LIKE '%%pg_advisory_lock%%', client_port IS NOT NULL,
               backend_start IS NOT NULL
        FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted AND pid = %s"""
    pid = holder.info.backend_pid
    assert reader.execute(sql, (pid,)).fetchone() == ("advlock belief", True, True, True)
    reader.execute(f"SET ROLE {nobody}")
    assert reader.execute(sql, (pid,)).fetchone() == ("advlock belief", False, False, False)
    assert one(reader, "SELECT pg_blocking_pids(%s)", pid) == []


def test_an_application_name_is_cut_at_63_bytes(connect: Connect) -> None:
    """A longer application_name is truncated silently, not refused."""
    assert one(connect(application_name="x" * 100), "SHOW application_name") == "x" * 63
