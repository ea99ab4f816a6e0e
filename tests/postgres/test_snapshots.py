"""What an idle transaction that only took a lock holds back: nothing, if it ended in simple SQL."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .helpers import entry, hang_up, is_gone, one
from .vacuum import ROWS, dead_rows_kept, leave_dead_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

XACT_LOCK = "SELECT pg_advisory_xact_lock({key})"


def footprint(witness: Connection[Any], session: Connection[Any]) -> tuple[bool, bool]:
    """Return whether the session has a transaction id, and whether it has a snapshot."""
    sql = "SELECT array[backend_xid IS NOT NULL, backend_xmin IS NOT NULL]"
    xid, xmin = one(
        witness, f"{sql} FROM pg_stat_activity WHERE pid = %s", session.info.backend_pid
    )
    return xid, xmin


def test_simple_protocol_leaves_no_snapshot(connect: Connect, key: int, table: str) -> None:
    """An idle READ COMMITTED transaction that locked by simple SQL does not stop VACUUM."""
    holder, other = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(XACT_LOCK.format(key=key))
    assert footprint(other, holder) == (False, False)
    leave_dead_rows(other, table)
    eventually(lambda: dead_rows_kept(other, table) == 0, message="VACUUM removed all rows")
    assert entry(other, holder.info.backend_pid, key) is True


def test_extended_protocol_keeps_a_snapshot_until_a_simple_statement(
    connect: Connect, key: int, table: str
) -> None:
    """After a statement with parameters VACUUM is held back, until a simple statement follows."""
    holder, other = connect(), connect()
    holder.execute("BEGIN")
    holder.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
    assert footprint(other, holder) == (False, True)
    leave_dead_rows(other, table)
    assert dead_rows_kept(other, table) == ROWS
    holder.execute("SELECT 1")
    assert footprint(other, holder) == (False, False)
    eventually(lambda: dead_rows_kept(other, table) == 0, message="VACUUM removed all rows")


def test_a_prepared_statement_keeps_a_snapshot_too(connect: Connect, key: int) -> None:
    """A prepared statement without parameters is extended protocol as well."""
    holder, other = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(XACT_LOCK.format(key=key), prepare=True)
    assert footprint(other, holder) == (False, True)


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_higher_isolation_keeps_its_snapshot(connect: Connect, key: int, isolation: str) -> None:
    """Above READ COMMITTED the first statement's snapshot lasts for the whole transaction."""
    holder, other = connect(), connect()
    holder.execute(f"BEGIN ISOLATION LEVEL {isolation}")
    holder.execute(XACT_LOCK.format(key=key))
    assert footprint(other, holder) == (False, True)


def test_a_transaction_id_in_the_holding_transaction_stops_vacuum(
    connect: Connect, key: int, table: str
) -> None:
    """pg_current_xact_id() in the idle holding transaction holds VACUUM back: no token there."""
    holder, other = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(f"{XACT_LOCK.format(key=key)}, pg_current_xact_id()")
    assert footprint(other, holder)[0] is True
    leave_dead_rows(other, table)
    assert dead_rows_kept(other, table) == ROWS


def test_every_32nd_nextval_assigns_a_transaction_id(connect: Connect, table: str) -> None:
    """A sequence logs 32 values ahead, and only the call that logs assigns a transaction id.

    The first call after a checkpoint logs, too, and checkpoints come when they want.
    """
    session, other = connect(), connect()
    session.execute(f"CREATE SEQUENCE {table}_seq OWNED BY {table}.id")

    def gaps() -> set[int]:
        assigned = []
        for _ in range(70):
            session.execute("BEGIN")
            session.execute(f"SELECT nextval('{table}_seq')")
            assigned.append(footprint(other, session)[0])
            session.execute("COMMIT")
        calls = [number for number, xid in enumerate(assigned) if xid]
        return {later - earlier for earlier, later in pairwise(calls)}

    def no_checkpoint_came() -> bool:
        found = gaps()
        assert found
        assert max(found) <= 33
        return min(found) in {32, 33}

    eventually(no_checkpoint_came, within=30.0)


def test_session_locks_behave_inside_an_open_transaction(connect: Connect, key: int) -> None:
    """In a transaction session-level locks exclude key by key, unlock, and outlive ROLLBACK."""
    one_side, other_side = connect(), connect()
    one_side.execute("BEGIN")
    other_side.execute("BEGIN")
    assert one(one_side, f"SELECT pg_try_advisory_lock({key})") is True
    assert one(other_side, f"SELECT pg_try_advisory_lock({key})") is False
    assert one(other_side, f"SELECT pg_try_advisory_lock({key + 1})") is True
    assert one(one_side, f"SELECT pg_advisory_unlock({key})") is True
    assert one(other_side, f"SELECT pg_try_advisory_lock({key})") is True
    other_side.execute("ROLLBACK")
    assert one(one_side, f"SELECT pg_try_advisory_lock({key})") is False


def test_an_unlock_is_not_undone_by_rollback(connect: Connect, key: int) -> None:
    """A session-level unlock inside a transaction that rolls back stays an unlock."""
    holder, other = connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    holder.execute("BEGIN")
    assert one(holder, f"SELECT pg_advisory_unlock({key})") is True
    holder.execute("ROLLBACK")
    assert one(other, f"SELECT pg_try_advisory_lock({key})") is True


def test_a_dead_client_in_a_transaction_frees_both_kinds(connect: Connect, key: int) -> None:
    """A client that vanishes inside a transaction frees session and transaction locks at once."""
    holder, other = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(f"{XACT_LOCK.format(key=key)}, pg_advisory_lock({key + 1})")
    hang_up(holder)
    for freed in (key, key + 1):
        take = partial(one, other, f"SELECT pg_try_advisory_lock({freed})")
        eventually(take, message="the lock is free")


def test_a_transaction_can_protect_itself_from_the_idle_timeout(connect: Connect, key: int) -> None:
    """set_config(…, '0', true) beside the lock outlives an idle-transaction timeout that kills."""
    protected, naked, other = connect(), connect(), connect()
    for session in (protected, naked):
        session.execute("SET idle_in_transaction_session_timeout = '100ms'")
    off = "SELECT set_config('idle_in_transaction_session_timeout', '0', true)"
    # In one message with BEGIN: between two of them, the transaction would be idle already.
    protected.execute(f"BEGIN; {off}, pg_advisory_xact_lock({key})")
    naked.execute(f"BEGIN; {XACT_LOCK.format(key=key + 1)}")
    eventually(lambda: is_gone(other, naked.info.backend_pid), message="the naked one is killed")
    assert entry(other, protected.info.backend_pid, key) is True
    protected.execute("COMMIT")
    assert one(protected, "SHOW idle_in_transaction_session_timeout") == "100ms"
