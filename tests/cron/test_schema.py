"""The tables: made once, by whoever comes first, or by a DBA; and used by a role without rights."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from conformance.databases import plain_role

from advlock import Scheduler, cli
from advlock._cron import _schema, _sql, _views_sql
from advlock._plan import Script, Step
from advlock.cli.exits import Exit
from advlock.errors import ConfigError

from .hands import Hand, job

if TYPE_CHECKING:
    from psycopg import Connection

    from .hands import Rows

TABLES = ["cron_host", "cron_pause", "cron_run", "cron_set", "migration"]
LIST = "SELECT tablename FROM pg_tables WHERE schemaname = 'advlock' ORDER BY tablename"


def tables(admin: Connection[Any]) -> list[str]:
    """Which tables there are."""
    return [name for (name,) in admin.execute(LIST)]


def test_the_tables_are_made_once(dsn: str, empty: Connection[Any]) -> None:
    """Whoever comes later asks two questions and makes nothing."""
    hand = Hand(dsn)
    with hand.client:
        assert hand.ask(_schema.prepare()) == [1]
        assert tables(empty) == TABLES
        before = len(hand.scripts)
        assert hand.ask(_schema.prepare()) == []
        assert hand.scripts[before:] == [[_sql.VERSION], [_sql.APPLIED]]


def test_many_may_come_at_once(dsn: str, empty: Connection[Any]) -> None:
    """Eight on an empty database, together with a fencing token: all succeed, one schema."""
    crew = [Hand(dsn) for _ in range(8)]
    gate = threading.Barrier(len(crew) + 1)

    def prepare(hand: Hand) -> None:
        hand.client._sessions.connect(None)
        gate.wait()
        hand.ask(_schema.prepare())

    def token() -> int:
        with crew[0].client.hold("fenced") as held:
            gate.wait()
            return held.token()

    with ThreadPoolExecutor(len(crew) + 1) as pool:
        drawn = pool.submit(token)
        list(pool.map(prepare, crew))
        assert drawn.result() > 0
    for hand in crew:
        hand.client.close()
    assert tables(empty) == TABLES
    assert empty.execute("SELECT version FROM advlock.migration").fetchall() == [(1,)]


def test_the_statements_may_be_repeated(dsn: str, rows: Rows) -> None:
    """Two hosts may come at once: the second repeats what the first has done, and harms nothing."""
    hand = Hand(dsn, job())
    with hand.client:
        hand.ask(_schema.prepare())
        hand.join()
        rows.set("DELETE FROM advlock.migration")
        assert hand.ask(_schema.prepare()) == [1]
        assert rows.ask("SELECT count(*) FROM advlock.cron_set") == 1


def test_a_newer_version_is_put_up_with(dsn: str, rows: Rows) -> None:
    """A newer advlock only adds: an older host goes on working."""
    hand = Hand(dsn, job("j", "@every 1s"))
    with hand.client:
        hand.ask(_schema.prepare())
        rows.set("INSERT INTO advlock.migration VALUES (99)")
        rows.set("ALTER TABLE advlock.cron_run ADD COLUMN mood text DEFAULT 'good'")
        assert hand.ask(_schema.prepare()) == []
        hand.join()
        hand.turn()
        hand.ahead = timedelta(seconds=1)
        hand.run(*hand.claims())
        assert rows() == ["succeeded"]


def test_a_role_that_may_not_is_told_what_to_do(database: str, empty: Connection[Any]) -> None:
    """It names the role and the command, and nothing is left half done."""
    with plain_role(database) as (role, dsn):
        scheduler = Scheduler(dsn)
        with pytest.raises(ConfigError, match=f"advlock init --sql --role {role}"):
            scheduler.run()
    assert tables(empty) == []


def test_a_role_without_grants_is_told_what_to_do(database: str, rows: Rows, dsn: str) -> None:
    """The tables are there and are somebody else's."""
    owner = Hand(dsn)
    with owner.client:
        owner.ask(_schema.prepare())
    rows.set("GRANT USAGE ON SCHEMA advlock TO PUBLIC")
    rows.set("GRANT SELECT ON advlock.migration TO PUBLIC")
    with plain_role(database) as (_, plain), pytest.raises(ConfigError, match="init --sql --role"):
        Scheduler(plain).run()


def control(name: str) -> Any:
    """Pause and resume a job, and trigger it, as the commands do."""
    names = f'["{name}"]'
    yield Script((Step(_views_sql.PAUSE, (names, "60", "note", "me")),))
    yield Script((Step(_views_sql.RESUME, (names,)),))
    yield Script((Step(_views_sql.TRIGGER, (name, None, "me")),))
    yield Script((Step(_views_sql.OVERVIEW, (None,)),))


def test_what_a_dba_runs_lets_a_role_do_everything(database: str, rows: Rows) -> None:
    """The text, run by a superuser, is enough for every statement of a scheduler's life."""
    with plain_role(database) as (role, dsn):
        rows.set(_schema.text(role))
        rows.set(_schema.text(role))  # it may be run again
        hand = Hand(dsn, job(keep=1, on_crash="rerun"))
        with hand.client:
            assert hand.ask(_schema.prepare()) == []
            hand.join()
            hand.turn()
            for _ in range(2):
                hand.ahead += timedelta(minutes=5)
                hand.run(*hand.claims())
            hand.agenda._beaten = None
            hand.turn()
            assert rows() == ["succeeded"]
            hand.ask(control("j"))
            (claim,) = hand.claims()
            hand.begin(claim)
            hand.turn()
            assert "queued" in rows()
            hand.ask(hand.agenda.others())
            hand.ask(hand.agenda.leave())
            with hand.client.hold("fenced") as held:
                assert held.token() > 0


def test_init_may_be_run_again(
    dsn: str, empty: Connection[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The command makes the tables, and says so; the second time it says that they are there."""
    for expected in ("made version 1", "there already"):
        assert not cli.main(["init", "--dsn", dsn])
        assert expected in capfd.readouterr().err
    assert tables(empty) == TABLES


def test_init_quotes_the_role(empty: Connection[Any], capfd: pytest.CaptureFixture[str]) -> None:
    """Any role's name is a name and no SQL; everybody, nobody and two lines are refused."""
    role = 'select "x"; DROP TABLE t --'
    quoted = '"select ""x""; DROP TABLE t --"'
    empty.execute(f"CREATE ROLE {quoted}".encode())
    try:
        assert not cli.main(["init", "--sql", "--role", role])
        shown = capfd.readouterr().out
        assert shown.count(role) == 0
        empty.execute(shown.encode())
        may = "SELECT has_table_privilege(%s, 'advlock.cron_run', 'insert')"
        assert empty.execute(may, [role]).fetchone() == (True,)
    finally:
        empty.execute(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}".encode())
    for wrong in ("", " ", "a\nb", "public", "PUBLIC", "h\udcff"):
        assert cli.main(["init", "--sql", "--role", wrong]) == Exit.USAGE
        assert not capfd.readouterr().out


def test_init_shows_what_it_would_do(
    database: str, empty: Connection[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The text makes the same tables as the program does, down to every column."""
    columns = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'advlock' ORDER BY 1, 2"
    )
    assert not cli.main(["init", "--sql"])
    empty.execute(capsys.readouterr().out.encode())
    by_hand = empty.execute(columns).fetchall()
    empty.execute("DROP SCHEMA advlock CASCADE")
    hand = Hand(database)
    with hand.client:
        hand.ask(_schema.prepare())
    assert empty.execute(columns).fetchall() == by_hand


def test_a_state_that_is_none_is_refused(dsn: str, rows: Rows) -> None:
    """A typo in some statement would be an error, not a row that nobody ever looks at."""
    hand = Hand(dsn)
    with hand.client:
        hand.ask(_schema.prepare())
    with pytest.raises(psycopg.errors.CheckViolation):
        rows.set("INSERT INTO advlock.cron_run VALUES ('j', now(), 'sleeping')")
