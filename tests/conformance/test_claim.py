"""`claim`: rows locked in the caller's own transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer_before
from clusters import hot_standby, private_cluster
from psycopg import sql
from psycopg.rows import args_row, class_row, dict_row, scalar_row, tuple_row
from routes import direct_only

from advlock import ConfigError, UnsafeServer, _claim_sql, claim

from .helpers import is_waiting, one, turns_red
from .test_xact import Caller, Crowd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .helpers import Admin
    from .worlds import World

STATEMENT = direct_only("the statement, and what the server says to it, is the same on all routes")
GATE = 4711  # an advisory lock: a claim that asks for it stands still between snapshot and row lock
AT_THE_GATE = f"(SELECT pg_advisory_xact_lock_shared({GATE})) IS NOT NULL"
# What a name may be made of, and what must not become SQL.
ODD = 'odd "table"; %s %% Ünïcode-- \\'


@dataclass
class Job:
    """A row of the table."""

    id: int
    state: str
    rank: int | None


@pytest.fixture
def jobs(admin: Admin, name: str) -> Iterator[str]:
    """A table of five jobs; its name."""
    table = sql.Identifier(name)
    admin.execute(sql.SQL("CREATE TABLE {} (id int, state text, rank int)").format(table))
    rows = [(1, "new", 3), (2, "new", None), (3, "new", 9), (4, "done", 9), (5, "new", 3)]
    for row in rows:
        admin.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(table), row)
    yield name
    admin.execute(sql.SQL("DROP TABLE {} CASCADE").format(table))


async def ids(caller: Caller, table: Any, **kwargs: Any) -> list[int]:
    """Claim, and tell which rows."""
    rows = await caller.do(claim, caller.conn, table, **kwargs)
    return [row["id"] for row in rows]


async def check_nobody_gets_the_same(world: World, dsn: str, jobs: str) -> None:
    """Let three claim what there is, each in a transaction of its own."""
    async with Crowd(world, dsn) as crowd:
        first, second, third = [await crowd.one() for _ in range(3)]
        new = {"where": "state = 'new'", "order_by": "id"}
        assert await ids(first, jobs, **new) == [1]
        assert await ids(second, jobs, **new, limit=2) == [2, 3]
        assert await ids(third, jobs, **new, limit=2) == [5]
        assert await ids(third, jobs, where="state = 'new' AND id < 4") == []


async def test_nobody_gets_a_row_that_another_has(world: World, dsn: str, jobs: str) -> None:
    """Each claim skips what others have, and returns fewer than it may rather than wait."""
    await check_nobody_gets_the_same(world, dsn, jobs)


@STATEMENT
async def test_without_the_row_lock_that_turns_red(
    world: World, dsn: str, jobs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same statement without FOR UPDATE."""
    monkeypatch.setattr(_claim_sql, "CLAIM", _claim_sql.CLAIM.replace("FOR UPDATE SKIP LOCKED", ""))
    await turns_red(check_nobody_gets_the_same(world, dsn, jobs))


@pytest.mark.parametrize("how", ["commit", "rollback"])
async def test_a_claim_ends_with_the_transaction(
    world: World, dsn: str, jobs: str, how: str
) -> None:
    """COMMIT and ROLLBACK give it back; what was changed is changed after the first only."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(), await crowd.one()
        assert await ids(mine, jobs, where="id = 1") == [1]
        await mine.sql(f"""UPDATE "{jobs}" SET state = 'done' WHERE id = 1""")
        assert await ids(other, jobs, where="id = 1") == []
        await mine.end(how)
        left = await ids(other, jobs, where="state = 'new'", order_by="id", limit=9)
        assert left == ([2, 3, 5] if how == "commit" else [1, 2, 3, 5])


async def test_a_killed_session_gives_its_rows_back(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """Nothing is left to clean up."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(), await crowd.one()
        assert len(await ids(mine, jobs, limit=9)) == 5
        pid = await mine.sql("SELECT pg_backend_pid()")
        assert one(rival, "SELECT pg_terminate_backend(%s, 5000)", pid)
        assert len(await ids(other, jobs, limit=9)) == 5


# -- what others do meanwhile ----------------------------------------------------------------------


async def claimed_at_the_gate(
    world: World, dsn: str, jobs: str, rival: Admin, change: str, **asked: Any
) -> list[int]:
    """What a claim returns when `change` is committed between its snapshot and its row locks."""
    rival.execute("SELECT pg_advisory_lock(%s)", [GATE])
    async with Crowd(world, dsn) as crowd:
        mine, isolation = await crowd.one(), asked.pop("isolation", "READ COMMITTED")
        await mine.sql(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        asked["where"] = f"{asked['where']} AND {AT_THE_GATE}"
        pending = asyncio.create_task(ids(mine, jobs, **asked))
        try:
            await is_waiting(rival, GATE)
            rival.execute(change)
        finally:
            rival.execute("SELECT pg_advisory_unlock(%s)", [GATE])
        return await pending


async def check_changed_rows_are_looked_at_again(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """Finish two of four while a claim has seen four new ones."""
    change = f"""UPDATE "{jobs}" SET state = 'done' WHERE id IN (1, 3)"""
    asked = {"where": "state = 'new'", "order_by": "id", "limit": 2}
    assert await claimed_at_the_gate(world, dsn, jobs, rival, change, **asked) == [2, 5]


async def test_a_row_that_was_done_meanwhile_is_not_claimed(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """What comes back satisfies `where`, and does not count against `limit` if it did not."""
    await check_changed_rows_are_looked_at_again(world, dsn, jobs, rival)


@STATEMENT
async def test_without_the_second_look_that_turns_red(
    world: World, dsn: str, jobs: str, rival: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: who only reads, sees what was."""
    monkeypatch.setattr(_claim_sql, "CLAIM", _claim_sql.CLAIM.replace("FOR UPDATE SKIP LOCKED", ""))
    await turns_red(check_changed_rows_are_looked_at_again(world, dsn, jobs, rival))


@STATEMENT
async def test_a_row_that_was_deleted_meanwhile_is_not_claimed(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """The same for those whose work ends with DELETE."""
    change = f'DELETE FROM "{jobs}" WHERE id = 1'
    asked = {"where": "state = 'new'", "order_by": "id"}
    assert await claimed_at_the_gate(world, dsn, jobs, rival, change, **asked) == [2]


@STATEMENT
async def test_the_order_is_that_of_the_first_look(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """A limit of the server's: rows come as they were sorted, with the values of now."""
    change = f'UPDATE "{jobs}" SET rank = 100 WHERE id = 5'
    asked = {"where": "state = 'new'", "order_by": "rank DESC NULLS LAST, id", "limit": 3}
    assert await claimed_at_the_gate(world, dsn, jobs, rival, change, **asked) == [3, 1, 5]


@STATEMENT
async def test_what_other_tables_say_is_not_looked_at_again(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """A limit of the server's: a row that is done in another table only is claimed again."""
    rival.execute(f'CREATE TABLE "{jobs}-log" (id int)')
    change = f'INSERT INTO "{jobs}-log" VALUES (1)'
    where = f'id = 1 AND NOT EXISTS (SELECT FROM "{jobs}-log" AS log WHERE log.id = 1)'
    try:
        assert await claimed_at_the_gate(world, dsn, jobs, rival, change, where=where) == [1]
    finally:
        rival.execute(f'DROP TABLE "{jobs}-log"')


@STATEMENT
async def test_repeatable_read_fails_instead(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """Such a transaction cannot see the row as it is, so the server ends it."""
    change = f"""UPDATE "{jobs}" SET state = 'done' WHERE id = 1"""
    asked = {"where": "id = 1", "isolation": "REPEATABLE READ"}
    with pytest.raises(psycopg.errors.SerializationFailure):
        await claimed_at_the_gate(world, dsn, jobs, rival, change, **asked)


@STATEMENT
async def test_serializable_fails_also_where_the_rows_are_others(
    world: World, dsn: str, jobs: str
) -> None:
    """A limit of the server's: each has looked at rows that the other changed, to skip them."""
    level = psycopg.IsolationLevel.SERIALIZABLE
    async with Crowd(world, dsn) as crowd:
        workers = [await crowd.one() for _ in range(2)]
        for number, worker in enumerate(workers, 1):
            await worker.sql(f"SET TRANSACTION ISOLATION LEVEL {level.name}")
            assert await ids(worker, jobs, where="state = 'new'", order_by="id") == [number]
        for number, worker in enumerate(workers, 1):
            await worker.sql(f"""UPDATE "{jobs}" SET state = 'done' WHERE id = {number}""")

        async def end() -> None:
            for worker in workers:
                await worker.end()

        with pytest.raises(psycopg.errors.SerializationFailure):
            await end()


@STATEMENT
async def test_a_savepoint_gives_back_what_was_claimed_after_it(
    world: World, dsn: str, jobs: str
) -> None:
    """Also when the transaction goes on."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(), await crowd.one()
        assert await ids(mine, jobs, where="id = 1") == [1]
        await mine.sql("SAVEPOINT here")
        assert await ids(mine, jobs, where="id = 2") == [2]
        await mine.sql("ROLLBACK TO SAVEPOINT here")
        assert await ids(other, jobs, where="id < 3", limit=9) == [2]


@STATEMENT
async def test_who_refers_to_a_claimed_row_waits(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """A foreign key: the row may be deleted, so its key is not there for sure."""
    log = f"{jobs}-log"
    rival.execute(f'ALTER TABLE "{jobs}" ADD PRIMARY KEY (id)')
    rival.execute(f'CREATE TABLE "{log}" (job int REFERENCES "{jobs}")')
    try:
        async with Crowd(world, dsn) as crowd:
            mine = await crowd.one()
            assert await ids(mine, jobs, where="id = 1") == [1]
            rival.execute(f'INSERT INTO "{log}" VALUES (2)')
            rival.execute("SET lock_timeout = '10ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                rival.execute(f'INSERT INTO "{log}" VALUES (1)')
            await mine.sql(f'INSERT INTO "{log}" VALUES (1)')  # its own transaction may
    finally:
        rival.execute("RESET lock_timeout")
        rival.execute(f'DROP TABLE "{log}"')


@STATEMENT
async def test_a_row_that_moved_to_another_partition_fails(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """A limit of the server's: it cannot follow the row; claims of others go on."""
    parts = f"{jobs}-parts"
    rival.execute(f'CREATE TABLE "{parts}" (id int, state text) PARTITION BY LIST (state)')
    for state in ("new", "done"):
        rival.execute(
            f"""CREATE TABLE "{parts}-{state}" PARTITION OF "{parts}" FOR VALUES IN ('{state}')"""
        )
    rival.execute(f"""INSERT INTO "{parts}" VALUES (1, 'new'), (2, 'new')""")
    change = f"""UPDATE "{parts}" SET state = 'done' WHERE id = 1"""
    try:
        with pytest.raises(psycopg.errors.SerializationFailure):
            await claimed_at_the_gate(world, dsn, parts, rival, change, where="state = 'new'")
        async with Crowd(world, dsn) as crowd:
            assert await ids(await crowd.one(), parts, where="state = 'new'", limit=9) == [2]
    finally:
        rival.execute(f'DROP TABLE "{parts}"')


# -- what may be asked -----------------------------------------------------------------------------


@STATEMENT
async def test_rows_are_dicts_or_what_the_factory_makes(world: World, dsn: str, jobs: str) -> None:
    """Dicts whatever the connection makes, else what was asked for."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one(row_factory=scalar_row)
        asked = {"where": "id = 2"}
        (row,) = await mine.do(claim, mine.conn, jobs, **asked)
        assert row == {"id": 2, "state": "new", "rank": None}
        expected = {
            tuple_row: (2, "new", None),
            scalar_row: 2,
            class_row(Job): Job(2, "new", None),
            args_row(lambda *row: row[::-1]): (None, "new", 2),
        }
        for factory, made in expected.items():
            assert await mine.do(claim, mine.conn, jobs, **asked, row_factory=factory) == [made]


@STATEMENT
@pytest.mark.parametrize(
    ("where", "params", "expected"),
    [
        (None, (), [1, 2, 3, 4, 5]),
        ("state LIKE 'd%'", (), [4]),
        ("state LIKE 'd%%' OR id = %s", [1], [1, 4]),
        ("rank IS NOT DISTINCT FROM %s", [None], [2]),
        ("rank = %s", [None], []),
        ("id = ANY(%(some)s) AND state = %(state)s", {"some": [3, 4], "state": "new"}, [3]),
        ("id = 1 OR id = 2", (), [1, 2]),
        ("id = 3 -- one of them", (), [3]),
        ("state = %s", ["'; DROP TABLE x --"], []),
    ],
)
async def test_where_and_its_values(
    world: World, dsn: str, jobs: str, where: Any, params: Any, expected: list[int]
) -> None:
    """As in `conn.execute`: `%` is itself without values, and `%%` with some."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        asked = {"where": where, "params": params, "order_by": "id", "limit": 9}
        assert await ids(mine, jobs, **asked) == expected


@STATEMENT
@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("id", [1, 2, 3, 5]),
        ("id desc", [5, 3, 2, 1]),
        ("rank, id", [1, 5, 3, 2]),
        ("rank DESC  NULLS\nLAST,id DESC", [3, 5, 1, 2]),
        (["rank nulls first", "id"], [2, 1, 5, 3]),
        (("rank ASC", "id DESC"), [5, 1, 3, 2]),
    ],
)
async def test_the_order(
    world: World, dsn: str, jobs: str, order_by: Any, expected: list[int]
) -> None:
    """A column or several, each in its direction."""
    async with Crowd(world, dsn) as crowd:
        asked = {"where": "state = 'new'", "order_by": order_by, "limit": 9}
        assert await ids(await crowd.one(), jobs, **asked) == expected


@STATEMENT
@pytest.mark.parametrize(
    "order_by", ["random()", "1; DROP TABLE x", 'id" DESC; --', "id DESC DESC", ["id, rank"]]
)
async def test_an_order_is_made_of_columns_and_nothing_else(
    world: World, dsn: str, jobs: str, order_by: Any
) -> None:
    """Whatever it says is quoted, so the server finds no such column."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await ids(mine, jobs, order_by=order_by)


@STATEMENT
async def test_a_long_order_takes_no_longer_to_read(world: World, dsn: str, jobs: str) -> None:
    """It may come from anywhere: in the square of its length this one took minutes."""
    async with Crowd(world, dsn) as crowd:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await ids(await crowd.one(), jobs, order_by=f"id{' ' * 100_000}x DESC")


@STATEMENT
@pytest.mark.parametrize(
    ("where", "params"),
    [("true); COMMIT; SELECT (true", ()), ("id > %s); COMMIT; SELECT (true", [0])],
)
async def test_it_is_one_statement(
    world: World, dsn: str, jobs: str, where: Any, params: Any
) -> None:
    """Whatever is smuggled into `where`, past the type checker, nothing comes behind it."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
            await ids(mine, jobs, where=where, params=params)


# Better matches for what the statement asks, and what stands before pg_catalog.
_PLANTED = """
CREATE SCHEMA {evil};
GRANT USAGE ON SCHEMA {evil} TO public;
SET LOCAL search_path = {evil};
CREATE FUNCTION planted(a oid, b anyelement) RETURNS bool LANGUAGE plpgsql
    AS $$BEGIN RAISE 'planted'; END$$;
CREATE FUNCTION planted(a "char", b "char") RETURNS bool LANGUAGE plpgsql
    AS $$BEGIN RAISE 'planted'; END$$;
CREATE FUNCTION planted_too(a oid, b regclass) RETURNS bool LANGUAGE plpgsql
    AS $$BEGIN RAISE 'planted'; END$$;
CREATE FUNCTION concat(a text, b "char") RETURNS text LANGUAGE plpgsql
    AS $$BEGIN RAISE 'planted'; END$$;
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = planted_too);
CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = anyelement, FUNCTION = planted);
CREATE OPERATOR = (LEFTARG = "char", RIGHTARG = "char", FUNCTION = planted);
CREATE VIEW pg_class AS SELECT 0::oid AS oid, 'r'::"char" AS relkind;
CREATE DOMAIN bool AS pg_catalog.bool CHECK (NOT VALUE);
CREATE DOMAIN oid AS pg_catalog.oid CHECK (VALUE = 0);
"""


@pytest.fixture
def evil(jobs: str, rival: Admin) -> Iterator[str]:
    """A schema with somebody else's operators, functions and types, quoted."""
    schema = sql.Identifier(f"{jobs}-evil").as_string(rival)
    with rival.transaction():
        rival.execute(_PLANTED.replace("{evil}", schema))
    yield schema
    rival.execute(f"DROP SCHEMA {schema} CASCADE")


async def check_nothing_planted_runs(
    world: World, dsn: str, jobs: str, evil: str, path: str
) -> None:
    """Claim from a table and from a view, with somebody else's schema in the search path."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.sql(f"SET LOCAL search_path = {path.format(evil=evil)}")
        assert len(await ids(mine, f"public.{jobs}", limit=9)) == 5
        with pytest.raises(ConfigError, match="this is a view"):
            await ids(mine, f"public.{jobs}-view")


@STATEMENT
@pytest.mark.parametrize("path", ["public, {evil}", "{evil}, public, pg_catalog"])
async def test_nothing_planted_runs(
    world: World, dsn: str, jobs: str, evil: str, rival: Admin, path: str
) -> None:
    """Nobody else's operator is called, be it the better match or the first in the path."""
    rival.execute(_VIEWS["union"].format(view=f'"{jobs}-view"', jobs=f'"{jobs}"'))
    await check_nothing_planted_runs(world, dsn, jobs, evil, path)


@STATEMENT
async def test_with_plain_operators_that_turns_red(
    world: World, dsn: str, jobs: str, evil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: `oid = regclass` finds the one that was planted, also behind pg_catalog."""
    plain = _claim_sql.CLAIM.replace("OPERATOR(pg_catalog.=)", "=").replace("::pg_catalog.oid", "")
    monkeypatch.setattr(_claim_sql, "CLAIM", plain)
    with pytest.raises(psycopg.errors.RaiseException, match="planted"):
        await check_nothing_planted_runs(world, dsn, jobs, evil, "public, {evil}")


@pytest.fixture
def odd(admin: Admin, name: str) -> Iterator[tuple[str, str, str]]:
    """A schema, a table and a column of odd names."""
    names = (f"{name} 100%.x", ODD, f"{ODD}, ")
    parts = [sql.Identifier(part) for part in names]
    admin.execute(sql.SQL("CREATE SCHEMA {}").format(parts[0]))
    admin.execute(sql.SQL("CREATE TABLE {}.{} (id int, {} int)").format(*parts))
    admin.execute(sql.SQL("INSERT INTO {}.{} VALUES (1, 5), (2, 7)").format(*parts))
    yield names
    admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(parts[0]))


@STATEMENT
async def test_names_are_quoted(
    world: World, dsn: str, odd: tuple[str, str, str], rival: Admin, jobs: str
) -> None:
    """With quotes, percent signs and dots in them, with values and without."""
    schema, table, column = odd
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        asked = {"order_by": [f"{column.strip()} DESC"]}
        rival.execute(
            sql.SQL("ALTER TABLE {} RENAME {} TO {}").format(
                sql.Identifier(schema, table),
                sql.Identifier(column),
                sql.Identifier(column.strip()),
            )
        )
        assert await ids(mine, (schema, table), **asked) == [2]
        assert await ids(mine, (schema, table), **asked, where="id < %s", params=[9]) == [2]
        assert await ids(mine, sql.Identifier(schema, table), where="id = 1") == [1]
        assert await ids(mine, f"public.{jobs}", where="id = 1") == [1]
        assert await ids(mine, sql.Identifier(jobs), where="id = 1") == [1]


@STATEMENT
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"limit": 0}, "limit is a number of rows"),
        ({"limit": True}, "limit is a number of rows"),
        ({"limit": 1.5}, "limit is a number of rows"),
        ({"limit": None}, "limit is a number of rows"),
        ({"limit": 2**63}, "limit is a number of rows"),
        ({"where": " "}, "where is empty"),
        ({"where": sql.SQL("true")}, "where is a literal string"),
        ({"where": b"true"}, "where is a literal string"),
        ({"order_by": ""}, "order_by is a column"),
        ({"order_by": "id,"}, "order_by is a column"),
        ({"order_by": []}, "order_by is a column"),
        ({"order_by": [3]}, "order_by is a column"),
        ({"order_by": "a\0"}, "order_by is a column"),
        ({"table": ""}, "table is a name"),
        ({"table": "app."}, "table is a name"),
        ({"table": ()}, "table is a name"),
        ({"table": 42}, "table is a name"),
    ],
)
async def test_an_argument_that_cannot_be_right_is_refused(
    world: World, dsn: str, asked: dict[str, Any], words: str
) -> None:
    """Before anything is sent, and with what to write instead."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        with pytest.raises(ConfigError, match=words):
            await ids(mine, **({"table": "job"} | asked))
        assert mine.conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


# -- where it would not hold -----------------------------------------------------------------------


async def test_in_autocommit_it_says_that_a_transaction_is_needed(
    world: World, dsn: str, jobs: str
) -> None:
    """Instead of locks that are gone at once; inside a transaction it works."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(autocommit=True), await crowd.one()
        with pytest.raises(ConfigError, match=r"with conn\.transaction\(\)"):
            await ids(mine, jobs)
        await mine.sql("BEGIN")
        assert len(await ids(mine, jobs, limit=9)) == 5
        assert await ids(other, jobs) == []
        await mine.sql("COMMIT")
        assert len(await ids(other, jobs, limit=9)) == 5


def test_in_a_pipeline(dsn: str, jobs: str) -> None:
    """It works where a transaction is known to be there, and else says what to do."""
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn) as other:
        with conn.pipeline() as pipeline:
            conn.execute("BEGIN")
            with pytest.raises(ConfigError, match=r"pipeline\.sync\(\)"):
                claim(conn, jobs)
            pipeline.sync()
            assert len(claim(conn, jobs, limit=9)) == 5
            assert claim(other, jobs) == []
            conn.execute("ROLLBACK")
        with conn.pipeline(), conn.transaction():
            assert len(claim(conn, jobs, limit=9)) == 5
        with conn.pipeline(), pytest.raises(ConfigError, match=r"conn\.transaction\(\)"):
            claim(conn, jobs)
    with psycopg.connect(dsn) as conn, conn.pipeline():
        assert len(claim(conn, jobs, limit=9)) == 5


async def test_in_a_pipeline_in_which_the_transaction_has_just_ended(
    world: World, dsn: str, jobs: str
) -> None:
    """By a COMMIT of the caller's own, whose answer is not there yet: a new one begins."""
    async with Crowd(world, dsn) as crowd:
        mine, other = await crowd.one(), await crowd.one()

        def both() -> list[Any]:
            with mine.conn.pipeline() as pipeline:
                mine.conn.execute("SELECT 1")
                mine.conn.execute("COMMIT")
                rows: list[Any] = claim(mine.conn, jobs, limit=9)
                pipeline.sync()
            return rows

        async def aboth() -> list[Any]:
            async with mine.conn.pipeline() as pipeline:
                await mine.conn.execute("SELECT 1")
                await mine.conn.execute("COMMIT")
                rows: list[Any] = await claim(mine.conn, jobs, limit=9)
                await pipeline.sync()
            return rows

        assert len(await mine.do(both if world.is_sync else aboth)) == 5
        assert await ids(other, jobs) == []


_VIEWS = {
    "simple": "CREATE VIEW {view} AS SELECT * FROM {jobs}",
    "union": "CREATE VIEW {view} AS SELECT * FROM {jobs} UNION ALL SELECT * FROM {jobs}",
    "grouped": "CREATE VIEW {view} AS SELECT id, count(*) FROM {jobs} GROUP BY id",
    "materialized": "CREATE MATERIALIZED VIEW {view} AS SELECT * FROM {jobs}",
    "sequence": "CREATE SEQUENCE {view} OWNED BY {jobs}.id",
}


@STATEMENT
@pytest.mark.parametrize("kind", _VIEWS)
async def test_what_has_no_rows_to_lock_is_refused(
    world: World, dsn: str, jobs: str, rival: Admin, kind: str
) -> None:
    """Before a row comes back that may not be locked."""
    view = f"{jobs}-view"
    rival.execute(_VIEWS[kind].format(view=f'"{view}"', jobs=f'"{jobs}"'))
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        with pytest.raises(ConfigError, match="claimed from a table"):
            await ids(mine, view)


@STATEMENT
def test_a_view_with_union_locks_nothing(rival: Admin, dsn: str, jobs: str) -> None:
    """What the server does there, without a word, is why views are refused."""
    rival.execute(_VIEWS["union"].format(view=f'"{jobs}-view"', jobs=f'"{jobs}"'))
    statement = f'SELECT id FROM "{jobs}-view" FOR UPDATE SKIP LOCKED'
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        assert len(first.execute(statement).fetchall()) == 10
        assert len(second.execute(statement).fetchall()) == 10


@STATEMENT
async def test_a_foreign_table_is_refused(world: World, dsn: str, rival: Admin, jobs: str) -> None:
    """Of such a table the server returns rows without locking them."""
    for statement in (
        "CREATE EXTENSION file_fdw",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        f"""CREATE FOREIGN TABLE "{jobs}-far" (id int) SERVER files OPTIONS (program 'echo 1')""",
    ):
        rival.execute(statement)
    try:
        async with Crowd(world, dsn) as crowd:
            mine = await crowd.one()
            with pytest.raises(ConfigError, match="this is a foreign table"):
                await ids(mine, f"{jobs}-far")
            await mine.end("rollback")
            assert await mine.sql(f'SELECT id FROM "{jobs}-far" FOR UPDATE SKIP LOCKED') == 1
    finally:
        rival.execute("DROP EXTENSION file_fdw CASCADE")


@STATEMENT
async def test_other_errors_are_the_servers_own(world: World, dsn: str, jobs: str) -> None:
    """A table that is not there, a value of the wrong type, SQL that is wrong."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        for asked, error in (
            ({"table": "nowhere"}, psycopg.errors.UndefinedTable),
            ({"where": "state::int = 1"}, psycopg.errors.InvalidTextRepresentation),
            (
                {"where": "concat('advlock:', state)::bool"},
                psycopg.errors.InvalidTextRepresentation,
            ),
            ({"where": "generate_series(1, 2) = 1"}, psycopg.errors.FeatureNotSupported),
            ({"where": "true); DROP TABLE x"}, psycopg.errors.SyntaxError),
            ({"where": "id = %s", "params": []}, psycopg.errors.SyntaxError),
        ):
            with pytest.raises(error):
                await ids(mine, **({"table": jobs} | asked))
            await mine.end("rollback")


@STATEMENT
async def test_a_role_that_may_only_read_is_told_what_it_needs(
    world: World, dsn: str, jobs: str, rival: Admin
) -> None:
    """The server says "permission denied" to one who can see the rows."""
    role = f"reader-{jobs}"
    rival.execute(f'CREATE ROLE "{role}"')
    rival.execute(f'GRANT SELECT ON "{jobs}" TO "{role}"')
    try:
        async with Crowd(world, dsn) as crowd:
            mine = await crowd.one()
            await mine.sql(f'SET LOCAL ROLE "{role}"')
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                await ids(mine, jobs)
            assert "SELECT and UPDATE" in caught.value.__notes__[0]
    finally:
        rival.execute(f'DROP OWNED BY "{role}"')
        rival.execute(f'DROP ROLE "{role}"')


@STATEMENT
async def test_a_transaction_that_may_only_read_is_told_apart_from_a_replica(
    world: World, dsn: str, jobs: str
) -> None:
    """Both get the same words from the server."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one()
        await mine.sql("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            await ids(mine, jobs)
        assert "may write" in caught.value.__notes__[0]


@STATEMENT
def test_a_pooler_that_remembers_a_replica_is_not_believed(server: Server) -> None:
    """PgBouncer tells each client what the server was at first, also after a promotion."""
    with (
        private_cluster(server) as primary,
        hot_standby(primary) as standby,
        bouncer_before(standby.dsn(), "transaction") as pooler,
    ):
        with psycopg.connect(pooler.dsn()) as conn, pytest.raises(UnsafeServer, match="replica"):
            claim(conn, "pg_class")
        with psycopg.connect(standby.dsn(), autocommit=True) as admin:
            assert one(admin, "SELECT pg_promote()")
        with psycopg.connect(pooler.dsn()) as conn:
            assert conn.info.parameter_status("in_hot_standby") == "on"
            assert len(claim(conn, "pg_class")) == 1


async def test_a_new_column_is_no_trouble(world: World, dsn: str, jobs: str, rival: Admin) -> None:
    """Nothing is prepared, however often it is asked: that would fail after a migration."""
    async with Crowd(world, dsn) as crowd:
        mine = await crowd.one(prepare_threshold=0)
        for _ in range(3):
            assert await ids(mine, jobs, where="id = %s", params=[1]) == [1]
            await mine.end()
        rival.execute(f'ALTER TABLE "{jobs}" ADD COLUMN extra int DEFAULT 7')
        (row,) = await mine.do(claim, mine.conn, jobs, where="id = %s", params=[1])
        assert row["extra"] == 7


async def test_the_connections_own_cursors_do_not_matter(world: World, dsn: str, jobs: str) -> None:
    """Another style of parameters: it brings cursors of its own."""
    async with Crowd(world, dsn) as crowd:
        raw = psycopg.RawCursor if world.is_sync else psycopg.AsyncRawCursor
        mine = await crowd.one(row_factory=dict_row, cursor_factory=raw)
        assert await ids(mine, jobs, where="id = %s", params=[3]) == [3]


@STATEMENT
async def test_only_psycopg_connections_are_taken(world: World) -> None:
    """Anything else is refused by its name."""
    assert world
    with pytest.raises(ConfigError, match=r"psycopg connection.*not builtins\.object"):
        claim(object(), "job")  # type: ignore[call-overload]
