"""`advlock.sqlalchemy.claim`: rows of a `Select`, locked in the caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer_before
from clusters import hot_standby, private_cluster
from conformance.helpers import one, turns_red
from sqlalchemy import ForeignKey, Select, create_engine, exc, func, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)
from sqlalchemy.pool import NullPool
from waiting import eventually

from advlock import ConfigError, UnsafeServer
from advlock import asyncpg as on_asyncpg
from advlock.sqlalchemy import claim

from .sqlalchemy_callers import WORLDS, crowd
from .sqlalchemy_drivers import in_a_loop, sync_engine
from .test_asyncpg import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server
    from sqlalchemy import Engine

    Admin = psycopg.Connection[Any]

every_world = pytest.mark.parametrize("world", WORLDS)


class Base(DeclarativeBase):
    """The tables of the tests; a name that has to be quoted, and one with a percent sign."""


class Customer(Base):
    """Whose job it is."""

    __tablename__ = "Customer %"
    id: Mapped[int] = mapped_column(primary_key=True)


class Job(Base):
    """What is claimed."""

    __tablename__ = 'odd "job"'
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey(Customer.id))
    customer: Mapped[Customer] = relationship()
    steps: Mapped[list[Step]] = relationship()


class Step(Base):
    """A part of a job."""

    __tablename__ = "step"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey(Job.id))


class Urgent(Job):
    """A job in two tables."""

    __tablename__ = "urgent"
    id: Mapped[int] = mapped_column(ForeignKey(Job.id), primary_key=True)
    rank: Mapped[int]


NEW = select(Job).where(Job.state == "new").order_by(Job.id)
JOB = Job.__table__
PID = "SELECT pg_backend_pid()"
QUOTED = '"odd ""job"""'


@pytest.fixture
def jobs(dsn: str) -> Iterator[Engine]:
    """Four jobs, the last of them urgent, and what belongs to them."""
    engine = sync_engine(dsn)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Customer(id=1))
        session.flush()
        session.add_all(Job(id=n, state="new", customer_id=1) for n in (1, 2, 3))
        session.add(Urgent(id=4, state="new", customer_id=1, rank=1))
        session.flush()
        session.add_all(Step(id=n, job_id=n % 2 + 1) for n in range(4))
    yield engine
    Base.metadata.drop_all(engine)


async def check_nobody_gets_the_same(dsn: str, world: str) -> None:
    """Let a session, another and a connection claim what there is."""
    async with crowd(world, dsn) as made:
        first, second, third = await made.session(), await made.session(), await made.connection()
        (job,) = await first.claim(NEW, limit=1)
        assert isinstance(job, Job)
        assert job.id == 1
        assert [job.id for job in await second.claim(NEW.limit(2))] == [2, 3]
        rows = await third.claim(select(JOB.c.id, JOB.c.state).where(JOB.c.state == "new"))
        assert [(*row,) for row in rows] == [(4, "new")]
        assert await third.claim(NEW, limit=9) == await third.claim(NEW, limit=9)
        job.state = "done"
        await first.end()
        await second.end("rollback")
        assert [row.id for row in await third.claim(NEW)] == [2, 3, 4]


@every_world
@pytest.mark.usefixtures("jobs")
@in_a_loop
async def test_nobody_gets_a_row_that_another_has(dsn: str, world: str) -> None:
    """Entities for one entity, rows for columns; what is committed is no longer new."""
    await check_nobody_gets_the_same(dsn, world)


@pytest.mark.usefixtures("jobs")
@in_a_loop
async def test_without_the_row_lock_that_turns_red(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same select without FOR UPDATE."""
    monkeypatch.setattr(Select, "with_for_update", lambda self, **_: self)
    await turns_red(check_nobody_gets_the_same(dsn, "sync-psycopg"))


def claimed(engine: Engine, asked: Any, **kwargs: Any) -> list[int]:
    """Claim in a transaction of its own, and tell which."""
    with Session(engine) as session:
        return [getattr(row, "id", row) for row in claim(session, asked, **kwargs)]


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("world", WORLDS)
@in_a_loop
async def test_a_lost_connection_is_the_driver_s_error(dsn: str, world: str, admin: Admin) -> None:
    """And not what came of asking it about itself."""
    async with crowd(world, dsn) as made:
        mine = await made.session()
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [await mine.sql(PID)])
        with pytest.raises(exc.DBAPIError) as caught:
            await mine.claim(NEW)
        assert caught.value.connection_invalidated


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 1}], ids=str)
def test_the_connection_s_rows_may_come_in_a_stream(jobs: Engine, option: dict[str, Any]) -> None:
    """They are all there, and all locked."""
    with jobs.connect().execution_options(**option) as conn:
        assert [row.id for row in claim(conn, NEW, limit=2)] == [1, 2]
        assert claimed(jobs, NEW.execution_options(**option), limit=1) == [3]
        assert claimed(jobs, NEW) == [3, 4]


def test_of_a_join_what_is_selected_is_locked(jobs: Engine) -> None:
    """Or two jobs of one customer would exclude each other."""
    other = aliased(Job)
    joined = [
        NEW.join(Customer).where(Customer.id == 1),
        NEW.options(joinedload(Job.customer)),
        NEW.options(selectinload(Job.steps)),
        select(JOB.c.id).join(Customer.__table__).order_by(JOB.c.id),
        select(other).order_by(other.id),
        select(JOB.alias("a").c.id.label("id")).order_by("id"),
    ]
    for asked in joined:
        with Session(jobs) as session, Session(jobs) as third:
            (row,) = claim(session, asked, limit=1)
            assert row.id == 1
            assert claimed(jobs, asked, limit=2) == [2, 3], asked
            assert claim(third, select(Customer)), asked
    with Session(jobs) as session:
        pair = select(Job, Customer).join(Customer).order_by(Job.id)
        ((job, customer),) = claim(session, pair, limit=1)
        assert (job.id, customer.id) == (1, 1)
        assert claimed(jobs, pair) == []


def test_of_an_entity_in_two_tables_both_rows_are_locked(jobs: Engine) -> None:
    """Whoever changes either of them would change it."""
    with Session(jobs) as session:
        assert [job.id for job in claim(session, select(Urgent))] == [4]
        assert claimed(jobs, NEW) == [1, 2, 3]
        with jobs.connect() as conn, pytest.raises(exc.OperationalError, match="could not obtain"):
            conn.execute(text("SELECT FROM urgent FOR UPDATE NOWAIT"))


def test_what_was_loaded_is_loaded_again(jobs: Engine) -> None:
    """An entity that the session has already is that of the row as it was locked."""
    with Session(jobs) as session:
        loaded = session.get_one(Job, 1)
        with jobs.begin() as conn:
            conn.execute(text(f"UPDATE {QUOTED} SET state = 'late'"))
        session.get_one(Job, 2).state = "mine"
        assert claim(session, select(Job).where(Job.id < 3).order_by(Job.id))[0] is loaded
        assert loaded.state == "late"
        assert session.get_one(Job, 2).state == "mine", "what was pending is flushed before"


def test_collections_that_are_joined_come_whole(jobs: Engine) -> None:
    """SQLAlchemy limits the jobs, and not the rows of the join; each job is locked."""
    with Session(jobs) as session:
        (job,) = claim(session, NEW.options(joinedload(Job.steps)), limit=1)
        assert len(job.steps) == 2
        assert claimed(jobs, NEW) == [2, 3, 4]


def test_schemas_may_be_translated(jobs: Engine, admin: Admin) -> None:
    """The table that is looked at is the one that is claimed from."""
    admin.execute('DROP SCHEMA IF EXISTS "the shop" CASCADE; CREATE SCHEMA "the shop"')
    rows = "SELECT 7 AS id, 'new' AS state, 1 AS customer_id"
    admin.execute(f'CREATE TABLE "the shop".{QUOTED} AS {rows}')
    moved = jobs.execution_options(schema_translate_map={None: "the shop"})
    assert claimed(moved, NEW) == [7]
    admin.execute('DROP SCHEMA "the shop" CASCADE')


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (NEW.with_for_update(), "leave out the select's with_for_update"),
        (select(func.now()), "no column of a table"),
        (text("SELECT 1"), "takes a select"),
        (Job, "takes a select"),
        (NEW.distinct(), "FOR UPDATE is not allowed with DISTINCT"),
        (select(Job.state).group_by(Job.state), "not allowed with GROUP BY"),
        (select(NEW.subquery().c.id), "this is a Subquery"),
        (select(NEW.cte().c.id), "this is a CTE"),
        (select(Step, Job).outerjoin(Job), "nullable side of an outer join"),
    ],
)
def test_what_has_no_rows_to_lock_is_refused(jobs: Engine, asked: Any, match: str) -> None:
    """By a message that says what it is."""
    with Session(jobs) as session, pytest.raises(ConfigError, match=match):
        claim(session, asked)


def test_views_are_refused(jobs: Engine, admin: Admin) -> None:
    """Through one with UNION the server returns rows without locking one, as the control shows."""
    admin.execute("ALTER TABLE step RENAME TO parts")
    union = "AS SELECT * FROM parts UNION SELECT * FROM parts"
    try:
        for kind in ("VIEW", "MATERIALIZED VIEW"):
            admin.execute(f"CREATE {kind} step {union}")  # type: ignore[arg-type]
            with Session(jobs) as session, pytest.raises(ConfigError, match="view"):
                claim(session, select(Step))
            if kind == "VIEW":
                with Session(jobs) as session, Session(jobs) as other:
                    skipping = select(Step).with_for_update(skip_locked=True)
                    first, second = session.scalars(skipping), other.scalars(skipping)
                    assert len(first.all()) == len(second.all()) == 4
            admin.execute(f"DROP {kind} step")  # type: ignore[arg-type]
    finally:
        admin.execute("ALTER TABLE parts RENAME TO step")


def test_limits_and_transactions_that_cannot_be_right_are_refused(jobs: Engine) -> None:
    """A number of rows, and a transaction that may write."""
    for limit in (0, True, "1", 2**63):
        with Session(jobs) as session, pytest.raises(ConfigError, match="limit is a number"):
            claim(session, NEW, limit=limit)  # type: ignore[arg-type]
    autocommit = jobs.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as conn, pytest.raises(ConfigError, match="AUTOCOMMIT"):
        claim(conn, NEW)
    with (
        create_engine("sqlite://", poolclass=NullPool).connect() as conn,
        pytest.raises(ConfigError, match="sqlite"),
    ):
        claim(conn, NEW)
    with jobs.connect() as conn:
        conn.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(exc.DBAPIError) as caught:
            claim(conn, NEW)
        assert "may write" in caught.value.__notes__[0]


@in_a_loop
async def test_a_read_replica_is_refused(server: Server) -> None:
    """It grants locks of its own, and locks no rows; on each driver.

    Once it is the primary it is taken, although a pooler tells its clients what it was before.
    """
    with (
        private_cluster(server) as primary,
        hot_standby(primary) as standby,
        bouncer_before(standby.dsn(), "transaction") as pooler,
    ):
        with psycopg.connect(primary.dsn(), autocommit=True) as there:
            there.execute("CREATE TABLE step (id int, job_id int)")
        with psycopg.connect(standby.dsn(), autocommit=True) as here:
            eventually(lambda: one(here, "SELECT to_regclass('step') IS NOT NULL"))
        for world in WORLDS:
            async with crowd(world, standby.dsn()) as made:
                for verb, about in (("attempt", "x"), ("lock", "x"), ("claim", select(Step))):
                    with pytest.raises(UnsafeServer) as caught:
                        await getattr(await made.session(), verb)(about)
                    assert caught.value.reason == "replica"
        async with connected(standby.dsn(), 1) as (conn,):
            for ask, what in ((on_asyncpg.try_xact_lock, "x"), (on_asyncpg.claim, "step")):
                with pytest.raises(UnsafeServer, match="Use a connection to the primary"):
                    async with conn.transaction():
                        await ask(conn, what)
        psycopg.connect(pooler.dsn()).close()  # it has seen what the server is
        with psycopg.connect(standby.dsn(), autocommit=True) as here:
            assert one(here, "SELECT pg_promote()")
        async with connected(pooler.dsn(), 1, statement_cache_size=0) as (conn,):
            assert conn.get_settings().in_hot_standby == "on"
            async with conn.transaction():
                await on_asyncpg.xact_lock(conn, "x")
                assert await on_asyncpg.claim(conn, "step") == []
        async with crowd("sync-psycopg", pooler.dsn()) as made:
            await (await made.session()).lock("x")
