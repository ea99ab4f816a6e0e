"""The transaction that holds session-level locks: what it keeps back, survives, and can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.pq import ExecStatus, TransactionStatus
from waiting import eventually

from .helpers import answered, answers, entry, is_gone, one, send, sqlstate
from .pooled import (
    HEARTBEAT,
    LEAVE,
    RELEASE,
    ROLLBACK,
    TRY,
    backend,
    ended,
    footprint,
    free,
    last_words,
    pin,
    pinned,
    send_pin,
    setting,
)
from .vacuum import ROWS, dead_rows_kept, leave_dead_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]
    Set = Callable[[str, str], None]

# Long enough to connect and begin, also where several tests share a core.
SHORTLY = "2s"
SOON = "2s"


@pytest.fixture
def build_index(connect: Connect, table: str) -> Iterator[Callable[[], Connection[Any]]]:
    """Give a function that sends CREATE INDEX CONCURRENTLY; end it before the table is dropped."""
    session = connect()

    def _build() -> Connection[Any]:
        send(session, f"CREATE INDEX CONCURRENTLY ON {table} (id)")
        return session

    yield _build
    connect().execute("SELECT pg_terminate_backend(%s, 5000)", (session.info.backend_pid,))


def waits_for_a_transaction(witness: Connection[Any], session: Connection[Any]) -> bool:
    """Tell whether a session waits until another one's transaction is over."""
    which = "pid = %s AND locktype = 'virtualxid' AND NOT granted"
    return bool(
        one(witness, f"SELECT count(*) FROM pg_locks WHERE {which}", session.info.backend_pid)
    )


@pytest.mark.parametrize("end", [ROLLBACK.encode(), RELEASE], ids=["return", "release"])
def test_a_transaction_that_ends_in_a_savepoint_holds_nothing_back(
    connect: Connect, build_index: Callable[[], Connection[Any]], key: int, table: str, end: bytes
) -> None:
    """Back at its savepoint it has no snapshot: VACUUM and CREATE INDEX CONCURRENTLY go on."""
    holder, other = connect(), connect()
    assert pin(holder, key, end=end) == [True]
    assert footprint(other, holder.info.backend_pid) == (False, False)
    leave_dead_rows(other, table)
    eventually(lambda: dead_rows_kept(other, table) == 0, message="VACUUM removed all rows")
    assert [result.status for result in answers(build_index())] == [ExecStatus.COMMAND_OK]
    assert entry(other, holder.info.backend_pid, key) is True


def test_a_transaction_that_ends_in_parameters_holds_them_back(
    connect: Connect, build_index: Callable[[], Connection[Any]], key: int, table: str
) -> None:
    """Without a statement after it the last one's snapshot stays, and both have to wait."""
    holder, other = connect(), connect()
    assert pin(holder, key, end=None) == [True]
    assert footprint(other, holder.info.backend_pid) == (False, True)
    leave_dead_rows(other, table)
    assert dead_rows_kept(other, table) == ROWS
    builder = build_index()
    eventually(lambda: waits_for_a_transaction(other, builder), message="the index waits")
    holder.execute(LEAVE)
    assert [result.status for result in answers(builder)] == [ExecStatus.COMMAND_OK]


def test_a_heartbeat_does_not_let_a_snapshot_go(connect: Connect, key: int) -> None:
    """An empty query leaves a kept snapshot where it is; only a statement with a plan ends it."""
    holder, other = connect(), connect()
    pin(holder, key, end=None)
    holder.execute(HEARTBEAT)
    assert footprint(other, holder.info.backend_pid) == (False, True)
    holder.execute("SELECT 1")
    assert footprint(other, holder.info.backend_pid) == (False, False)
    holder.execute(HEARTBEAT)
    assert footprint(other, holder.info.backend_pid) == (False, False)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_session_locks_survive_an_error_and_the_end(connect: Connect, key: int, end: str) -> None:
    """Locks taken before an error outlive ROLLBACK TO SAVEPOINT and the end of the transaction."""
    holder, other = connect(), connect()
    fails_at_last = f"""
        SELECT pg_catalog.pg_try_advisory_lock(x), 1 / (x - {key + 1})
        FROM pg_catalog.unnest($1::int8[]) x"""
    send_pin(holder, key, key + 1, try_=fails_at_last.encode())
    failed = [sqlstate(result) for result in answers(holder)]
    holder.pgconn.exit_pipeline_mode()
    # BEGIN and SAVEPOINT, the error, the return (which was not run), the answer to the sync.
    assert failed == [None, None, "22012", None, None]
    holder.execute(ROLLBACK)
    pid = holder.info.backend_pid
    taken = [entry(other, pid, key), entry(other, pid, key + 1)]
    assert taken == [True, True]
    assert footprint(other, pid) == (False, False)
    holder.execute(end)
    assert [entry(other, pid, key), entry(other, pid, key + 1)] == taken
    assert not free(other, key)


@pytest.mark.parametrize("end", [ROLLBACK.encode(), RELEASE], ids=["return", "release"])
def test_only_a_return_lets_go_of_what_was_read(connect: Connect, key: int, end: bytes) -> None:
    """A transaction keeps its locks on tables; a return to the savepoint takes back those since."""
    holder, other = connect(), connect()
    reads = TRY + b" WHERE EXISTS (SELECT FROM pg_catalog.pg_database)"
    assert pin(holder, key, try_=reads, end=end) == [True]
    pid = holder.info.backend_pid
    kinds = "SELECT array_agg(DISTINCT locktype) FROM pg_locks WHERE pid = %s"
    expected = {"advisory", "virtualxid"} | ({"relation"} if end == RELEASE else set())
    assert set(one(other, kinds, pid)) == expected
    assert entry(other, pid, key) is True


def test_an_error_after_a_released_savepoint_leaves_no_way_back(connect: Connect, key: int) -> None:
    """Once released it is gone: the locks stay, heartbeats pass, an unlock fails; a close frees."""
    holder, other = connect(), connect()
    assert pin(holder, key, end=RELEASE) == [True]
    pid = backend(holder)
    for sql, code in (
        ("SELECT 1 / 0", "22012"),
        (ROLLBACK, "3B001"),
        (f"SELECT pg_advisory_unlock({key})", "25P02"),
    ):
        send(holder, sql)
        assert [sqlstate(result) for result in answers(holder)] == [code]
    holder.execute(HEARTBEAT)
    assert holder.info.transaction_status == TransactionStatus.INERROR
    assert entry(other, pid, key) is True
    holder.close()
    eventually(lambda: free(other, key), message="the lock is free")


def test_settings_for_the_transaction_end_with_it(connect: Connect, key: int) -> None:
    """set_config(…, true) holds until COMMIT or ROLLBACK, also over a return to a savepoint."""
    session = connect()
    for end in ("COMMIT", "ROLLBACK"):
        pinned(session, key, idle_in_transaction_session_timeout="60s", application_name="pinned")
        assert setting(session, "idle_in_transaction_session_timeout") == "1min"
        assert setting(session, "application_name") == "pinned"
        session.execute("SELECT pg_advisory_unlock_all()")
        session.execute(end)
        assert setting(session, "idle_in_transaction_session_timeout") == "0"
        assert setting(session, "application_name") == ""


def test_the_idle_timeout_of_a_transaction_is_a_lease(connect: Connect, key: int) -> None:
    """A silent holder loses its session and its locks after the timeout it set for itself."""
    holder, other = connect(), connect()
    pinned(holder, key, idle_in_transaction_session_timeout=SOON)
    assert not free(other, key)
    eventually(lambda: free(other, key), message="the lock is free")
    eventually(lambda: ended(holder), message="the holder hears of it")
    assert last_words(holder)[0] == "25P03"


@pytest.fixture
def set_for_role(connect: Connect) -> Iterator[Set]:
    """Give a function that changes a default of our role, in the test database."""
    keeper = connect(options="-c default_transaction_read_only=off")
    whose = f"ALTER ROLE CURRENT_USER IN DATABASE {keeper.info.dbname}"

    def _set(name: str, wanted: str) -> None:
        keeper.execute(f"{whose} SET {name} = '{wanted}'")

    yield _set
    keeper.execute(f"{whose} RESET ALL")


@pytest.mark.parametrize(
    ("name", "sql", "code"),
    [
        ("statement_timeout", "SELECT pg_sleep(60)", "57014"),
        ("lock_timeout", "SELECT pg_advisory_lock({key})", "55P03"),
    ],
)
def test_a_role_cannot_time_a_statement_out(
    connect: Connect, set_for_role: Set, key: int, name: str, sql: str, code: str
) -> None:
    """A plain transaction's statement fails by the role's default; one that set it to 0 goes on."""
    witness = connect()
    witness.execute(f"SELECT pg_advisory_lock({key})")
    set_for_role(name, SHORTLY)
    safe, plain = connect(), connect()
    pinned(safe, key + 1, **{name: "0"})
    plain.execute("BEGIN")
    for session in (safe, plain):
        send(session, sql.format(key=key))
    assert [sqlstate(result) for result in answers(plain)] == [code]
    assert not answered(safe)


@pytest.mark.parametrize(
    ("name", "code"),
    [("idle_in_transaction_session_timeout", "25P03"), ("transaction_timeout", "25P04")],
)
def test_a_role_cannot_time_a_transaction_out(
    connect: Connect, set_for_role: Set, key: int, name: str, code: str
) -> None:
    """A plain transaction ends by the role's default; one that set it to 0 before lives on."""
    witness = connect()
    if not one(witness, "SELECT count(*) FROM pg_settings WHERE name = %s", name):
        assert witness.info.server_version < 170000  # transaction_timeout came with it
        return
    set_for_role(name, SHORTLY)
    safe, plain = connect(), connect()
    pinned(safe, key, **{name: "0"})
    plain.execute("BEGIN")
    eventually(lambda: is_gone(witness, plain.info.backend_pid), message="the plain one's end")
    assert last_words(plain)[0] == code
    safe.execute(HEARTBEAT)
    assert entry(witness, safe.info.backend_pid, key) is True


def test_a_roles_defaults_do_not_change_the_transaction(
    connect: Connect, set_for_role: Set, key: int
) -> None:
    """Serializable and read-only as defaults: the locks are granted, and no snapshot is kept."""
    set_for_role("default_transaction_isolation", "serializable")
    set_for_role("default_transaction_read_only", "on")
    safe, plain, witness = connect(), connect(), connect()
    assert pin(safe, key) == [True]
    plain.execute("BEGIN")
    plain.execute(f"SELECT pg_try_advisory_lock({key + 1})")
    assert setting(safe, "transaction_isolation") == "read committed"
    assert setting(safe, "transaction_read_only") == "on"
    kept = [footprint(witness, session.info.backend_pid) for session in (safe, plain)]
    assert kept == [(False, False), (False, True)]
