"""Which tokens go backward when the server loses its memory, and what an ordinary role may take.

`crashed` takes tokens of every kind, crashes the server, takes the next, and does so a few times.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors
from waiting import eventually

from .helpers import one
from .private_cluster import PrivateCluster, private_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    Crashed = dict[str, list[tuple[int, int]]]

CRASHES = 3
XID = "SELECT pg_current_xact_id()::text::bigint"
MESSAGE = f"{XID}, pg_logical_emit_message(true, 'belief', '')"
ROW = "UPDATE counter SET n = n + 1 RETURNING n"
# A token's kind, its statement, and how often it is taken before the crash. A sequence writes ahead
# for 32 calls, so 34 of them write at least once.
FLUSHED = {
    "message": (MESSAGE, 2),
    "logged": ("SELECT nextval('logged')", 17),
    "row": (ROW, 2),
}
UNFLUSHED = {
    "message, off": (MESSAGE, 2),
    "logged, off": ("SELECT nextval('logged_off')", 34),
    "row, off": (ROW.replace("counter", "counter_off"), 2),
}
BARE = {
    "unlogged": ("SELECT nextval('unlogged')", 3),
    "bare": (XID, 5),
}
WRITER_SLEEPS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'walwriter' AND wait_event = 'WalWriterMain'
    """
KINDS = FLUSHED | UNFLUSHED | BARE
SCHEMA = """
    CREATE SEQUENCE logged CACHE 1;
    CREATE SEQUENCE logged_off CACHE 1;
    CREATE UNLOGGED SEQUENCE unlogged CACHE 1;
    CREATE TABLE counter AS SELECT 0 AS n;
    CREATE TABLE counter_off AS SELECT 0 AS n;
    CREATE SCHEMA advlock_x;
    CREATE SEQUENCE advlock_x.fence;
    CREATE ROLE ordinary LOGIN;
    CREATE SEQUENCE granted;
    GRANT USAGE ON SEQUENCE granted TO ordinary;
"""


@pytest.fixture(scope="module")
def cluster(dsn: str) -> Iterator[PrivateCluster]:
    """Run a cluster to crash; once its WAL writer sleeps, it does so for longer than a test."""
    with (
        psycopg.connect(dsn, autocommit=True) as superuser,
        private_cluster(superuser, wal_writer_delay="10s") as made,
    ):
        with closing(made.connect()) as session:
            session.execute(SCHEMA)
            session.execute("CHECKPOINT")
        yield made


@pytest.fixture(scope="module")
def crashed(cluster: PrivateCluster) -> Crashed:
    """Give, for each kind of token, the last before and the first after each of some crashes."""
    found: Crashed = {kind: [] for kind in KINDS}
    for _ in range(CRASHES):
        with closing(cluster.connect()) as session:
            eventually(partial(one, session, WRITER_SLEEPS), message="nothing is flushed by luck")
            last = take_all(session, FLUSHED)
            # The writer is woken by the end of a page of the log, so this begins a new one.
            session.execute("SELECT pg_switch_wal()")
            session.execute("SET synchronous_commit = off")
            last |= take_all(session, UNFLUSHED)
            session.execute("SET synchronous_commit = on")
            last |= take_all(session, BARE)
            cluster.crash()
        cluster.start()
        with closing(cluster.connect()) as session:
            next_xid = one(session, XID)
            for kind, (sql, _) in KINDS.items():
                token = next_xid if XID in sql else one(session, sql)
                found[kind].append((last[kind], token))
    return found


def take_all(session: Connection[Any], kinds: dict[str, tuple[str, int]]) -> dict[str, int]:
    """Take tokens of each of these kinds; return the last of each."""
    return {
        kind: [one(session, sql) for _ in range(count)][-1] for kind, (sql, count) in kinds.items()
    }


def rises(tokens: list[tuple[int, int]]) -> bool:
    """Tell whether every token after a crash is above the last before it."""
    return all(before < after for before, after in tokens)


def repeats(tokens: list[tuple[int, int]]) -> bool:
    """Tell whether some token after a crash is not above the last before it."""
    return any(before >= after for before, after in tokens)


def test_a_bare_transaction_id_goes_backward(crashed: Crashed) -> None:
    """Nothing is written for it, so the server hands it out again after a crash."""
    assert repeats(crashed["bare"])


def test_a_transaction_id_with_a_message_in_the_log_never_goes_backward(crashed: Crashed) -> None:
    """A transactional message in the same statement makes the commit flush the log.

    It does not where a role or database has switched synchronous_commit off.
    """
    assert rises(crashed["message"])
    assert repeats(crashed["message, off"])


def test_a_logged_sequence_never_goes_backward(crashed: Crashed) -> None:
    """A crash skips some values and repeats none, unless synchronous_commit is off."""
    assert rises(crashed["logged"])
    assert repeats(crashed["logged, off"])


def test_a_row_never_goes_backward(crashed: Crashed) -> None:
    """A committed update survives, unless synchronous_commit is off."""
    assert rises(crashed["row"])
    assert repeats(crashed["row, off"])


def test_an_unlogged_sequence_starts_again(crashed: Crashed) -> None:
    """It begins with 1 after each crash."""
    assert [after for _, after in crashed["unlogged"]] == [1] * CRASHES
    assert repeats(crashed["unlogged"])


@pytest.fixture
def ordinary(cluster: PrivateCluster) -> Iterator[Connection[Any]]:
    """Open a session of a role that owns nothing."""
    with closing(cluster.connect(user="ordinary")) as session:
        yield session


def test_to_regclass_fails_in_a_schema_that_one_may_not_use(ordinary: Connection[Any]) -> None:
    """It is NULL for a schema that is not there, and error 42501 for one that is, but not for us.

    The catalogs tell both apart without an error.
    """
    assert one(ordinary, "SELECT to_regclass('no_such_schema.fence')") is None
    for name in ("fence", "no_such_sequence"):
        with pytest.raises(errors.InsufficientPrivilege) as failure:
            one(ordinary, f"SELECT to_regclass('advlock_x.{name}')")
        assert failure.value.sqlstate == "42501"
    usable = """
        SELECT nspname, has_schema_privilege(oid, 'USAGE') FROM pg_namespace
        WHERE nspname IN ('advlock_x', 'no_such_schema')
        """
    assert ordinary.execute(usable).fetchall() == [("advlock_x", False)]


def test_usage_of_a_sequence_allows_nextval_and_nothing_that_sets_it(
    ordinary: Connection[Any],
) -> None:
    """GRANT USAGE is enough for tokens that rise, and not enough to set them back."""
    first = one(ordinary, "SELECT nextval('granted')")
    with pytest.raises(errors.InsufficientPrivilege):
        one(ordinary, "SELECT setval('granted', 1)")
    with pytest.raises(errors.InsufficientPrivilege):
        one(ordinary, "ALTER SEQUENCE granted RESTART")
    assert one(ordinary, "SELECT nextval('granted')") > first


def test_an_ordinary_role_may_force_its_transaction_id_into_the_log(
    ordinary: Connection[Any],
) -> None:
    """The message needs no privilege, so the token without a sequence needs none."""
    assert one(ordinary, MESSAGE) < one(ordinary, MESSAGE)


def test_a_case_takes_a_token_of_one_kind_only(cluster: PrivateCluster) -> None:
    """CASE evaluates the branch it chooses: no transaction id beside nextval, nor the reverse."""
    choose = """
        SELECT CASE WHEN to_regclass('of_one_kind') IS {} THEN pg_current_xact_id()::text::bigint
                    ELSE nextval(to_regclass('of_one_kind')) END
        """
    with closing(cluster.connect()) as session:
        session.execute("CREATE SEQUENCE of_one_kind CACHE 1")
        assert one(session, "SELECT nextval('of_one_kind')") == 1
        session.execute("BEGIN")
        assert one(session, choose.format("NULL")) == 2
        assert one(session, "SELECT pg_current_xact_id_if_assigned()") is None
        assert one(session, choose.format("NOT NULL")) == one(session, XID)
        session.execute("COMMIT")
        assert one(session, "SELECT nextval('of_one_kind')") == 3
