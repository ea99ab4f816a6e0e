"""A schema that somebody planted: whoever looks may be a superuser, and runs nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import make_conninfo

from advlock import Key

from .seeing import make_tables, record, role, tree_of, window_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    from .seeing import Scene

KEY = Key.of("planted")

# What runs leaves a trace that no rollback takes away, from a function of any volatility.
TRAP = """
DROP SCHEMA IF EXISTS trap CASCADE;
CREATE SCHEMA trap;
CREATE SEQUENCE trap.sprung;
CREATE FUNCTION trap.spring(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_catalog.nextval('trap.sprung'); RETURN $1; END $$;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
GRANT ALL ON SEQUENCE trap.sprung TO PUBLIC;
"""
# Each takes the place of a table with which nothing was wrong when it was looked at first.
PLANTS = {
    "a cast": """
        CREATE TYPE trap.mood AS ENUM ('planted');
        CREATE FUNCTION trap.tell(trap.mood) RETURNS json LANGUAGE sql AS
        $$ SELECT to_json(trap.spring($1::text)) $$;
        CREATE CAST (trap.mood AS json) WITH FUNCTION trap.tell(trap.mood);
        ALTER TABLE advlock.lock_name ALTER COLUMN name TYPE trap.mood USING name::trap.mood;
    """,
    "a view": """
        ALTER TABLE advlock.lock_name RENAME TO moved;
        CREATE VIEW advlock.lock_name AS
        SELECT key, trap.spring(name) AS name, trap.spring('hashtext') AS scheme, seed, seen_at
        FROM advlock.moved;
        GRANT SELECT ON advlock.lock_name TO PUBLIC;
    """,
    "a policy": """
        ALTER TABLE advlock.lock_name ENABLE ROW LEVEL SECURITY;
        CREATE POLICY trap ON advlock.lock_name
        USING (trap.spring('x') = 'x' AND trap.spring(name) = name);
    """,
}


@pytest.fixture
def trap(no_tables: Connection[Any]) -> Iterator[Connection[Any]]:
    """Our tables, with a name in them, and what springs a trap."""
    make_tables(no_tables)
    record(no_tables, KEY)
    no_tables.execute(TRAP)
    no_tables.execute("GRANT USAGE ON SCHEMA advlock TO PUBLIC")
    no_tables.execute("GRANT SELECT ON advlock.lock_name TO PUBLIC")
    yield no_tables
    no_tables.execute("DROP SCHEMA trap CASCADE")


def sprung(trap: Connection[Any]) -> bool:
    """Whether anything of the trap ran."""
    (row,) = trap.execute("SELECT is_called FROM trap.sprung").fetchall()
    return bool(row[0])


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_nothing_planted_runs_with_the_rights_of_who_looks(
    scene: Scene, trap: Connection[Any], plant: str
) -> None:
    """Neither at first sight nor where a table turns into a trap between two looks."""
    session = scene.connect()
    session.execute("SELECT pg_advisory_lock(%s)", (KEY.value,))
    with role(scene.dsn) as little, window_to(scene.dsn) as first, window_to(little) as second:
        for window in (first, second):
            assert tree_of(window.look(), KEY).name == "planted"
        trap.execute(plant)  # type: ignore[call-overload]
        with window_to(scene.dsn) as third, window_to(little) as fourth:
            for window in (first, second, third, fourth):
                for _ in range(2):
                    assert tree_of(window.look(), KEY).name is None
    assert not sprung(trap)


def test_operators_are_the_server_s(scene: Scene, trap: Connection[Any]) -> None:
    """The owner of a database says what its search_path is: the first statement is not misled."""
    trap.execute(
        "CREATE FUNCTION trap.differs(int, int) RETURNS bool LANGUAGE sql AS"
        " $$ SELECT trap.spring('x') = 'x' $$;"
        "CREATE OPERATOR trap.<> (LEFTARG = int, RIGHTARG = int, FUNCTION = trap.differs)"
    )
    dsn = make_conninfo(scene.dsn, options="-c search_path=trap,pg_catalog")
    with window_to(dsn) as window:
        window.look()
    assert not sprung(trap)


def test_rows_that_make_no_sense_hide_no_lock(scene: Scene, trap: Connection[Any]) -> None:
    """A tick at the end of time, or a key and a name of other types, name nothing."""
    session = scene.connect()
    session.execute("SELECT pg_advisory_lock(%s)", (KEY.value,))
    trap.execute(
        "INSERT INTO advlock.cron_run (job, scheduled_at, state, key)"
        " VALUES ('x', 'infinity', 'running', 1), ('x', '20000-01-01', 'running', 2)"
    )
    with window_to(scene.dsn) as window:
        assert tree_of(window.look(), KEY).name == "planted"
        trap.execute(
            "ALTER TABLE advlock.lock_name ALTER name TYPE int USING 5, ALTER seed TYPE text"
        )
        for _ in range(2):
            assert tree_of(window.look(), KEY).name is None
