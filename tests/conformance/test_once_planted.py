"""`once` where somebody planted its table, or part of it: nothing of it runs, or is believed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from advlock import ConfigError, Locks, _schema, _schema_sql
from advlock._once import _plan, _sql
from advlock._plan import Step

from .databases import connect, fresh_database, plain_role
from .helpers import one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .helpers import Admin

# What runs leaves a trace that no rollback takes away.
TRAP = """
CREATE SCHEMA trap;
CREATE SEQUENCE trap.sprung;
CREATE FUNCTION trap.spring() RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_catalog.nextval('trap.sprung'); RETURN true; END $$;
GRANT CREATE, USAGE ON SCHEMA trap TO PUBLIC;
GRANT ALL ON SEQUENCE trap.sprung TO PUBLIC;
"""
TRIGGER = """
CREATE FUNCTION trap.run() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM trap.spring(); RETURN NEW; END $$;
CREATE TRIGGER planted BEFORE INSERT OR UPDATE ON advlock.{} EXECUTE FUNCTION trap.run();
"""
MAKE = ";\n".join(sql for number in (1, 2, 3) for sql in _schema_sql.MIGRATIONS[number][:-1])
TABLE = _schema_sql.MIGRATIONS[3][0]
VIEW = """
ALTER TABLE advlock.once RENAME TO moved;
CREATE VIEW advlock.once AS SELECT * FROM advlock.moved WHERE trap.spring();
GRANT ALL ON advlock.once TO PUBLIC;
"""
POLICY = """
ALTER TABLE advlock.once ENABLE ROW LEVEL SECURITY;
CREATE POLICY planted ON advlock.once USING (trap.spring());
"""
ALL = "GRANT ALL ON SCHEMA advlock TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA advlock TO PUBLIC;"
OURS = f"CREATE SCHEMA advlock; GRANT ALL ON SCHEMA advlock TO PUBLIC; SET ROLE {{0}}; {TABLE};"

# {0} is the hostile role, as whom each goes on.
PLANTS = {
    "a table with a trigger": f"SET ROLE {{0}}; {MAKE}; {ALL}" + TRIGGER.format("once"),
    "a view": f"SET ROLE {{0}}; {MAKE}; {ALL}" + VIEW,
    "a policy": f"SET ROLE {{0}}; {MAKE}; {ALL}" + POLICY,
    "a table in a schema of ours": f"{OURS} GRANT ALL ON advlock.once TO PUBLIC;"
    + TRIGGER.format("once"),
    "a table from before ours": f"{OURS} DROP TABLE advlock.once;"
    "CREATE TABLE advlock.migration (version int, applied_at timestamptz DEFAULT now());"
    "GRANT ALL ON advlock.migration TO PUBLIC;" + TRIGGER.format("migration"),
    "a schema, empty": "SET ROLE {0}; CREATE SCHEMA advlock; GRANT ALL ON SCHEMA advlock TO PUBLIC",
    "a trigger on ours": f"{MAKE}; {ALL} SET ROLE {{0}};" + TRIGGER.format("once"),
}


@pytest.fixture
def place(server: Server) -> Iterator[tuple[str, str, Admin]]:
    """A database, a role that may create schemas in it, and a superuser's session."""
    with fresh_database(server) as dsn, plain_role(dsn) as (role, _), connect(dsn) as admin:
        admin.execute(TRAP)
        admin.execute(f"GRANT CREATE ON DATABASE {admin.info.dbname} TO {role}".encode())
        yield dsn, role, admin
        admin.execute("DROP SCHEMA IF EXISTS advlock, trap CASCADE")


def plant(admin: Admin, sql: str) -> None:
    """Begin anew, and plant."""
    admin.execute("RESET ROLE; DROP SCHEMA IF EXISTS advlock CASCADE; DROP SCHEMA trap CASCADE")
    admin.execute(TRAP)
    admin.execute(sql.encode())
    admin.execute("RESET ROLE")


def sprung(admin: Admin) -> bool:
    """Whether anything of the trap ran."""
    return bool(one(admin, "SELECT is_called FROM trap.sprung"))


class Victim:
    """Who does things once, with a client or in a transaction; each name is new."""

    def __init__(self, dsn: str) -> None:
        self._stack = contextlib.ExitStack()
        self.locks = self._stack.enter_context(Locks(dsn))
        self.conn = self._stack.enter_context(psycopg.connect(dsn))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def does(self, name: str = "x", *, here: bool = False) -> bool:
        """Do something once; whether it was to be done."""
        connection = self.conn if here else None
        with self.conn.transaction(), self.locks.once(name, connection=connection) as todo:
            return bool(todo)

    def lists(self) -> Any:
        """What the command's `--list` asks."""
        session = self.locks._sessions.shared
        assert session
        return self.locks._beside(session, _plan.records())


def uses(dsn: str, *, here: bool = False) -> bool:
    """Do something once; whether it was to be done."""
    with Victim(dsn) as victim:
        return victim.does(here=here)


def test_nothing_planted_runs(place: tuple[str, str, Admin]) -> None:
    """Not of its schema, table, view, policy or trigger; neither for a superuser nor for others."""
    dsn, role, admin = place
    with plain_role(dsn) as (_, theirs):
        for kind, sql in PLANTS.items():
            for whose in (dsn, theirs):
                plant(admin, sql.format(role))
                with Victim(whose) as victim:
                    for here in (False, True):
                        with pytest.raises(ConfigError, match=f"belongs to {role}"):
                            victim.does(here=here)
                    if kind != "a trigger on ours":
                        with pytest.raises(ConfigError, match=f"belongs to {role}"):
                            victim.lists()
                assert not sprung(admin), (kind, whose)


def test_the_trap_works(place: tuple[str, str, Admin]) -> None:
    """The control: without the two questions it springs; and a superuser's own trigger runs."""
    dsn, role, admin = place
    for kind in ("a table with a trigger", "a trigger on ours"):
        for here in (False, True):
            plant(admin, PLANTS[kind].format(role))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_schema_sql, "TRUSTED", "SELECT")
                patch.setattr(_plan, "_TRUSTED", Step("SELECT"))
                patch.setattr(_sql, "TRIGGERS", "SELECT")
                assert uses(dsn, here=here)
            assert sprung(admin)
    plant(admin, PLANTS["a trigger on ours"].format("postgres"))
    assert uses(dsn)
    assert sprung(admin)


def test_the_owner_of_the_database_is_trusted_by_all_but_superusers(
    place: tuple[str, str, Admin],
) -> None:
    """Whoever connects trusts himself, superusers, and him; a superuser does not trust him."""
    dsn, role, admin = place
    admin.execute(f"ALTER DATABASE {admin.info.dbname} OWNER TO {role}".encode())
    with plain_role(dsn) as (_, theirs):
        plant(admin, f"SET ROLE {role}; {MAKE}; {ALL}")
        assert uses(theirs)
        assert not uses(theirs, here=True)
        with pytest.raises(ConfigError, match="hand it over: ALTER SCHEMA"):
            uses(dsn)
        assert not uses(make_conninfo(dsn, options=f"-c role={role}"))
        admin.execute("ALTER SCHEMA advlock OWNER TO CURRENT_USER")
        for (table,) in admin.execute("SELECT tablename FROM pg_tables WHERE schemaname='advlock'"):
            admin.execute(f"ALTER TABLE advlock.{table} OWNER TO CURRENT_USER".encode())
        assert not uses(dsn)
    with connect(dsn) as session:
        session.execute(f"ALTER DATABASE {session.info.dbname} OWNER TO CURRENT_USER".encode())


def test_no_trigger_can_come_between(
    place: tuple[str, str, Admin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where triggers are asked for, the table is locked against those who make some."""
    dsn, _, admin = place
    monkeypatch.setattr(
        _sql,
        "TRIGGERS",
        "SELECT 1 / count(*) FROM pg_catalog.pg_locks WHERE mode = 'RowExclusiveLock'"
        " AND pid = pg_catalog.pg_backend_pid() AND relation = 'advlock.once'::regclass",
    )
    assert uses(dsn)
    admin.execute("DELETE FROM advlock.once")
    assert uses(dsn, here=True)
    monkeypatch.setattr(_sql, "STILL", "SELECT")
    monkeypatch.setattr(_sql, "STILL_HERE", "SELECT")
    admin.execute("DELETE FROM advlock.once")
    for here in (False, True):
        with pytest.raises(Exception, match="division by zero"):
            uses(dsn, here=here)


def test_a_database_without_plpgsql_is_no_obstacle(place: tuple[str, str, Admin]) -> None:
    """There, or without a right to it, nothing is locked before; the rest is asked."""
    dsn, role, admin = place
    admin.execute(_schema.text(role).encode())
    with plain_role(dsn) as (other, theirs):
        admin.execute(_schema.text(other).encode())
        admin.execute("REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
        assert uses(theirs)
        admin.execute("DELETE FROM advlock.once; DROP SCHEMA trap CASCADE; DROP EXTENSION plpgsql")
        assert uses(theirs)


def test_no_operator_of_somebody_s_search_path_runs(place: tuple[str, str, Admin]) -> None:
    """In a transaction of the caller's, who takes the search_path that he is given."""
    dsn, _, admin = place
    assert uses(dsn)
    for kind in ("text", "uuid", "name", "oid"):
        admin.execute(
            f"CREATE FUNCTION trap.op({kind}, {kind}) RETURNS bool LANGUAGE sql AS"
            f" $$ SELECT trap.spring() $$;"
            f"CREATE OPERATOR trap.= (LEFTARG = {kind}, RIGHTARG = {kind},"
            " FUNCTION = trap.op)".encode()
        )
    admin.execute("CREATE DOMAIN trap.int8 AS bigint CHECK (trap.spring())")
    admin.execute("CREATE DOMAIN trap.uuid AS uuid CHECK (trap.spring())")
    evil = make_conninfo(dsn, options="-c search_path=trap,pg_catalog")
    with psycopg.connect(evil) as conn:
        name, run = "y", None
        for statement, given in (
            (_schema_sql.TRUSTED, ()),
            (_sql.STILL_HERE, ()),
            (_sql.TRIGGERS, ()),
            (_sql.LOOK, (name,)),
            (_sql.HELD, (1,)),
            (_sql.CLAIM, (name, 1, 1, "00000000-0000-0000-0000-000000000000", "h", 1, 5.0, run)),
            (_sql.MARK, (name, "00000000-0000-0000-0000-000000000000")),
            (_sql.ENDURE, ()),
        ):
            psycopg.RawCursor(conn).execute(statement, given)
            assert not sprung(admin), statement
        assert conn.execute("SELECT 'a'::text = 'b'::text").fetchone() == (True,)
    assert sprung(admin)
