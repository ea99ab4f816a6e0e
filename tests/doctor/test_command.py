"""`advlock doctor` as a process; and every examination comes to an end and leaves nothing."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bouncers import bouncer_before
from cli.helpers import Cli
from clusters import ask_for_passwords, free_port
from fakes import ALWAYS_TRUE, Fake, fake_server
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from servers import locks_in_db
from waiting import eventually

import advlock
from advlock._doctor._about import Limits
from advlock._doctor._exam import examine
from advlock._doctor._patient import Patient
from advlock._doctor._probe import _Pair
from advlock._doctor._report import CODES
from advlock.cli.exits import Exit

from .helpers import MAKE_FENCE, codes, connect, over_tcp, role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from advlock.embedded._cluster import Cluster

PASSWORD = "hunter2-very-secret"  # noqa: S105 - of a server that lives for a moment
KEYS = ["database", "server", "worst", "exit_code", "findings", "facts", "seconds"]
FINDING_KEYS = ["code", "severity", "summary", "evidence", "remedy"]
TOPICS = [
    *("pooler", "server", "role", "replica", "connection", "tls", "connections", "exclusion"),
    *("death", "handover", "waiting", "settings", "tokens", "identity", "permissions"),
    *("lock_table", "clock", "overrides", "keepalives", "waiters", "idle_holders"),
]
# Whoever asks for the private key's release waits for a minute, with the lock in hand.
HANGING = Fake(
    ((r"pg_catalog\.pg_advisory_unlock\(\$1::int8\)", r"pg_catalog.pg_sleep(60 + 0 * $1::int8)"),)
)


@pytest.fixture
def cli(fresh: str) -> Iterator[Cli]:
    """The command, with the test's own database."""
    started = Cli(fresh)
    yield started
    started.close()


# -- exit codes and output -------------------------------------------------------------------------


def test_clean_is_0(cli: Cli) -> None:
    """A healthy server: 0, the report on stdout, nothing on stderr."""
    code, out, err = cli("doctor")
    assert (code, err) == (0, "")
    assert "no findings" in out
    assert "\x1b" not in out


def test_warnings_are_1(cli: Cli, fresh: str) -> None:
    """A warning alone: 1."""
    with role(fresh) as dsn:
        code, out, _ = cli("doctor", "--dsn", dsn)
    assert code == 1
    assert "warning: fence-missing" in out


def test_errors_are_2(cli: Cli, server: Server, fresh: str) -> None:
    """An error: 2, whatever else there is."""
    with fake_server(ALWAYS_TRUE, fresh, over_tcp(server, fresh)) as dsn:
        code, out, _ = cli("doctor", "--dsn", dsn)
    assert code == 2
    assert "error: locks-exclude-nobody" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--dsn", f"postgresql://u:{PASSWORD}@127.0.0.1:{free_port()}/db"], Exit.UNAVAILABLE),
        (["--dsn", "mysql://host/db"], Exit.CONFIG),
        (["--keys", "md5"], Exit.USAGE),
        (["--no-such-option"], Exit.USAGE),
        ([""], Exit.CONFIG),
    ],
    ids=["unreachable", "no postgresql", "unknown scheme", "unknown option", "empty name"],
)
def test_what_cannot_be_examined(cli: Cli, arguments: list[str], code: int) -> None:
    """69, 64 and 78 as everywhere, in one or two lines on stderr, without a password."""
    got, out, err = cli("doctor", *arguments)
    assert (got, out) == (code, "")
    assert err.startswith("advlock: ")
    assert PASSWORD not in err


def test_json_has_stable_keys(cli: Cli, fresh: str) -> None:
    """One object; its keys and topics are those that are documented."""
    with role(fresh) as dsn:
        _, out, _ = cli("doctor", "--json", "--dsn", dsn)
    report: dict[str, Any] = json.loads(out)
    assert list(report) == KEYS
    assert list(report["facts"]) == TOPICS
    assert (report["worst"], report["exit_code"]) == ("warning", 1)
    (finding,) = report["findings"]
    assert list(finding) == FINDING_KEYS
    assert finding["severity"] == CODES[finding["code"]]


def test_names_are_looked_at(cli: Cli) -> None:
    """Names on the command line are compared, with the keys that were asked for."""
    code, out, _ = cli("doctor", "--keys", "hashtext", "job:11352", "job:189279")
    assert code == 2
    assert "error: key-collision" in out
    assert cli("doctor", "job:11352", "job:189279")[0] == 0


def test_a_report_is_what_the_command_prints(cli: Cli, fresh: str) -> None:
    """`advlock.doctor` returns what `--json` shows."""
    report = advlock.doctor(fresh)
    assert list(report.as_dict()) == KEYS
    assert report.as_dict()["facts"] == report.facts
    told = json.loads(cli("doctor", "--json")[1])
    assert told["facts"]["role"] == report.facts["role"]


def test_errors_come_first(fresh: str) -> None:
    """Findings are in order of gravity, and the worst one decides."""
    change = "ALTER SEQUENCE advlock.fence CACHE 9"
    with connect(fresh) as idle:
        for statement in (*MAKE_FENCE, change, "SELECT pg_advisory_lock(1)"):
            idle.execute(statement)  # type: ignore[call-overload]
        report = examine(fresh, limits=replace(Limits(), idle=0.0))
    assert codes(report) == ["fence-unsound", "leaked-lock"]
    assert (report.worst, report.exit_code) == ("error", 2)


def test_no_password_is_shown(cluster: Cluster) -> None:
    """Not in the report, and not in an error."""
    ask_for_passwords(cluster, "guest", PASSWORD)
    address = cluster.dsn(host="127.0.0.1").replace("user=postgres", "user=guest")
    dsn = make_conninfo(address, password=PASSWORD)
    assert PASSWORD not in json.dumps(advlock.doctor(dsn).as_dict())
    with pytest.raises(advlock.DatabaseUnavailable) as caught:
        advlock.doctor(make_conninfo(dsn, password=f"{PASSWORD}x"))
    assert PASSWORD not in str(caught.value)


# -- it leaves nothing, and it ends ----------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(
    cli: Cli, server: Server, fresh: str, signum: int
) -> None:
    """A signal while the private lock is held: 128+n, and the lock is gone with its session."""
    with fake_server(HANGING, fresh, over_tcp(server, fresh)) as dsn, connect(fresh) as witness:
        started = cli.start("doctor", "--dsn", dsn)
        eventually(lambda: locks_in_db(witness), message="the private lock", within=20)
        started.send(signum)
        assert started.code() == 128 + signum
        eventually(lambda: not locks_in_db(witness), message="no lock")


def test_without_the_clean_up_a_lock_stays(fresh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: sessions that are neither closed nor told to release keep the private lock."""
    left: list[Patient] = []
    with monkeypatch.context() as off, connect(fresh) as witness:
        off.setattr(Patient, "close", lambda patient: left.append(patient))  # noqa: PLW0108 - bound
        off.setattr(_Pair, "_given_back", lambda _: True)
        advlock.doctor(fresh)
        assert locks_in_db(witness)
    for patient in left:
        patient.close()


def test_a_killed_run_leaves_nothing_in_a_pool(cli: Cli, server: Server, fresh: str) -> None:
    """`kill -9` while the private lock is held through a pooler: it goes with its transaction."""
    database = str(conninfo_to_dict(fresh)["dbname"])
    with (
        fake_server(HANGING, fresh, over_tcp(server, fresh)) as dsn,
        bouncer_before(dsn, "transaction") as pooler,
        connect(fresh) as witness,
    ):
        started = cli.start("doctor", "--dsn", pooler.dsn(database))
        eventually(lambda: locks_in_db(witness), message="the private lock", within=20)
        started.send(signal.SIGKILL)
        started.code()
        eventually(lambda: not locks_in_db(witness), message="no lock")


def test_a_server_that_hangs_does_not_hang_the_doctor(server: Server, fresh: str) -> None:
    """Each question has its limit, and all together have one; what was left out is said."""
    limits = replace(Limits(), step=1.5, total=4.0)
    with fake_server(HANGING, fresh, over_tcp(server, fresh)) as dsn:
        started = time.monotonic()
        report = examine(dsn, limits=limits)
        assert time.monotonic() - started < 15.0
    assert "no answer within 1.5 s" in report.facts["exclusion"]
    assert "the doctor's time was over" in report.facts["idle_holders"]
    assert list(report.facts) == [t for t in TOPICS if t != "keepalives"]
    with connect(fresh) as witness:
        eventually(lambda: not locks_in_db(witness), message="no lock")


def test_nothing_is_made(fresh: str) -> None:
    """After an examination the database has no schema, no lock and no session more."""
    objects = "SELECT (SELECT count(*) FROM pg_namespace), (SELECT count(*) FROM pg_class)"
    others = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND usename IS NOT NULL AND pid <> pg_backend_pid()"""
    with connect(fresh) as witness:
        before = witness.execute(objects).fetchone()
        advlock.doctor(fresh)
        assert witness.execute(objects).fetchone() == before
        eventually(lambda: not locks_in_db(witness))
        eventually(lambda: witness.execute(others).fetchone() == (0,))
