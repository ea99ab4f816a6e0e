"""The tables: made once, by whoever comes first, or by a DBA; and used by a role without rights."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import Log, about
from conformance.databases import plain_role

from advlock import Locks, Scheduler, _schema, _schema_sql, cli
from advlock._cron import _views_sql
from advlock._plan import Script, Step
from advlock.cli.exits import Exit
from advlock.errors import ConfigError

from .hands import Hand, job

if TYPE_CHECKING:
    from psycopg import Connection
    from servers import Server

    from .hands import Rows

TABLES = sorted(_schema.TABLES)
VERSIONS = sorted(_schema_sql.MIGRATIONS)
_PLANT = """
CREATE SCHEMA advlock AUTHORIZATION {0};
SET ROLE {0};
CREATE FUNCTION public.steal() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.stolen VALUES (current_user); RETURN 99; END $$;
CREATE VIEW advlock.migration AS SELECT public.steal() AS version;
RESET ROLE;
"""
LIST = "SELECT tablename FROM pg_tables WHERE schemaname = 'advlock' ORDER BY tablename"


def tables(admin: Connection[Any]) -> list[str]:
    """Which tables there are."""
    return [name for (name,) in admin.execute(LIST)]


def test_the_tables_are_made_once(dsn: str, empty: Connection[Any]) -> None:
    """Whoever comes later asks two questions and makes nothing."""
    hand = Hand(dsn)
    with hand.client:
        assert hand.ask(_schema.prepare()) == VERSIONS
        assert tables(empty) == TABLES
        before = len(hand.scripts)
        assert hand.ask(_schema.prepare()) == []
        look = [_schema_sql.TRUSTED, _schema_sql.VERSION]
        assert hand.scripts[before:] == [look, [_schema_sql.APPLIED]]


def test_tables_of_somebody_else_are_not_touched(
    database: str, dsn: str, empty: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or his view ran with our rights; the control shows that it would have."""
    with plain_role(database) as (role, _), Locks(dsn) as client:
        session = client._sessions.connect(None)
        empty.execute("CREATE TABLE public.stolen (who text)")
        empty.execute(f"GRANT CREATE ON SCHEMA public TO {role}; GRANT ALL ON stolen TO {role}")
        empty.execute(_PLANT.format(role).encode())
        try:
            with pytest.raises(ConfigError, match=f"the schema advlock belongs to {role}"):
                client._beside(session, _schema.prepare(), None)
            assert empty.execute("SELECT count(*) FROM stolen").fetchone() == (0,)
            monkeypatch.setattr(_schema_sql, "TRUSTED", "SELECT 1")
            client._beside(session, _schema.prepare(), None)
            assert empty.execute("SELECT DISTINCT who FROM stolen").fetchall() == [("postgres",)]
        finally:
            empty.execute("DROP SCHEMA advlock CASCADE")
            empty.execute("DROP TABLE public.stolen; DROP FUNCTION public.steal")


def test_all_tables_have_to_be_trusted() -> None:
    """The question names all that there are."""
    (named,) = set(re.findall(r"\{([\w,]+)\}", _schema_sql.TRUSTED))
    assert sorted(named.split(",")) == TABLES


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
    assert applied(empty) == VERSIONS


def test_the_statements_may_be_repeated(dsn: str, rows: Rows) -> None:
    """Two hosts may come at once: the second repeats what the first has done, and harms nothing."""
    hand = Hand(dsn, job())
    with hand.client:
        hand.ask(_schema.prepare())
        hand.join()
        rows.set("DELETE FROM advlock.migration")
        assert hand.ask(_schema.prepare()) == VERSIONS
        assert rows.ask("SELECT count(*) FROM advlock.cron_set") == 1


def test_a_newer_version_is_put_up_with(dsn: str, rows: Rows) -> None:
    """A newer advlock only adds: an older host goes on working."""
    hand = Hand(dsn, job("j", "@every 1h"))
    with hand.client:
        hand.ask(_schema.prepare())
        rows.set("INSERT INTO advlock.migration VALUES (99)")
        rows.set("ALTER TABLE advlock.cron_run ADD COLUMN mood text DEFAULT 'good'")
        assert hand.ask(_schema.prepare()) == []
        hand.join()
        hand.turn()
        hand.ahead = timedelta(hours=1)
        hand.run(*hand.claims())
        assert rows() == ["succeeded"]


def made_by_version_1(empty: Connection[Any], role: str | None = None) -> None:
    """Tables as the first version of advlock made them; with a role that may use them."""
    for statement in _schema_sql.MIGRATIONS[1]:
        empty.execute(statement)
    if role is not None:
        for words in ("USAGE ON SCHEMA", "ALL ON ALL TABLES IN SCHEMA"):
            empty.execute(f"GRANT {words} advlock TO {role}".encode())


def applied(admin: Connection[Any]) -> list[int]:
    """Which versions there are."""
    found = admin.execute("SELECT version FROM advlock.migration ORDER BY version")
    return [version for (version,) in found]


def test_tables_of_the_first_version_are_brought_up_to_date(
    dsn: str, empty: Connection[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """What is missing is added, once, and what was there stays."""
    made_by_version_1(empty)
    empty.execute("INSERT INTO advlock.cron_set (hash, jobs) VALUES ('kept', '{}')")
    assert not cli.main(["init", "--dsn", dsn])
    assert f"made version {VERSIONS[-1]}" in capfd.readouterr().err
    assert applied(empty) == VERSIONS
    assert tables(empty) == TABLES
    assert empty.execute("SELECT hash FROM advlock.cron_set").fetchall() == [("kept",)]


def test_an_upgrade_may_be_made_by_several_at_once(dsn: str, empty: Connection[Any]) -> None:
    """Four schedulers of the new version meet the tables of the old one."""
    made_by_version_1(empty)
    crew = [Hand(dsn) for _ in range(4)]
    gate = threading.Barrier(len(crew))

    def prepare(hand: Hand) -> None:
        hand.client._sessions.connect(None)
        gate.wait()
        hand.ask(_schema.prepare(_schema.CRON))

    with ThreadPoolExecutor(len(crew)) as pool:
        list(pool.map(prepare, crew))
    for hand in crew:
        hand.client.close()
    assert applied(empty) == VERSIONS
    assert tables(empty) == TABLES


def test_a_scheduler_goes_on_with_the_tables_that_it_needs(
    database: str,
    server: Server,
    empty: Connection[Any],
    rows: Rows,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Who may not make the later version works with the first; only `init` says that it cannot."""
    with plain_role(database) as (role, dsn):
        made_by_version_1(empty, role)
        log = Log(server.log_path) if server.log_path else None
        hand = Hand(dsn, job("j", "@every 1h"))
        with hand.client:
            assert hand.ask(_schema.prepare(_schema.CRON)) == []
            hand.join()
            hand.turn()
            hand.ahead = timedelta(hours=1)
            hand.run(*hand.claims())
            assert rows() == ["succeeded"]
            pid = hand.client._sessions.connect(None).wire.connection.info.backend_pid
        assert log is None or not [ln for ln in about(log.since(), pid) if "ERROR" in ln]
        assert cli.main(["init", "--dsn", dsn]) == Exit.CONFIG
        assert "init --sql --role" in capfd.readouterr().err
        assert applied(empty) == [1]


def test_the_names_of_locks_are_for_monitoring(database: str, empty: Connection[Any]) -> None:
    """A role with pg_monitor reads them, also without a grant; another one does not."""
    empty.execute(_schema.text().encode())
    select = "SELECT * FROM advlock.lock_name"
    with plain_role(database) as (role, dsn), psycopg.connect(dsn, autocommit=True) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(select)
        empty.execute(f"GRANT pg_monitor TO {role}".encode())
        assert session.execute(select).fetchall() == []


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
    for expected in (f"made version {VERSIONS[-1]}", "there already"):
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
