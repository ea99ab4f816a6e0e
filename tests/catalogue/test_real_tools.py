"""Locks taken by the tools themselves are named while they are held.

A tool holds its lock for milliseconds. So the table that its migration changes is locked first: the
tool takes its own lock, then stands still, and can be looked at. pg-boss has no such table; it is
made to wait for its lock instead. Where there is no Node.js its tools are not tested; .ci/run makes
sure that there is one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pgqueuer.db import PsycopgDriver
from pgqueuer.queries import Queries
from psycopg import pq
from servers import locks_in_db
from waiting import eventually

from advlock._catalogue._catalogue import Catalogue
from catalogue import npm_tools
from catalogue.conftest import learn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from servers import LockRow

Shop = psycopg.Connection[Any]

MIGRATION = "ALTER TABLE orders ADD COLUMN paid boolean;\n"
# The key that must be seen, as the tool's source has it, and what it is called.
TOOLS = {
    "node-pg-migrate": (
        7241865325823964,
        "node-pg-migrate: migration (--lock-value changes it)",
    ),
    "kysely": (3853314791062309107, "Kysely: migration"),
    "postgres-migrations": (-8525285245963000605, "postgres-migrations: migration"),
}


@pytest.fixture(scope="session")
def modules() -> Path:
    """The directory in which Node.js finds the tools."""
    return npm_tools.install()


def environment(dsn: str, **more: str) -> dict[str, str]:
    """Our environment with one database, in libpq's own variables."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    options = pq.Conninfo.parse(dsn.encode())
    return env | {o.envvar.decode(): o.val.decode() for o in options if o.envvar and o.val} | more


@pytest.fixture
def orders(shop: Shop, fresh: str) -> Iterator[Shop]:
    """A session that keeps the table `orders` for itself until it commits."""
    shop.execute("CREATE TABLE orders (id bigint)")
    with psycopg.connect(fresh, application_name="test-orders") as keeper:
        keeper.execute("LOCK TABLE orders")
        yield keeper


def called(fresh: str, row: LockRow) -> list[tuple[str, bool]]:
    """What the catalogue says of it."""
    known = Catalogue(learn(fresh)).identify(row.classid, row.objid, row.objsubid)
    return [(str(one), one.certain) for one in known]


class Tool:
    """A process of a tool's, from its start to its end."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(argv, env=env, cwd=cwd, text=True, **pipes)

    def __enter__(self) -> Self:
        """Return it, running."""
        return self

    def __exit__(self, *_: object) -> None:
        """See to it that it is gone, whatever the test came to."""
        self.process.kill()
        self.process.communicate()

    def lock(self, shop: Shop, *, granted: bool = True) -> LockRow:
        """Wait for the one advisory lock that the tool holds, or waits for."""

        def look() -> LockRow | None:
            if self.process.poll() is not None:
                pytest.fail(f"it has ended: {self.process.communicate()}")
            rows = [row for row in locks_in_db(shop) if row.granted is granted]
            return rows[0] if len(rows) == 1 else None

        return eventually(look, within=30)

    def finish(self) -> str:
        """Let it come to its end; return what it printed."""
        printed, complaint = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, complaint
        return printed.strip()


if npm_tools.available():

    @pytest.mark.parametrize("name", TOOLS)
    def test_migrations_from_npm(
        name: str, fresh: str, shop: Shop, orders: Shop, modules: Path, tmp_path: Path
    ) -> None:
        """The lock that the tool holds while its migration waits for a table is named, and free."""
        key, text = TOOLS[name]
        migrations = tmp_path / "migrations"
        migrations.mkdir()
        (migrations / "1_paid.sql").write_text(MIGRATION)
        env = environment(fresh, NODE_PATH=str(modules), MIGRATIONS=str(migrations))
        with Tool(["node", str(npm_tools.HERE / f"{name}.cjs")], env, tmp_path) as tool:
            row = tool.lock(shop)
            eventually(lambda: _waits_for_orders(shop, row.pid), within=30)
            assert (row.classid << 32 | row.objid) == key & (1 << 64) - 1
            first, *others = called(fresh, row)
            assert first[0] == text
            # Another tool has copied that number of postgres-migrations'.
            assert [name.partition(":")[0] for name, _ in others] == (
                ["Supabase Storage"] if name == "postgres-migrations" else []
            )
            orders.commit()
            assert tool.finish()
        assert not locks_in_db(shop)
        shop.execute("SELECT paid FROM orders")

    def test_pg_boss(fresh: str, shop: Shop, modules: Path, tmp_path: Path) -> None:
        """The lock that pg-boss waits for when it makes its tables is named."""
        sha = "encode(sha224((current_database() || '.pgboss.pgboss')::bytea), 'hex')"
        query = f"SELECT pg_advisory_lock(('x' || {sha})::bit(64)::bigint)"
        env = environment(fresh, NODE_PATH=str(modules))
        with psycopg.connect(fresh, autocommit=True) as keeper:
            keeper.execute(query.encode())
            with Tool(["node", str(npm_tools.HERE / "pg-boss.cjs")], env, tmp_path) as tool:
                row = tool.lock(shop, granted=False)
                assert row.application == "pg-boss"
                text = "pg-boss: migration, queues or maintenance (schema pgboss)"
                assert called(fresh, row) == [(text, True)]
                keeper.execute("SELECT pg_advisory_unlock_all()")
                assert tool.finish() == "started"


def _waits_for_orders(connection: Shop, pid: int) -> bool:
    waits = "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted AND locktype = 'relation'"
    return connection.execute(waits, [pid]).fetchone() is not None


PGQUEUER = """
import asyncio, sys
import psycopg
from pgqueuer.db import PsycopgDriver
from pgqueuer.queries import Queries

async def main():
    async with await psycopg.AsyncConnection.connect(autocommit=True) as connection:
        queries = Queries(PsycopgDriver(connection))
        await getattr(queries, sys.argv[1])()
        print("done")

asyncio.run(main())
"""


async def _install(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await Queries(PsycopgDriver(connection)).install()


@pytest.fixture
def pgqueuer(fresh: str, tmp_path: Path) -> Callable[[str], Tool]:
    """A function that starts one of pgqueuer's own operations on its own tables."""
    env = environment(fresh, PGAPPNAME="pgqueuer")
    argv = [sys.executable, "-c", PGQUEUER]
    asyncio.run(_install(fresh))
    return lambda operation: Tool([*argv, operation], env, tmp_path)


def test_pgqueuer_s_statistics(fresh: str, shop: Shop, pgqueuer: Callable[[str], Tool]) -> None:
    """The lock under which pgqueuer adds up its log is named while a row of the log is locked."""
    shop.execute("""
        INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint)
        VALUES (1, 'successful', 0, 'mail')
    """)
    with psycopg.connect(fresh) as keeper:
        keeper.execute("SELECT * FROM pgqueuer_log FOR UPDATE")
        with pgqueuer("aggregate_logs") as tool:
            row = tool.lock(shop)
            assert row.application == "pgqueuer"
            text = "pgqueuer: aggregation of statistics (pgqueuer_statistics)"
            assert called(fresh, row) == [(text, True)]
            keeper.commit()
            assert tool.finish() == "done"
    counted = shop.execute("SELECT count FROM pgqueuer_statistics").fetchall()
    assert counted == [(1,)]


def test_pgqueuer_s_upgrade(fresh: str, shop: Shop, pgqueuer: Callable[[str], Tool]) -> None:
    """The lock under which pgqueuer changes its tables is named while one of them is locked."""
    shop.execute("ALTER TABLE pgqueuer DROP COLUMN headers")
    with psycopg.connect(fresh) as keeper:
        keeper.execute("LOCK TABLE pgqueuer")
        with pgqueuer("upgrade") as tool:
            row = tool.lock(shop)
            assert called(fresh, row) == [("pgqueuer: pgq upgrade (pgqueuer)", True)]
            keeper.commit()
            assert tool.finish() == "done"
    shop.execute("SELECT headers FROM pgqueuer")
