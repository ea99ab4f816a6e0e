"""What a database's settings do to a session that trusts them, and that each can be overridden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg import Error, errors
from waiting import eventually

from .helpers import answers, is_gone, one, send, sqlstate, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]
    Set = Callable[[str, str], None]

# Long enough to connect and override them, also where several tests share a core.
SHORTLY = "2s"
OVERRIDE = "SELECT pg_catalog.set_config(%s, %s, false)"
KNOWN = "SELECT count(*) FROM pg_catalog.pg_settings WHERE name = %s"
TRY = "SELECT {schema}pg_try_advisory_lock({key})"
SHADOWS = """
    CREATE FUNCTION public.pg_try_advisory_lock(bigint) RETURNS text RETURN 'shadow';
    CREATE FUNCTION public.pg_try_advisory_lock(integer) RETURNS text RETURN 'better match';
    CREATE FUNCTION public.never(bigint, bigint) RETURNS boolean RETURN false;
    CREATE OPERATOR public.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
"""
UNSHADOW = """
    DROP FUNCTION IF EXISTS public.pg_try_advisory_lock(bigint);
    DROP FUNCTION IF EXISTS public.pg_try_advisory_lock(integer);
    DROP FUNCTION IF EXISTS public.never(bigint, bigint) CASCADE;
"""


@pytest.fixture
def set_for_all(connect: Connect) -> Iterator[Set]:
    """Give a function that changes a setting for all later sessions of the test database."""
    keeper = connect(options="-c default_transaction_read_only=off")
    database = one(keeper, "SELECT quote_ident(current_database())")

    def _set(name: str, value: str) -> None:
        keeper.execute(f"ALTER DATABASE {database} SET {name} = {value}")

    yield _set
    keeper.execute(f"ALTER DATABASE {database} RESET ALL")


def immune(session: Connection[Any], name: str, value: str = "0") -> Connection[Any]:
    """Override a setting for this session, as our own sessions do."""
    session.execute(OVERRIDE, (name, value))
    return session


@pytest.mark.parametrize(
    ("name", "code"), [("statement_timeout", "57014"), ("lock_timeout", "55P03")]
)
def test_a_timeout_that_ends_a_wait_can_be_switched_off(
    connect: Connect, set_for_all: Set, key: int, name: str, code: str
) -> None:
    """A waiter with the database's setting fails; one that overrode it, and came first, waits."""
    holder = connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    set_for_all(name, f"'{SHORTLY}'")
    safe, plain = immune(connect(), name), connect()
    for waiter in (safe, plain):
        send(waiter, f"SELECT pg_advisory_lock({key})")
    assert [sqlstate(result) for result in answers(plain)] == [code]
    assert waits(holder, safe, key)


@pytest.mark.parametrize(
    ("name", "sql", "code"),
    [
        ("idle_session_timeout", "SELECT 1", "57P05"),
        ("idle_in_transaction_session_timeout", "BEGIN", "25P03"),
        ("transaction_timeout", "BEGIN", "25P04"),
    ],
)
def test_a_timeout_that_ends_a_session_can_be_switched_off(
    connect: Connect, set_for_all: Set, name: str, sql: str, code: str
) -> None:
    """A session with the database's setting ends; one that overrode it, and came first, lives."""
    witness = connect()
    if not one(witness, KNOWN, name):
        # The set-up has to do without what an older server lacks; there is nothing to override.
        with pytest.raises(errors.UndefinedObject):
            set_for_all(name, f"'{SHORTLY}'")
        return
    set_for_all(name, f"'{SHORTLY}'")
    safe, plain = immune(connect(), name), connect()
    for session in (safe, plain):
        session.execute(sql)
    eventually(lambda: is_gone(witness, plain.info.backend_pid), message="the session's end")
    with pytest.raises(Error) as failure:
        plain.execute("SELECT 1")
    assert failure.value.sqlstate == code
    assert one(safe, "SELECT 1") == 1


@pytest.fixture
def shadows(connect: Connect, set_for_all: Set) -> Iterator[Set]:
    """Put functions and an operator in the way of those of the system."""
    owner = connect()
    owner.execute(SHADOWS)
    yield set_for_all
    owner.execute(UNSHADOW)


def test_a_search_path_can_put_other_functions_first(
    connect: Connect, shadows: Set, key: int
) -> None:
    """Unqualified names find the shadows; qualified ones, or a path of our own, do not."""
    shadows("search_path", "public, pg_catalog")
    session = connect()
    assert one(session, TRY.format(schema="", key=key)) == "shadow"
    assert one(session, TRY.format(schema="pg_catalog.", key=key)) is True
    assert one(session, "SELECT 1::bigint = 1::bigint") is False
    assert one(session, "SELECT 1::bigint OPERATOR(pg_catalog.=) 1::bigint") is True
    immune(session, "search_path", "pg_catalog")
    assert one(session, TRY.format(schema="", key=key)) is True
    assert one(session, "SELECT 1::bigint = 1::bigint") is True


@pytest.mark.usefixtures("shadows")
def test_a_better_match_wins_under_the_default_search_path(connect: Connect) -> None:
    """A function in public that takes just our type is found although pg_catalog comes first."""
    session = connect()
    assert one(session, TRY.format(schema="", key=1)) == "better match"
    assert one(session, TRY.format(schema="pg_catalog.", key=1)) is True


def test_a_serializable_default_makes_an_idle_transaction_keep_its_snapshot(
    connect: Connect, set_for_all: Set, key: int
) -> None:
    """Such a transaction holds VACUUM back; one that overrode the default does not."""
    set_for_all("default_transaction_isolation", "serializable")
    witness = connect()
    plain = connect()
    safe = immune(connect(), "default_transaction_isolation", "read committed")
    kept = {}
    for number, session in enumerate((plain, safe)):
        session.execute("BEGIN")
        session.execute(f"SELECT pg_try_advisory_xact_lock({key + number})")
        sql = "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s"
        kept[session] = one(witness, sql, session.info.backend_pid)
    assert kept == {plain: True, safe: False}


def test_a_read_only_default_forbids_tokens_and_no_locks(
    connect: Connect, set_for_all: Set, table: str, key: int
) -> None:
    """Locks are granted, nextval is refused; where the default was overridden it is not."""
    sequence = f"{table}_fence"
    connect().execute(f"CREATE SEQUENCE {sequence} OWNED BY {table}.id")
    set_for_all("default_transaction_read_only", "on")
    plain, safe = connect(), immune(connect(), "default_transaction_read_only", "off")
    assert one(plain, TRY.format(schema="", key=key)) is True
    with pytest.raises(errors.ReadOnlySqlTransaction):
        one(plain, f"SELECT nextval('{sequence}')")
    assert one(safe, f"SELECT nextval('{sequence}')") == 1
