"""Several locks in one statement: the batch that runs in order, and the traps beside it."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from .helpers import one

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection
    from psycopg.errors import Diagnostic

    Connect = Callable[..., Connection[Any]]

BATCH = """
    SELECT CASE op WHEN 't' THEN pg_try_advisory_lock(key)
                   WHEN 's' THEN pg_try_advisory_lock_shared(key)
                   WHEN 'u' THEN pg_advisory_unlock(key)
                   WHEN 'v' THEN pg_advisory_unlock_shared(key) END
    FROM unnest(%s::text[], %s::bigint[]) AS request (op, key)"""

SETTINGS = """
    SELECT set_config(name, wanted, false)
    FROM unnest(%s::text[], %s::text[]) AS w (name, wanted)
    JOIN pg_settings USING (name)"""

DICE = secrets.SystemRandom()

MY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


def expected(ops: list[str], keys: list[int], foreign: int) -> list[bool]:
    """Say what each request answers if they run one after the other; `foreign` is taken."""
    held: Counter[tuple[bool, int]] = Counter()
    found = []
    for op, key in zip(ops, keys, strict=True):
        slot = (op in "sv", key)
        if op in "ts":
            found.append(key != foreign)
            held[slot] += key != foreign
        else:
            found.append(held[slot] > 0)
            held[slot] -= held[slot] > 0
    return found


@pytest.mark.parametrize("prepare", [False, True], ids=["unprepared", "prepared"])
@pytest.mark.parametrize("source", ["", "FROM unnest(ARRAY[1, 2, 3])"], ids=["one", "many"])
def test_a_condition_without_columns_decides_before_any_lock(
    connect: Connect, key: int, source: str, *, prepare: bool
) -> None:
    """`WHERE pg_backend_pid() = …` is decided once, first: elsewhere nothing runs, at home all."""
    session = connect()
    sql = f"SELECT pg_try_advisory_lock({key}) {source} WHERE pg_backend_pid() = %s::int"
    home = one(session, "SELECT pg_backend_pid()")
    for _ in range(7):  # from the sixth on, a prepared statement may be planned without the values
        assert session.execute(sql, (home + 1,), prepare=prepare).fetchall() == []
        assert one(session, MY_LOCKS) == 0
    granted = session.execute(sql, (home,), prepare=prepare).fetchall()
    assert granted == [(True,)] * (3 if source else 1)


@pytest.mark.parametrize("prepare", [False, True], ids=["unprepared", "prepared"])
def test_a_batch_over_unnest_runs_in_order_and_once(
    connect: Connect, key: int, *, prepare: bool
) -> None:
    """Requests in arrays run in array order, each exactly once, whatever way they are planned."""
    session, other = connect(), connect()
    other.execute(f"SELECT pg_advisory_lock({key})")
    for _ in range(10):
        ops = DICE.choices("tsuv", k=500)
        keys = [key + DICE.randrange(6) for _ in ops]
        answer = session.execute(BATCH, (ops, keys), prepare=prepare).fetchall()
        assert [row[0] for row in answer] == expected(ops, keys, key)
        session.execute("SELECT pg_advisory_unlock_all()")


def test_unlocking_what_is_not_held_is_false_with_a_warning(connect: Connect, key: int) -> None:
    """An unlock of a lock not held answers false and warns, without failing the transaction."""
    session, other = connect(), connect()
    other.execute(f"SELECT pg_advisory_lock({key})")
    notices: list[tuple[str | None, str | None]] = []

    def note(diagnostic: Diagnostic) -> None:
        notices.append((diagnostic.severity_nonlocalized, diagnostic.message_primary))

    session.add_notice_handler(note)
    with session.transaction():
        for unheld in (key, key + 1):
            assert one(session, f"SELECT pg_advisory_unlock({unheld})") is False
        assert one(session, "SELECT 1") == 1
    assert notices == [("WARNING", "you don't own a lock of type ExclusiveLock")] * 2
    assert one(other, f"SELECT pg_advisory_unlock({key})") is True


def test_a_session_must_unlock_as_often_as_it_locked(connect: Connect, key: int) -> None:
    """A session takes its own lock again and again, in one entry; the last unlock frees it."""
    session, other = connect(), connect()
    for _ in range(3):
        assert one(session, f"SELECT pg_try_advisory_lock({key})") is True
    assert one(session, MY_LOCKS) == 1
    for _ in range(3):
        assert one(other, f"SELECT pg_try_advisory_lock({key})") is False
        assert one(session, f"SELECT pg_advisory_unlock({key})") is True
    assert one(other, f"SELECT pg_try_advisory_lock({key})") is True


def test_shared_and_exclusive_are_counted_apart(connect: Connect, key: int) -> None:
    """A shared lock is freed by unlock_shared alone; plain unlock answers false and keeps it."""
    session, other = connect(), connect()
    assert one(session, f"SELECT pg_try_advisory_lock_shared({key})") is True
    assert one(session, f"SELECT pg_advisory_unlock({key})") is False
    assert one(other, f"SELECT pg_try_advisory_lock({key})") is False
    assert one(session, f"SELECT pg_advisory_unlock_shared({key})") is True
    assert one(other, f"SELECT pg_try_advisory_lock({key})") is True


def test_set_config_over_pg_settings_skips_what_the_server_lacks(connect: Connect) -> None:
    """One SELECT applies the settings this server knows and passes over the others silently."""
    session = connect()
    wanted = {
        "lock_timeout": "1234ms",
        "statement_timeout": "0",
        "idle_session_timeout": "1min",
        "idle_in_transaction_session_timeout": "0",
        "client_connection_check_interval": "2s",
        "transaction_timeout": "77s",
        "setting_of_the_next_century": "on",
    }
    row_count = session.execute(SETTINGS, (list(wanted), list(wanted.values()))).rowcount
    if session.info.server_version < 170000:
        del wanted["transaction_timeout"]
    del wanted["setting_of_the_next_century"]
    assert row_count == len(wanted)
    assert {name: one(session, f"SHOW {name}").lstrip() for name in wanted} == wanted


def test_a_lock_call_in_where_runs_as_often_as_the_planner_likes(
    connect: Connect, table: str
) -> None:
    """A try in a WHERE clause locks every row that is looked at, not just the LIMIT returned."""
    session = connect()
    session.execute(f"INSERT INTO {table} SELECT generate_series(1, 200)")
    trap = f"""
        SELECT id FROM {table} WHERE pg_try_advisory_lock(hashtext('{table}'), id)
        ORDER BY id DESC LIMIT 10"""
    rows = session.execute(trap).fetchall()
    assert len(rows) == 10
    assert one(session, MY_LOCKS) == 200
