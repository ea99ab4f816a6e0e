"""Waiting on the server: a plain wait costs others dear, a sliced one does not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from waiting import eventually

from .helpers import (
    answered,
    answers,
    entry,
    one,
    send,
    sqlstate,
    start_waiting,
    waits,
)
from .sliced import PARAMETERS, SLICED_WAIT, send_sliced_wait, sliced_verdict, start_sliced_wait
from .vacuum import ROWS, dead_rows_kept, leave_dead_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]


class HasLog(Protocol):
    """What the test of the log asks of the fixture `server`."""

    log_path: Path | None


def test_sliced_wait_is_granted_in_one_round_trip(connect: Connect, key: int) -> None:
    """COMMIT works in a DO that opens a pipeline, and its verdict returns with the same sync."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_sliced_wait(holder, waiter, key)
    holder.execute("SELECT pg_advisory_unlock(%s)", (key,))
    assert sliced_verdict(waiter) == "granted"
    assert entry(holder, waiter.info.backend_pid, key) is True


def test_sliced_wait_ends_by_itself_without_the_lock(connect: Connect, key: int) -> None:
    """A sliced wait that runs out of time answers without an error and holds nothing."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    send_sliced_wait(waiter, key, slice_ms=20, wait="50ms")
    assert sliced_verdict(waiter) == "timed out"
    assert entry(holder, waiter.info.backend_pid, key) is None
    assert one(waiter, "SELECT 1") == 1


def test_sliced_wait_fails_in_a_multi_statement_simple_query(connect: Connect, key: int) -> None:
    """A simple query of several statements is one transaction, in which DO may not COMMIT."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    send(
        waiter,
        f"SELECT set_config('advlock.key', '{key}', false), set_config('lock_timeout', '5', false),"
        " set_config('advlock.deadline', 'infinity', false);" + SLICED_WAIT.decode(),
    )
    assert sqlstate(answers(waiter)[-1]) == "2D000"


def test_sliced_wait_needs_a_sync_before_it(connect: Connect, key: int) -> None:
    """Behind a statement of the same sync DO may not COMMIT on PostgreSQL 18 (15 allows it)."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    waiter.pgconn.enter_pipeline_mode()
    waiter.pgconn.send_query_params(PARAMETERS, [str(key).encode(), b"5", b"50ms"])
    waiter.pgconn.send_query_params(SLICED_WAIT, None)
    waiter.pgconn.pipeline_sync()
    _, do, _ = answers(waiter)
    if waiter.info.server_version >= 180000:
        assert sqlstate(do) == "2D000"
    else:
        assert sqlstate(do) in {None, "2D000"}


def test_sliced_wait_renews_its_snapshot_every_second(connect: Connect, key: int) -> None:
    """A sliced waiter's backend_xmin catches up with the server's own horizon within a second."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_sliced_wait(holder, waiter, key)
    for _ in range(2):
        horizon = next_horizon(holder)
        eventually(partial(has_reached, holder, waiter, horizon), within=5.0)
    still_waits(holder, waiter, key)


def test_plain_wait_keeps_its_first_snapshot(connect: Connect, key: int) -> None:
    """A backend blocked in SELECT pg_advisory_lock() keeps one snapshot for the whole wait."""
    holder, plain, sliced = connect(), connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_waiting(holder, plain, key)
    start_sliced_wait(holder, sliced, key)
    first = xmin(holder, plain)
    horizon = next_horizon(holder)
    eventually(partial(has_reached, holder, sliced, horizon), within=5.0)
    assert xmin(holder, plain) == first


def still_waits(witness: Connection[Any], waiter: Connection[Any], key: int) -> None:
    """Check that the waiter stands in the queue; between two slices it does not for a moment."""
    eventually(partial(waits, witness, waiter, key), message="it waits no more")


def next_horizon(session: Connection[Any]) -> int:
    """Finish a transaction and return the oldest one that a snapshot of now still sees running."""
    session.execute("SELECT pg_current_xact_id()")
    horizon: int = one(session, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    return horizon % 2**32


def xmin(witness: Connection[Any], waiter: Connection[Any]) -> int:
    """Return the waiter's backend_xmin, or a number above all when it has no snapshot at all."""
    sql = "SELECT coalesce(backend_xmin::text::bigint, 1::bigint << 32) FROM pg_stat_activity"
    found: int = one(witness, f"{sql} WHERE pid = %s", waiter.info.backend_pid)
    return found


def has_reached(witness: Connection[Any], waiter: Connection[Any], horizon: int) -> bool:
    """Tell whether the waiter's snapshot is from after the moment of `horizon`."""
    return xmin(witness, waiter) >= horizon


def test_vacuum_works_behind_a_sliced_waiter_only(connect: Connect, key: int, table: str) -> None:
    """VACUUM removes nothing behind a plain waiter; behind a sliced one it does, as it waits."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_waiting(holder, waiter, key)
    leave_dead_rows(holder, table)
    assert dead_rows_kept(holder, table) == ROWS
    holder.execute("SELECT pg_advisory_unlock(%s)", (key,))
    answers(waiter)
    start_sliced_wait(waiter, holder, key)
    leave_dead_rows(waiter, table)
    eventually(
        lambda: dead_rows_kept(waiter, table) == 0, within=30, message="VACUUM removed all rows"
    )
    still_waits(waiter, holder, key)


def test_concurrent_index_by_the_holder_passes_a_sliced_wait(
    connect: Connect, key: int, table: str
) -> None:
    """CREATE INDEX CONCURRENTLY in the holder itself completes while somebody waits in slices."""
    holder, waiter = connect(), connect()
    for session in (holder, waiter):  # on a busy machine a slice may last as long as the default
        session.execute("SET deadlock_timeout = '60s'")
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_sliced_wait(holder, waiter, key)
    holder.execute("SET statement_timeout = '9s'")
    holder.execute(f"CREATE INDEX CONCURRENTLY ON {table} (id)")
    still_waits(holder, waiter, key)


def test_concurrent_index_by_the_holder_deadlocks_with_a_plain_wait(
    connect: Connect, key: int, table: str
) -> None:
    """CREATE INDEX CONCURRENTLY in the holder and a plain waiter wait for each other: 40P01."""
    holder, waiter = connect(), connect()
    holder.execute("SET deadlock_timeout = '20ms'")
    waiter.execute("SET deadlock_timeout = '60s'")  # whoever looks first is the victim
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_waiting(holder, waiter, key)
    send(holder, f"CREATE INDEX CONCURRENTLY ON {table} (id)")
    assert sqlstate(answers(holder)[-1]) == "40P01"


def test_concurrent_index_beside_the_holder_waits_for_ever(
    connect: Connect, key: int, table: str
) -> None:
    """On a second connection CREATE INDEX CONCURRENTLY waits for ever, with no deadlock error."""
    holder, builder, waiter = connect(), connect(), connect()
    builder.execute("SET deadlock_timeout = '10ms'")
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    start_waiting(holder, waiter, key)
    send(builder, f"CREATE INDEX CONCURRENTLY ON {table} (id)")
    pid = builder.info.backend_pid
    waited = "SELECT count(*) FROM pg_locks WHERE pid = %s AND waitstart < now() - interval '200ms'"
    eventually(lambda: one(holder, waited, pid), message="twenty deadlock_timeouts passed")
    assert not answered(builder)
    holder.execute("SELECT pg_advisory_unlock(%s)", (key,))
    assert sqlstate(answers(builder)[-1]) is None


def test_slices_write_nothing_to_the_server_log(connect: Connect, key: int, server: HasLog) -> None:
    """The error that ends a slice is caught on the server and not logged; an uncaught one is."""
    log = server.log_path
    if log is None:
        pytest.skip("the log of the server of ADVLOCK_TEST_DSN is out of reach")
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    before = log.stat().st_size
    mark = f"[{waiter.info.backend_pid}]".encode()

    def logged() -> bool:
        with log.open("rb") as file:
            file.seek(before)
            return mark in file.read()

    send_sliced_wait(waiter, key, slice_ms=10, wait="200ms")
    assert sliced_verdict(waiter) == "timed out"
    waiter.execute("SET lock_timeout = '1ms'")
    assert not logged()
    send(waiter, f"SELECT pg_advisory_lock({key})")
    assert sqlstate(answers(waiter)[-1]) == "55P03"
    eventually(logged, message="the uncaught lock_timeout in the log")
