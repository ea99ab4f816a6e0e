"""The server's queue: exactly first come, first served; and what a deadlock leaves behind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from waiting import eventually

from .helpers import answered, answers, entry, one, sqlstate, start_waiting, waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]


def free(session: Connection[Any], key: int) -> None:
    """Unlock `key` and check that the session had it."""
    assert one(session, f"SELECT pg_advisory_unlock({key})") is True


def test_waiters_are_served_in_the_order_they_came(connect: Connect, key: int) -> None:
    """Twenty waiters get an exclusive lock in exactly the order in which they queued."""
    holder = connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    queue = [connect() for _ in range(20)]
    random.shuffle(queue)
    for waiter in queue:
        start_waiting(holder, waiter, key)
    current = holder
    for position, waiter in enumerate(queue):
        free(current, key)
        answers(waiter)
        assert not any(answered(later) for later in queue[position + 1 :])
        current = waiter


def test_try_never_barges_past_the_queue(connect: Connect, key: int) -> None:
    """Not even the releaser, trying in the statement of its unlock, gets in before a waiter."""
    holder, waiter, barger = connect(), connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    for _ in range(50):
        start_waiting(barger, waiter, key)
        row = holder.execute(
            f"SELECT pg_advisory_unlock({key}), pg_try_advisory_lock({key})"
        ).fetchone()
        assert row == (True, False)
        assert one(barger, f"SELECT pg_try_advisory_lock({key})") is False
        answers(waiter)
        holder, waiter = waiter, holder


def test_a_waiting_exclusive_request_stops_new_shared_ones(connect: Connect, key: int) -> None:
    """Sharers cannot starve a writer: new ones are refused, the one inside may enter again."""
    sharer, late, writer = connect(), connect(), connect()
    try_shared = f"SELECT pg_try_advisory_lock_shared({key})"
    assert one(sharer, try_shared) is True
    assert one(late, try_shared) is True
    assert one(late, f"SELECT pg_advisory_unlock_shared({key})") is True
    start_waiting(sharer, writer, key)
    assert one(late, try_shared) is False
    assert one(sharer, try_shared) is True


def test_shared_waiters_behind_a_writer_are_served_after_it(connect: Connect, key: int) -> None:
    """Shared requests behind an exclusive one wait for it, and then enter together."""
    sharer, writer, early, late = (connect() for _ in range(4))
    shared = f"SELECT pg_advisory_lock_shared({key})"
    sharer.execute(shared)
    start_waiting(sharer, writer, key)
    for waiter in (early, late):
        start_waiting(sharer, waiter, key, shared)
    assert one(sharer, f"SELECT pg_advisory_unlock_shared({key})") is True
    answers(writer)
    assert waits(sharer, early, key)
    assert waits(sharer, late, key)
    free(writer, key)
    answers(early)
    answers(late)


def test_a_deadlock_victim_keeps_its_session_locks(connect: Connect, key: int) -> None:
    """After 40P01 the victim has its earlier locks still; the other waits until it unlocks."""
    survivor, victim, witness = connect(), connect(), connect()
    victim.execute("SET deadlock_timeout = '10ms'")
    survivor.execute("SET deadlock_timeout = '60s'")  # whoever looks first is the victim
    survivor.execute(f"SELECT pg_advisory_lock({key})")
    victim.execute(f"SELECT pg_advisory_lock({key + 1})")
    start_waiting(witness, survivor, key + 1)
    victim.pgconn.send_query(f"SELECT pg_advisory_lock({key})".encode())
    assert sqlstate(answers(victim)[-1]) == "40P01"
    assert entry(witness, victim.info.backend_pid, key + 1) is True
    assert waits(witness, survivor, key + 1)
    free(victim, key + 1)
    assert sqlstate(answers(survivor)[-1]) is None


def test_one_client_on_two_connections_is_no_cycle(connect: Connect, key: int) -> None:
    """A client that waits on one connection for its own lock on another waits for ever."""
    first, second, witness = connect(), connect(), connect()
    second.execute("SET deadlock_timeout = '10ms'")
    first.execute(f"SELECT pg_advisory_lock({key})")
    start_waiting(witness, second, key)
    eventually(
        lambda: one(
            witness,
            "SELECT count(*) FROM pg_locks WHERE pid = %s AND waitstart < now() - interval '0.2 s'",
            second.info.backend_pid,
        ),
        message="twenty deadlock_timeouts passed",
    )
    assert not answered(second)
    assert waits(witness, second, key)
