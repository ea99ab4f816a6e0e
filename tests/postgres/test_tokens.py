"""Fencing tokens while the server lives: lock first, then the token, in one statement."""

from __future__ import annotations

import select
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from waiting import eventually

from .helpers import answers, hang_up, is_gone, one, send, start_waiting, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

HANDOVERS = 500
NEXT_XID = "SELECT pg_current_xact_id()::text::bigint"
LOCK_THEN_XID = "SELECT pg_advisory_lock({key}), pg_current_xact_id()"
XID_THEN_LOCK = "SELECT pg_current_xact_id(), pg_advisory_lock({key})"


def test_tokens_rise_over_many_handovers(connect: Connect, key: int) -> None:
    """With the lock before the transaction id, each holder's token is above all earlier ones."""
    sessions = [connect() for _ in range(6)]
    for session in sessions:
        send(session, LOCK_THEN_XID.format(key=key))
    tokens: list[int] = []
    while len(tokens) < HANDOVERS:
        for session in select.select(sessions, [], [], 10)[0]:
            tokens.append(int(value(answers(session)[-1], 1) or 0))
            assert one(session, f"SELECT pg_advisory_unlock({key})") is True
            send(session, LOCK_THEN_XID.format(key=key))
    assert all(earlier < later for earlier, later in pairwise(tokens))


def token_of_a_waiter(holder: Connection[Any], waiter: Connection[Any], key: int, sql: str) -> int:
    """Queue `waiter` with `sql`, let `holder` allocate tokens meanwhile; return holder's excess."""
    column = 0 if sql == XID_THEN_LOCK else 1
    holder.execute(f"SELECT pg_advisory_lock({key})")
    start_waiting(holder, waiter, key, sql.format(key=key))
    earlier: int = one(holder, NEXT_XID)
    holder.execute(f"SELECT pg_advisory_unlock({key})")
    return int(value(answers(waiter)[-1], column) or 0) - earlier


def test_a_token_right_of_the_lock_is_taken_after_the_grant(connect: Connect, key: int) -> None:
    """The select list runs left to right, so lock-then-token gives the later holder the larger."""
    assert token_of_a_waiter(connect(), connect(), key, LOCK_THEN_XID) > 0


def test_a_token_left_of_the_lock_goes_backward(connect: Connect, key: int) -> None:
    """Token-then-lock takes the token before the wait: the later holder has the smaller one."""
    assert token_of_a_waiter(connect(), connect(), key, XID_THEN_LOCK) < 0


def test_a_token_in_an_old_transaction_goes_backward(connect: Connect, key: int) -> None:
    """In a transaction that already had an id, lock-then-token repeats that old id."""
    waiter = connect()
    waiter.execute("BEGIN")
    waiter.execute(NEXT_XID)
    assert token_of_a_waiter(connect(), waiter, key, LOCK_THEN_XID) < 0


def test_transaction_ids_are_never_reused_while_the_server_lives(connect: Connect) -> None:
    """A rollback, an error, a vanished client or a terminated backend gives no id back."""
    witness = connect()
    tokens: list[int] = [one(witness, NEXT_XID)]
    for end in ("ROLLBACK", "hang up", "terminate"):
        session = connect()
        session.execute("BEGIN")
        tokens.append(one(session, NEXT_XID))
        if end == "ROLLBACK":
            session.execute(end)
        elif end == "terminate":
            witness.execute(f"SELECT pg_terminate_backend({session.info.backend_pid})")
        else:
            hang_up(session)
        if end != "ROLLBACK":
            has_ended = partial(is_gone, witness, session.info.backend_pid)
            eventually(has_ended, message=f"the backend's end by {end}")
        tokens.append(one(witness, NEXT_XID))
    assert all(earlier < later for earlier, later in pairwise(tokens))


def test_a_cached_sequence_goes_backward_between_sessions(connect: Connect, table: str) -> None:
    """CACHE 1 rises across sessions; with CACHE 10 a later session's value may be smaller."""
    first, second = connect(), connect()
    for cache, rises in ((1, True), (10, False)):
        name = f"{table}_cache_{cache}"
        first.execute(f"CREATE SEQUENCE {name} CACHE {cache} OWNED BY {table}.id")
        take = f"SELECT nextval('{name}')"
        tokens = [one(session, take) for session in (first, second, first)]
        assert all(earlier < later for earlier, later in pairwise(tokens)) is rises


def test_a_name_is_found_before_the_snapshot_has_what_it_names(connect: Connect) -> None:
    """`to_regclass` looks at what is committed now; the tables of the catalog are as of before."""
    asker, maker = connect(), connect()
    asker.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    asker.execute("SELECT 1")
    maker.execute("CREATE SEQUENCE made_meanwhile")
    try:
        found = "SELECT to_regclass('made_meanwhile') IS NOT NULL"
        there = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'made_meanwhile')"
        assert (one(asker, found), one(asker, there)) == (True, False)
        asker.execute("COMMIT")
        assert one(asker, there) is True
    finally:
        asker.execute("ROLLBACK")
        maker.execute("DROP SEQUENCE made_meanwhile")
