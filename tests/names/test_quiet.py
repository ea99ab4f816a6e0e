"""Recording names disturbs nobody: no lock waits or fails for it, no log has a word of it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import Log, about
from conformance.databases import plain_role
from waiting import eventually

from advlock import _names_sql

from .people import PATIENCE, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection
    from servers import Server

    from .people import Person

    Make = Callable[..., Person]

OURS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'advlock %'
"""
GRANT = "GRANT {} ON advlock.lock_name TO {}"


@contextmanager
def quiet(server: Server, admin: Connection[Any]) -> Iterator[None]:
    """Nothing is written to the log meanwhile; a statement that fails would be."""
    log = Log(server.log_path) if server.log_path else None
    yield
    if log is not None:
        pids = [pid for (pid,) in admin.execute(OURS)]
        assert pids
        assert about(log.since(), *pids) == []
        with pytest.raises(psycopg.errors.UndefinedTable):
            admin.execute("SELECT FROM no_such_table")
        eventually(lambda: about(log.since(), admin.info.backend_pid))


def tries(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of names that were not recorded."""
    records = [r for r in caplog.records if getattr(r, "event", "") == "names.failed"]
    return [record.getMessage() for record in records]


def looked(admin: Connection[Any], person: Person) -> None:
    """Wait until a client has looked for a table, and found none to write to."""
    used = person.client._used

    def _looked() -> bool:
        asked = admin.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query = %s",
            (_names_sql.LOOK,),
        ).fetchall()
        return bool(asked) and used._next > 0 and bool(used._noted)

    for _ in range(4):
        with suppress(AssertionError):
            eventually(_looked, within=PATIENCE / 5)
            return
        # A lock's end came behind the look, and is the last query; an idle client asks no more.
        person.use("again")
    eventually(_looked, message="a look for the table", within=PATIENCE / 5)


def test_a_table_that_somebody_locks_holds_nobody_up(
    person: Make,
    dsn: str,
    server: Server,
    database: str,
    table: Table,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Locks come and go, their heartbeats too; and the names are recorded when that is over."""
    caplog.set_level("DEBUG", "advlock")
    someone = person(dsn)
    with quiet(server, table.admin), psycopg.connect(database) as rude:
        rude.execute("LOCK TABLE advlock.lock_name IN ACCESS EXCLUSIVE MODE")
        held = someone.take("held")
        for n in range(3):  # further tries are made, while the lock is held and others are taken
            someone.use(f"used-{n}")
            eventually(lambda n=n: len(tries(caplog)) > n, within=PATIENCE)
        beat = held._ticket.session.pulse.confirmed
        eventually(lambda: held._ticket.session.pulse.confirmed > beat, within=PATIENCE)
        held.check()
    assert "SQLSTATE 55P03" in tries(caplog)[0]
    table.has("held", "used-0", "used-1", "used-2")
    someone.let_go(held)


def test_without_the_table_nothing_is_said_and_later_it_is_found(
    person: Make, dsn: str, server: Server, no_table: Connection[Any]
) -> None:
    """`advlock init` may come when clients run already."""
    table = Table(no_table)
    someone = person(dsn)
    held = someone.take("early")
    with quiet(server, no_table):
        looked(no_table, someone)
        held.check()
    table.make()
    table.has("early")
    someone.let_go(held)


@pytest.mark.parametrize("rights", ["SELECT", "INSERT"])
def test_without_the_right_nothing_is_recorded(
    person: Make, database: str, server: Server, table: Table, rights: str
) -> None:
    """Whoever wants no names in the database takes the right to insert them away."""
    with plain_role(database) as (role, dsn):
        table.admin.execute(GRANT.format(rights, role).encode())
        someone = person(dsn)
        someone.use("secret")
        with quiet(server, table.admin):
            looked(table.admin, someone)
            someone.use("secret")
            assert table.names() == set()
        table.admin.execute(GRANT.format("SELECT, INSERT", role).encode())
        # An idle client does not look again; one that is used does.
        eventually(lambda: someone.use("secret") or table.names(), within=PATIENCE)
        someone.close()


def test_a_role_that_may_only_insert_changes_nothing_else(
    person: Make, database: str, server: Server, table: Table
) -> None:
    """It records; old rows are left to those who may touch them."""
    table.fill(10, days=40)
    with plain_role(database) as (role, dsn):
        table.admin.execute(GRANT.format("SELECT, INSERT", role).encode())
        someone = person(dsn)
        with quiet(server, table.admin):
            someone.use("nightly")
            table.has("nightly")
            assert table.count() == 11
        someone.close()


def test_nobodys_trigger_runs_with_our_rights(
    person: Make, database: str, dsn: str, no_table: Connection[Any]
) -> None:
    """A table that some role has planted is not written to, however it is made."""
    admin = no_table
    with plain_role(database) as (role, _):
        admin.execute("CREATE TABLE public.stolen (who text)")
        admin.execute(f"CREATE SCHEMA advlock AUTHORIZATION {role}".encode())
        admin.execute(f"SET ROLE {role}".encode())
        admin.execute(
            "CREATE TABLE advlock.lock_name (key int8, name text, scheme text, seed int8,"
            " seen_at timestamptz)"
        )
        admin.execute(
            "CREATE FUNCTION advlock.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO public.stolen VALUES (current_user); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE TRIGGER t BEFORE INSERT ON advlock.lock_name EXECUTE FUNCTION advlock.f()"
        )
        admin.execute("RESET ROLE")
        someone = person(dsn)
        someone.use("innocent")
        looked(admin, someone)
        assert admin.execute("SELECT * FROM public.stolen").fetchall() == []
        someone.close()
        admin.execute("DROP TABLE public.stolen; DROP SCHEMA advlock CASCADE")


def test_a_failure_on_the_server_is_caught_there(
    person: Make, dsn: str, server: Server, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the table has against a row: the session goes on, and the log says nothing."""
    caplog.set_level("DEBUG", "advlock")
    table.admin.execute("ALTER TABLE advlock.lock_name DROP COLUMN seed")
    someone = person(dsn)
    held = someone.take("nightly")
    session = held._ticket.session
    with quiet(server, table.admin):
        eventually(lambda: tries(caplog), within=PATIENCE)
    assert "42703" in tries(caplog)[0]
    held.check()
    assert held._ticket.session is session
    someone.let_go(held)


def test_it_costs_no_connection(
    person: Make, dsn: str, table: Table, admin: Connection[Any]
) -> None:
    """A client that records is one session, as any other."""
    someone = person(dsn, application_name="frugal")
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'frugal'"
    count += " AND datname = current_database()"
    seen = set()
    someone.use(*(f"job-{n}" for n in range(50)))

    def recorded() -> bool:
        seen.add(admin.execute(count).fetchone())
        return table.count() == 50

    eventually(recorded, within=PATIENCE)
    assert seen == {(1,)}
