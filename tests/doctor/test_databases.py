"""Faults of a role or a database that can be planted: each gives its finding and no other."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

import advlock
from advlock import Key
from advlock._catalogue._fixed import FIXED
from advlock._doctor._about import Limits

from .helpers import (
    check_found,
    connect,
    make_fence,
    role,
    sessions,
    the_finding,
    wait_for_room,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

AT_ONCE = replace(Limits(), idle=0.0, waiting=0.0)
LATER = replace(Limits(), idle=60.0, waiting=60.0)
TOKEN_FUNCTIONS = (
    "pg_walfile_name(pg_lsn)",
    "pg_current_wal_lsn()",
    "pg_current_wal_insert_lsn()",
    "pg_current_wal_flush_lsn()",
    "pg_current_xact_id()",
)


@pytest.fixture
def fenced(fresh: str) -> str:
    """A database with the sequence for tokens."""
    make_fence(fresh)
    return fresh


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("others", "expected"), [(0, ()), (1, ()), (2, ("connections-scarce",))])
def test_a_role_s_connection_limit(fenced: str, others: int, expected: tuple[str, ...]) -> None:
    """Of five connections that a role may have, a client may need four."""
    with role(fenced, "ALTER ROLE {} CONNECTION LIMIT 5") as dsn, sessions(dsn, others):
        report = check_found(dsn, *expected)
        if expected:
            assert re.search(r"ALTER ROLE app_\w+ CONNECTION LIMIT 25", the_finding(report).remedy)


def test_a_role_s_last_connection(fenced: str) -> None:
    """A role that may have one is examined as far as that goes."""
    with role(fenced, "ALTER ROLE {} CONNECTION LIMIT 1") as dsn:
        report = check_found(dsn, "connections-exhausted", unchecked=4)
    assert "too many connections for role" in report.facts["exclusion"]


def test_a_database_s_connection_limit(server: Server, fenced: str) -> None:
    """The database's own limit counts, too."""
    name = str(conninfo_to_dict(fenced)["dbname"])
    with connect(fenced) as session:
        session.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 3")  # type: ignore[call-overload]
    with role(fenced) as dsn, connect(server.superuser_dsn) as witness:
        wait_for_room(witness, name)  # whoever made the role counts, too
        finding = the_finding(check_found(dsn, "connections-scarce"))
    assert f"ALTER DATABASE {name} CONNECTION LIMIT 23" in finding.remedy


# -- tokens, and what they need --------------------------------------------------------------------


def test_no_sequence_and_no_right_to_make_it(fresh: str) -> None:
    """Tokens still work, at a price: a warning, and the statements that make the sequence."""
    with role(fresh) as dsn:
        finding = the_finding(check_found(dsn, "fence-missing"))
        with connect(fresh) as session:
            statements = finding.remedy.partition(": ")[2].split("; ")
            for statement in statements:
                session.execute(statement)  # type: ignore[call-overload]
        check_found(dsn)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER SEQUENCE advlock.fence CACHE 20",
        "ALTER SEQUENCE advlock.fence CYCLE",
        "ALTER SEQUENCE advlock.fence INCREMENT -1 MINVALUE -9 MAXVALUE 9",
    ],
)
def test_a_sequence_that_can_go_backward(fresh: str, change: str) -> None:
    """It is an error, and the remedy cures it."""
    make_fence(fresh, change)
    finding = the_finding(check_found(fresh, "fence-unsound"))
    with connect(fresh) as session:
        session.execute(finding.remedy)  # type: ignore[call-overload]
    check_found(fresh)


def test_a_sequence_that_is_not_logged(fresh: str) -> None:
    """A crash sets it back: an error."""
    change = "UPDATE pg_class SET relpersistence = 'u' WHERE oid = 'advlock.fence'::regclass"
    make_fence(fresh, "SET allow_system_table_mods = on", change)  # 14 knows no UNLOGGED sequence
    finding = the_finding(check_found(fresh, "fence-unsound"))
    assert "UNLOGGED" in finding.evidence


def test_a_table_in_its_place(fresh: str) -> None:
    """What is no sequence is an error, not a crash."""
    with connect(fresh) as session:
        session.execute("CREATE SCHEMA advlock")
        session.execute("CREATE TABLE advlock.fence (id int)")
    assert "no sequence" in the_finding(check_found(fresh, "fence-unsound")).evidence


@pytest.mark.parametrize("what", ["SCHEMA advlock", "SEQUENCE advlock.fence"])
def test_a_sequence_that_may_not_be_used(fenced: str, what: str) -> None:
    """No token for this role: an error, and the remedy cures it."""
    with connect(fenced) as session:
        session.execute(f"REVOKE USAGE ON {what} FROM PUBLIC")  # type: ignore[call-overload]
        with role(fenced) as dsn:
            finding = the_finding(check_found(dsn, "fence-unusable"))
            for statement in finding.remedy.split("; "):
                session.execute(statement)  # type: ignore[call-overload]
            check_found(dsn)


@pytest.mark.parametrize("function", TOKEN_FUNCTIONS)
def test_a_function_that_was_revoked(fenced: str, function: str) -> None:
    """A function that tokens need is an error, and the remedy cures it."""
    with connect(fenced) as session:
        session.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")  # type: ignore[call-overload]
        with role(fenced) as dsn:
            finding = the_finding(check_found(dsn, "token-functions-denied"))
            assert finding.remedy.startswith("as a superuser: ")
            session.execute(finding.remedy.partition(": ")[2])  # type: ignore[call-overload]
            check_found(dsn)


def test_an_identity_that_is_hidden(fenced: str) -> None:
    """A role that cannot tell which server it is on is warned."""
    with connect(fenced) as session:
        session.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        with role(fenced) as dsn:
            finding = the_finding(check_found(dsn, "identity-hidden"))
            session.execute(finding.remedy.partition(": ")[2])  # type: ignore[call-overload]
            check_found(dsn)


def test_plpgsql_that_was_dropped(fresh: str) -> None:
    """Waiters poll without it: a warning."""
    with connect(fresh) as session:
        session.execute("DROP EXTENSION plpgsql")
    assert "CREATE EXTENSION plpgsql" in the_finding(check_found(fresh, "plpgsql-missing")).remedy


# -- other people's locks --------------------------------------------------------------------------


def test_a_lock_that_was_forgotten(fresh: str) -> None:
    """An idle session's lock is reported with its key in both spellings, and how to free it."""
    with connect(fresh, application_name="pool") as idle:
        idle.execute("SELECT pg_advisory_lock(hashtextextended('nightly', 0))")
        idle.execute("SELECT pg_advisory_lock(7, -1)")
        pid = idle.info.backend_pid
        finding = the_finding(check_found(fresh, "leaked-lock", limits=AT_ONCE))
        assert f"session {pid} has held 2 advisory locks" in finding.summary
        assert "'pool'" in finding.evidence
        assert "7, -1 (pg_locks 7/4294967295/2)" in finding.evidence
        assert str(Key.of("nightly").value) in finding.evidence
        assert finding.remedy.endswith(f"SELECT pg_terminate_backend({pid})")
        named = the_finding(check_found(fresh, "leaked-lock", names=["nightly"], limits=AT_ONCE))
        assert "hashtextextended('nightly', 0)" in named.evidence
        check_found(fresh, limits=LATER)


def test_what_is_in_use_is_not_forgotten(fresh: str) -> None:
    """Neither our own idle sessions, nor a transaction, are reported."""
    with advlock.Locks(fresh) as locks, locks.hold("nightly"), connect(fresh) as busy:
        busy.execute("BEGIN")
        busy.execute("SELECT pg_advisory_xact_lock(1)")
        report = check_found(fresh, limits=AT_ONCE)
        assert report.facts["idle_holders"].startswith("2 advisory locks held by others")
        busy.execute("ROLLBACK")


def test_what_cannot_be_seen_is_said(fenced: str) -> None:
    """A role that may not see what another's session does is told so."""
    with role(fenced) as dsn, connect(fenced) as idle:
        idle.execute("SELECT pg_advisory_lock(1)")
        report = check_found(dsn, limits=AT_ONCE)
        assert "what 1 of the sessions do is hidden" in report.facts["idle_holders"]
        idle.execute("SELECT pg_advisory_unlock(1)")


@pytest.fixture
def waiting(fresh: str) -> Iterator[tuple[int, int]]:
    """A holder in a transaction, and a session that waits for it; their process ids."""
    with connect(fresh) as holder, connect(fresh, application_name="ghost") as ghost:
        holder.execute("BEGIN")
        holder.execute("SELECT pg_advisory_xact_lock(42)")
        ghost.pgconn.send_query(b"SELECT pg_advisory_lock(42)")
        ghost.pgconn.flush()
        asked = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
        pid = ghost.info.backend_pid
        eventually(lambda: holder.execute(asked, (pid,)).fetchone() == (1,))
        yield holder.info.backend_pid, pid
        ghost.close()
        holder.execute("ROLLBACK")


def test_a_session_that_waits_for_long(fresh: str, waiting: tuple[int, int]) -> None:
    """Whoever waits in one statement for minutes may be a ghost; who is in the way is named."""
    holder, ghost = waiting
    finding = the_finding(check_found(fresh, "long-waiter", limits=AT_ONCE))
    assert "holds back VACUUM" in finding.summary
    assert f"held or asked for before by {holder}" in finding.evidence
    assert f"pg_terminate_backend({ghost})" in finding.remedy
    report = check_found(fresh, limits=LATER)
    assert report.facts["waiters"] == "1 session waiting, none of them for long"


def test_a_holder_that_lets_others_wait(fresh: str, waiting: tuple[int, int]) -> None:
    """Idle in its transaction while somebody waits: who it is, and what it asked last."""
    holder, _ = waiting
    at_once = replace(Limits(), stalled=0.0)
    finding = the_finding(check_found(fresh, "stalled-holder", limits=at_once))
    assert f"session {holder} has been idle in a transaction" in finding.summary
    assert "while 1 session waited" in finding.summary
    assert "its last query: 'SELECT count(*) FROM pg_locks" in finding.evidence
    assert f"pg_terminate_backend({holder})" in finding.remedy
    report = check_found(fresh, limits=replace(Limits(), stalled=60.0))
    assert "idle in transaction" not in report.facts["idle_holders"]


def test_a_holder_that_lets_nobody_wait(fresh: str) -> None:
    """Idle in its transaction, with a lock that nobody wants: that is its own affair."""
    with connect(fresh) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT pg_advisory_xact_lock(42)")
        check_found(fresh, limits=replace(Limits(), stalled=0.0))
        holder.execute("ROLLBACK")


def test_locks_are_called_by_their_names(fresh: str) -> None:
    """A forgotten lock of a tool that everybody knows is called that."""
    tool = next(entry for entry in FIXED if entry.value.pair is False)
    with connect(fresh, application_name="pool") as idle:
        idle.execute("SELECT pg_advisory_lock(%s)", (tool.value.value,))
        finding = the_finding(check_found(fresh, "leaked-lock", limits=AT_ONCE))
    assert tool.tool in finding.evidence


# -- names -----------------------------------------------------------------------------------------


def test_two_names_with_one_key(fresh: str) -> None:
    """Names that hashtext() makes one are an error there, and none with 64 bits."""
    names = ["job:11352", "job:189279"]
    finding = the_finding(check_found(fresh, "key-collision", names=names, keys="hashtext"))
    assert names[0] in finding.summary
    assert names[1] in finding.summary
    assert (
        check_found(fresh, names=[*names, names[0]]).facts["names"] == "3 names, 2 different keys"
    )


def test_a_name_and_a_number_with_one_key(fresh: str) -> None:
    """A number can be a name's key by accident."""
    number = Key.of("nightly").value
    report = advlock.doctor(fresh, ["nightly", number])
    assert [finding.code for finding in report.findings] == ["key-collision"]


def test_prismas_word_for_a_pooler_is_explained(server: Server) -> None:
    """`pgbouncer=true` in the address: the report says which other address is the server's own."""
    given = conninfo_to_dict(server.tcp_dsn("postgres"))
    url = f"postgresql://{given['user']}@127.0.0.1:{given['port']}/postgres?pgbouncer=true"
    assert "directUrl" in advlock.doctor(url).facts["direct_address"]
