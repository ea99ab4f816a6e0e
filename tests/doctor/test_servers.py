"""Every fault that can be planted gives its finding and no other; a healthy server gives none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from bouncers import bouncer
from chaos.proxy import proxy
from clusters import hot_standby
from fakes import UNSAFE, Fake, deaf, fake_server, old, skewed
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from advlock._doctor._about import Limits

from .helpers import (
    check_found,
    connect,
    make_fence,
    over_tcp,
    role,
    sessions,
    the_finding,
    warm,
)

if TYPE_CHECKING:
    from servers import Server

    from advlock.embedded._cluster import Cluster

# -- healthy ---------------------------------------------------------------------------------------


def test_a_healthy_server_has_no_finding(server: Server, fresh: str) -> None:
    """Neither over a Unix socket nor over TCP, and every check is made."""
    report = check_found(fresh)
    assert report.worst is None
    assert report.exit_code == 0
    assert re.search(r"PostgreSQL \d+\.\d+", report.server)
    assert not [fact for fact in report.facts.values() if fact.startswith("not checked")]
    keepalives = check_found(over_tcp(server, fresh)).facts["keepalives"]
    assert keepalives == "TCP: idle 3s, interval 1s, count 6, user timeout 8500ms"


def test_an_ordinary_role_has_no_finding(fresh: str) -> None:
    """A role without any privilege needs but the sequence for tokens, which is for everybody."""
    make_fence(fresh)
    with role(fresh) as dsn:
        report = check_found(dsn)
    assert "of its own role only" in report.facts["permissions"]


def test_hostile_defaults_are_overridden(fresh: str) -> None:
    """A role's timeouts and modes are facts, not findings: our sessions do not have them."""
    make_fence(fresh)
    hostile = {
        "statement_timeout": "500",
        "lock_timeout": "2",
        "idle_session_timeout": "3s",
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
        "synchronous_commit": "off",
        "exit_on_error": "on",
    }
    changes = [f"ALTER ROLE {{}} SET {name} = '{value}'" for name, value in hostile.items()]
    with role(fresh, *changes) as dsn:
        report = check_found(dsn)
        assert re.search(r"statement_timeout = 500ms \(role app_\w+\)", report.facts["settings"])
    for name in hostile:
        assert name in report.facts["settings"]
    assert "in force" in report.facts["overrides"]


# -- what stands in between ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "settings", "expected", "fact"),
    [
        ("transaction", {}, (), "transaction mode: .* works? pinned|locks work pinned"),
        ("session", {}, (), "session mode: .* locks work as on a direct connection"),
        ("statement", {}, ("pooler-statement",), "statement mode"),
        ("session", {"server_reset_query": ""}, ("pooler-leaks",), "session mode, which leaks"),
    ],
    ids=["transaction", "session", "statement", "session that leaks"],
)
def test_a_pooler_and_its_mode(
    server: Server,
    fresh: str,
    mode: str,
    settings: dict[str, object],
    expected: tuple[str, ...],
    fact: str,
) -> None:
    """PgBouncer is recognised in each mode; only what costs or endangers is a finding."""
    database = str(conninfo_to_dict(fresh)["dbname"])
    with bouncer(server, mode, **settings) as made:
        warm(made, database)
        report = check_found(made.dsn(database), *expected)
        assert re.search(fact, report.facts["pooler"])
        held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND database = "
        with connect(fresh) as witness:
            mine = "(SELECT oid FROM pg_database WHERE datname = current_database())"
            left = witness.execute(held + mine).fetchall()  # type: ignore[call-overload]
        assert not left, "the doctor left a lock in the pool"


def test_a_pool_without_room_for_two(server: Server, fresh: str) -> None:
    """What cannot be told is said, and a report without the main test is not clean."""
    database = str(conninfo_to_dict(fresh)["dbname"])
    limits = replace(Limits(), step=1.5, total=12.0)
    with bouncer(server, "session", default_pool_size=1) as made:
        report = check_found(made.dsn(database), "exclusion-untested", unchecked=3, limits=limits)
    assert "in a mode that cannot be told" in report.facts["pooler"]
    assert report.exit_code == 1


def test_a_read_replica(cluster: Cluster) -> None:
    """A hot standby is an error; the primary beside it is healthy."""
    with hot_standby(cluster) as standby:
        report = check_found(standby.dsn(), "read-replica")
        assert report.exit_code == 2
        assert "target_session_attrs=read-write" in the_finding(report).remedy
    check_found(cluster.dsn())


# -- servers that are none -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        ("always-true", "locks-exclude-nobody", "both got true"),
        ("no-row", "locks-no-answer", "no row"),
        ("raises", "locks-missing", "not supported"),
        ("hidden", "locks-invisible", "no such row"),
        ("cockroach", "locks-exclude-nobody", "CockroachDB"),
        ("yugabyte", "locks-missing", "YugabyteDB"),
        ("yugabyte-silent", "locks-exclude-nobody", "YugabyteDB"),
        ("redshift", "locks-missing", "Redshift"),
    ],
)
def test_a_server_whose_locks_are_none(
    server: Server, fresh: str, kind: str, expected: str, words: str
) -> None:
    """What locks do decides, and the server's name only adds advice."""
    # Redshift has neither pg_is_in_recovery() nor pg_locks, which hides nothing else.
    unchecked = 4 if kind == "redshift" else 0
    with fake_server(UNSAFE[kind], fresh, over_tcp(server, fresh)) as dsn:
        report = check_found(dsn, expected, unchecked=unchecked)
    finding = the_finding(report)
    assert words in finding.evidence + finding.remedy
    assert report.exit_code == 2


def test_an_odd_answer_hides_nothing(server: Server, fresh: str) -> None:
    """A catalog without the row that is looked for is said, and no other check suffers."""
    empty = "(SELECT * FROM pg_catalog.pg_stat_ssl WHERE false) AS none_of_ours"
    odd = Fake(((r"pg_catalog\.pg_stat_ssl\b", empty),))
    with fake_server(odd, fresh, over_tcp(server, fresh)) as dsn:
        report = check_found(dsn, unchecked=1)
    assert "odd answer" in report.facts["tls"]


def test_an_old_server(server: Server, fresh: str) -> None:
    """PostgreSQL 12 is too old, whatever else works there."""
    with fake_server(old("12.22"), fresh, over_tcp(server, fresh)) as dsn:
        finding = the_finding(check_found(dsn, "server-too-old"))
    assert "12.22" in finding.evidence


@pytest.mark.parametrize("seconds", [90.5, -90.5])  # half a second for whatever comes between
def test_a_clock_that_is_off(server: Server, fresh: str, seconds: float) -> None:
    """A minute and a half of difference is a warning, with its size and direction."""
    with fake_server(skewed(seconds), fresh, over_tcp(server, fresh)) as dsn:
        finding = the_finding(check_found(dsn, "clock-offset"))
    assert "1m30s" in finding.evidence
    assert ("ahead of" if seconds > 0 else "behind") in finding.evidence


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("statement_timeout", "5000", "override-refused"),
        ("tcp_keepalives_idle", "0", "keepalives-refused"),
        ("tcp_user_timeout", "0", "user-timeout-refused"),
    ],
)
def test_a_server_that_keeps_its_own_settings(
    server: Server, fresh: str, setting: str, value: str, expected: str
) -> None:
    """What was set is read back; a setting that did not take is named."""
    with fake_server(deaf(setting, value), fresh, over_tcp(server, fresh)) as dsn:
        finding = the_finding(check_found(dsn, expected))
    assert setting in finding.evidence


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            (r"pg_catalog\.pg_advisory_unlock\(\$1::int8\)", "$1::int8 IS NOT NULL"),
            "lock-not-released",
        ),
        (
            (r"pg_catalog\.pg_advisory_lock\(\$1::int8\)", "pg_catalog.pg_sleep(9 + 0 * $1::int8)"),
            "waiter-not-granted",
        ),
    ],
    ids=["unlock", "wait"],
)
def test_a_server_that_half_works(
    server: Server, fresh: str, rule: tuple[str, str], expected: str
) -> None:
    """A release that frees nothing, and a wait that never ends, are errors."""
    limits = replace(Limits(), step=2.0)
    with fake_server(Fake((rule,)), fresh, over_tcp(server, fresh)) as dsn:
        check_found(dsn, expected, limits=limits)


def test_a_lock_that_outlives_its_connection(server: Server, fresh: str) -> None:
    """Something in between does not pass a hang-up on: an error, with the time that was waited."""
    target = conninfo_to_dict(over_tcp(server, fresh))
    with proxy(str(target["host"]), int(target["port"])) as made:
        made.strike("linger", "up", scope="new")
        dsn = make_conninfo(over_tcp(server, fresh), port=made.port)
        limits = replace(Limits(), death=0.3)
        finding = the_finding(check_found(dsn, "lock-outlives-connection", limits=limits))
    assert "still in pg_locks after 300ms" in finding.evidence


# -- room ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "expected"), [(0.7, "lock-table-filling"), (0.97, "lock-table-full")]
)
def test_a_lock_table_that_fills(cluster: Cluster, share: float, expected: str) -> None:
    """Above half a warning, above nine tenths an error; both say what to raise."""
    with connect(cluster.dsn()) as greedy:
        greedy.execute(
            "SELECT pg_advisory_lock(n) FROM generate_series(1, %s) n", [int(200 * share)]
        )
        finding = the_finding(check_found(cluster.dsn(), expected))
        greedy.execute("SELECT pg_advisory_unlock_all()")
    assert "max_locks_per_transaction = 20" in finding.remedy


@pytest.mark.parametrize("left", [2, 3])
def test_connections_that_are_nearly_used_up(cluster: Cluster, left: int) -> None:
    """When less than one client's worth of connections is left, it is a warning."""
    with sessions(cluster.dsn(), 20 - left):
        finding = the_finding(check_found(cluster.dsn(), "connections-scarce"))
    assert f"{20 - left} of the server's 20 connections" in finding.evidence
    assert "max_connections = 40" in finding.remedy


def test_connections_that_are_used_up(cluster: Cluster) -> None:
    """None for a second session is an error, and what needs a second one is not checked."""
    with sessions(cluster.dsn(), 19):
        report = check_found(cluster.dsn(), "connections-exhausted", unchecked=4)
    assert "too many clients" in report.facts["exclusion"]
