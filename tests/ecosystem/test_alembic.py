"""`migration_lock()` in every kind of env.py, for every command; in this process."""

from __future__ import annotations

import ast
import asyncio
import io
import pickle
import textwrap
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from alembic import command
from alembic import op as operations
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL, Connection, Engine, MetaData, NullPool, create_engine, text
from waiting import eventually

import advlock
from advlock._alembic import _run
from advlock._alembic._stop import stopped_when_lost
from advlock.alembic import migration_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

    Run = Callable[[Any], None]

LOCK = "alembic:alembic_version"
_END_THE_LOCK_S_SESSION = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
WHERE locktype = 'advisory' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_WAITS_FOR_A_LOCK = """
SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_ENV = "from alembic import context; context.config.attributes['run'](context)"
_REVISIONS = {
    "0001": """
        revision, down_revision = "0001", None
        def upgrade():
            op.execute("CREATE TABLE made ()")
            context.config.attributes["meanwhile"]()
        def downgrade():
            op.execute("DROP TABLE made")
    """,
    "0002": """
        revision, down_revision = "0002", "0001"
        def upgrade():
            with op.get_context().autocommit_block():
                context.config.attributes["meanwhile"]()
                op.execute("CREATE TABLE more ()")
        def downgrade():
            op.execute("DROP TABLE more")
    """,
}


@pytest.fixture
def url(database: str, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """A database without any of these tables; made for each test, it would cost 0.3 s."""
    yield database
    admin.execute("DROP TABLE IF EXISTS alembic_version, others, made, more, customer")
    admin.execute("DROP SCHEMA IF EXISTS billing CASCADE")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """Of an env.py."""
    made = create_engine(_of_sqlalchemy(url, "psycopg"), poolclass=NullPool)
    yield made
    made.dispose()


@pytest.fixture
def rival(url: str) -> Iterator[advlock.Locks]:
    """Somebody else who migrates."""
    with advlock.Locks(url) as locks:
        yield locks


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A project with two revisions, whose env.py does what `attributes["run"]` says."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "env.py").write_text(_ENV)
    (tmp_path / "script.py.mako").write_text("")
    for name, body in _REVISIONS.items():
        lines = f"from alembic import context, op\n{textwrap.dedent(body)}"
        (tmp_path / "versions" / f"{name}.py").write_text(lines)
    made = Config(stdout=io.StringIO(), output_buffer=io.StringIO())
    made.set_main_option("script_location", str(tmp_path))
    made.attributes["meanwhile"] = lambda: None
    return made


def _of_sqlalchemy(url: str, driver: str) -> URL:
    where: dict[str, Any] = conninfo_to_dict(url)
    query = {"host": where["host"]} | ({"port": where["port"]} if "port" in where else {})
    made = URL.create(
        f"postgresql+{driver}", where["user"], where.get("password"), None, None, where["dbname"]
    )
    return made.update_query_dict(query)


def _async_engine(url: str) -> Any:
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - not without greenlet

    return create_async_engine(_of_sqlalchemy(url, "asyncpg"), poolclass=NullPool)


def in_env(connectable: Engine, *, wait: Any = 0, begin: bool = False, **configure: Any) -> Run:
    """An env.py as it should be; with `begin`, in a transaction that Alembic does not commit."""

    def run(context: Any) -> None:
        with connectable.begin() if begin else connectable.connect() as connection:
            _migrate(context, connection, wait, configure)

    return run


def _migrate(context: Any, connection: Connection, wait: Any, configure: dict[str, Any]) -> None:
    first = configure.pop("first", None)
    context.configure(connection=connection, **configure)
    if first is not None:
        connection.execute(text(first), {"x": 1})
    with migration_lock(connection, wait=wait), context.begin_transaction():
        context.run_migrations()


def _run_on(url: str, driver: str, *, wait: Any = 0, begin: bool = False, **more: Any) -> Run:
    """The same with that driver; with asyncpg, as in Alembic's template for async engines."""
    if driver != "asyncpg":
        engine = create_engine(_of_sqlalchemy(url, driver), poolclass=NullPool)
        return in_env(engine, wait=wait, begin=begin, **more)
    async_engine = _async_engine(url)

    def run(context: Any) -> None:
        async def main() -> None:
            async with async_engine.begin() if begin else async_engine.connect() as connection:
                await connection.run_sync(lambda sync: _migrate(context, sync, wait, more))

        asyncio.run(main())

    return run


def tables(admin: psycopg.Connection[Any]) -> set[str]:
    """What there is."""
    rows = admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in rows}


# -- which commands --------------------------------------------------------------------------------

_LOOKING: dict[str, Callable[[Config], object]] = {
    "current": command.current,
    "history": lambda config: command.history(config, indicate_current=True),
    "show": lambda config: command.show(config, "current"),
    "check": command.check,
    "revision": lambda config: command.revision(config, autogenerate=True),
    "upgrade --sql": lambda config: command.upgrade(config, "head", sql=True),
}
_CHANGING: dict[str, Callable[[Config], object]] = {
    "upgrade": lambda config: command.upgrade(config, "head"),
    "downgrade": lambda config: command.downgrade(config, "base"),
    "stamp": lambda config: command.stamp(config, "base"),
    "stamp --purge": lambda config: command.stamp(config, "0001", purge=True),
    "ensure_version": command.ensure_version,
}


@pytest.fixture
def half_way(config: Config, engine: Engine, rival: advlock.Locks) -> Iterator[Config]:
    """The project's database is at its first revision, and somebody else migrates."""
    config.attributes["run"] = in_env(engine, target_metadata=MetaData())
    command.upgrade(config, "0001")
    with rival.hold(LOCK):
        yield config


@pytest.mark.parametrize("name", _LOOKING)
def test_who_looks_waits_for_nobody(half_way: Config, name: str) -> None:
    """It runs while others migrate."""
    with suppress(CommandError) if name in ("check", "revision") else ExitStack():
        _LOOKING[name](half_way)  # those two want a database that is up to date


@pytest.mark.parametrize("name", _CHANGING)
def test_who_changes_something_waits(
    half_way: Config, admin: psycopg.Connection[Any], name: str
) -> None:
    """And then fails, with what is Alembic's own error, too; nothing has changed."""
    with pytest.raises(advlock.LockTimeout, match="was not free within") as caught:
        _CHANGING[name](half_way)
    assert isinstance(caught.value, CommandError)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert type(sent) is advlock.LockTimeout
    assert sent.name == LOCK
    assert "made" in tables(admin)


@pytest.mark.parametrize("target", ["0001", "head-1", "stamp"])
def test_who_has_nothing_to_do_waits_for_nobody(half_way: Config, target: str) -> None:
    """Without a lock he finds out that the database is where he would bring it."""
    if target == "stamp":
        command.stamp(half_way, "0001")
    else:
        command.upgrade(half_way, target)


def test_what_is_not_alembic_s_own_waits(half_way: Config) -> None:
    """A function of somebody's may do anything, also when it is called like one of Alembic's."""

    def current(heads: object, _: object) -> list[object]:
        pytest.fail(f"it was called, for {heads}")

    current.__name__ = "display_version"
    script = ScriptDirectory.from_config(half_way)
    with (
        EnvironmentContext(half_way, script, fn=current),
        pytest.raises(advlock.LockTimeout),
    ):
        script.run_env()


def test_a_database_that_is_further_than_the_project(
    config: Config, engine: Engine, rival: advlock.Locks, admin: psycopg.Connection[Any]
) -> None:
    """Whoever holds the lock may be going back; if not, Alembic says it as ever."""
    config.attributes["run"] = in_env(engine)
    command.upgrade(config, "0001")
    admin.execute("UPDATE alembic_version SET version_num = '0007'")
    with rival.hold(LOCK), pytest.raises(advlock.LockTimeout):
        command.upgrade(config, "head")
    with pytest.raises(CommandError, match="Can't locate revision identified by '0007'"):
        command.upgrade(config, "head")


def test_alembic_s_commands_are_those_we_know() -> None:
    """A belief: what alembic.command hands to the environment has these names."""
    tree = ast.parse(Path(str(command.__file__)).read_text())
    outer = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = {n.name for node in outer for n in ast.walk(node) if isinstance(n, ast.FunctionDef)}
    handed = {name for name in found - {n.name for n in outer} if not name.startswith("_display_h")}
    handed |= {"upgrade", "downgrade"}  # which are called like the commands
    assert handed - {"_display_current_history"} == {
        *(_run._LOOK - {"_display_current_history"}),
        *_run._NAME_STEPS,
        "do_ensure_version",
    }


# -- which kinds of env.py -------------------------------------------------------------------------


def test_it_is_held_over_autocommit_blocks(
    config: Config, engine: Engine, rival: advlock.Locks
) -> None:
    """A lock in the migration's own transaction would end there."""
    seen: list[bool] = []

    def look(**_: object) -> None:
        with rival.attempt(LOCK) as held:
            seen.append(held is None)

    config.attributes["run"] = in_env(engine, transaction_per_migration=True, on_version_apply=look)
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    assert seen == [True] * 4
    with rival.attempt(LOCK) as held:
        assert held


@pytest.mark.parametrize("given", [Engine, Connection])
def test_around_everything(
    config: Config,
    engine: Engine,
    rival: advlock.Locks,
    admin: psycopg.Connection[Any],
    given: type[object],
) -> None:
    """Before Alembic is configured, and with an engine, before there is a connection."""

    def run(context: Any) -> None:
        with ExitStack() as stack:
            if given is Engine:
                stack.enter_context(migration_lock(engine, wait=0))
            connection = stack.enter_context(engine.connect())
            if given is Connection:
                stack.enter_context(migration_lock(connection, wait=0))
            context.configure(connection=connection, transaction_per_migration=True)
            with context.begin_transaction():
                context.run_migrations()

    config.attributes["run"] = run
    with rival.hold(LOCK), pytest.raises(advlock.LockTimeout):
        command.upgrade(config, "head")
    command.upgrade(config, "head")
    assert {"made", "more"} < tables(admin)
    with rival.hold(LOCK):
        command.upgrade(config, "head")


def test_around_everything_with_another_version_table(
    config: Config, engine: Engine, admin: psycopg.Connection[Any]
) -> None:
    """It is not known there, and refused before anything is migrated; a name helps."""

    def run(context: Any) -> None:
        name = config.attributes.get("name")
        with migration_lock(engine, name=name), engine.connect() as connection:
            context.configure(connection=connection, version_table="others")
            with context.begin_transaction():
                context.run_migrations()

    config.attributes["run"] = run
    with pytest.raises(advlock.ConfigError, match="did not know which version table"):
        command.upgrade(config, "0001")
    assert "made" not in tables(admin)
    config.attributes["name"] = "mine"
    command.upgrade(config, "0001")
    assert "made" in tables(admin)


@pytest.mark.parametrize("why", ["another table", "somebody went back"])
def test_without_a_lock_nothing_is_migrated(
    config: Config, engine: Engine, admin: psycopg.Connection[Any], why: str
) -> None:
    """Where there was nothing to do a moment ago, and now there is."""

    def run(context: Any) -> None:
        with engine.connect() as connection, ExitStack() as stack:
            if why == "another table":
                stack.enter_context(migration_lock(engine))
            table = "others" if why == "another table" else "alembic_version"
            context.configure(connection=connection, version_table=table)
            if why != "another table":
                stack.enter_context(migration_lock(engine))
                admin.execute("DELETE FROM alembic_version")
            with context.begin_transaction():
                context.run_migrations()

    config.attributes["run"] = in_env(engine)
    command.upgrade(config, "0001")
    admin.execute("DROP TABLE made")
    config.attributes["run"] = run
    with pytest.raises(advlock.LockError, match="now there is something") as caught:
        command.upgrade(config, "0001")
    assert isinstance(caught.value, CommandError)
    assert "made" not in tables(admin)


def test_it_is_called_after_the_version_table(
    config: Config, engine: Engine, rival: advlock.Locks, admin: psycopg.Connection[Any]
) -> None:
    """So that services which share a database do not wait for each other."""
    admin.execute("CREATE SCHEMA billing")
    table = {"version_table": "versions", "version_table_schema": "billing"}
    config.attributes["run"] = in_env(engine, **table)
    with rival.hold("alembic:billing.versions"), pytest.raises(advlock.LockTimeout):
        command.upgrade(config, "0001")
    with rival.hold(LOCK):
        command.upgrade(config, "0001")


@pytest.mark.parametrize("given", [Engine, Connection])
def test_inside_alembic_s_transaction_is_refused(
    config: Config, engine: Engine, given: type[object]
) -> None:
    """Even with nothing to do: the lock would end before the COMMIT."""

    def run(context: Any) -> None:
        with engine.connect() as connection:
            context.configure(connection=connection)
            with (
                context.begin_transaction(),
                migration_lock(connection if given is Connection else engine),
            ):
                context.run_migrations()

    config.attributes["run"] = in_env(engine)
    command.upgrade(config, "0001")
    config.attributes["run"] = run
    with pytest.raises(advlock.ConfigError, match=r"inside context\.begin_transaction"):
        command.upgrade(config, "0001")


def test_a_commit_that_comes_later_is_refused(
    config: Config, engine: Engine, admin: psycopg.Connection[Any]
) -> None:
    """What was migrated under a lock must not become visible after it."""

    def run(context: Any) -> None:
        with engine.begin() as connection, migration_lock(engine):
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()

    config.attributes["run"] = run
    with pytest.raises(advlock.ConfigError, match="is not committed yet"):
        command.upgrade(config, "0001")
    assert "made" not in tables(admin)


# -- in an application -----------------------------------------------------------------------------


def test_in_a_transaction_of_the_application(
    config: Config, engine: Engine, rival: advlock.Locks
) -> None:
    """`command.upgrade()` on its connection: the lock is in its transaction, until its COMMIT."""

    def run(context: Any) -> None:
        connection = context.config.attributes["connection"]
        context.configure(connection=connection)
        with migration_lock(connection, wait=0.1), context.begin_transaction():
            context.run_migrations()

    config.attributes["run"] = run
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        with rival.hold(LOCK), pytest.raises(advlock.LockTimeout, match="was not free within"):
            command.upgrade(config, "0001")
        command.upgrade(config, "0001")
        with rival.attempt(LOCK) as held:
            assert held is None
    with rival.attempt(LOCK) as held:
        assert held


@pytest.mark.parametrize("whose", ["the application's", "env.py's"])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_transaction_that_waits_is_not_in_the_way_of_an_index(
    config: Config,
    url: str,
    rival: advlock.Locks,
    admin: psycopg.Connection[Any],
    driver: str,
    whose: str,
) -> None:
    """It has no snapshot meanwhile, so `CREATE INDEX CONCURRENTLY` of the holder goes through."""
    admin.execute("CREATE TABLE customer (id int)")
    begun: dict[str, Any] = {"begin": True}
    if whose == "env.py's":  # which sets something after `context.configure()`
        begun = {"first": "SELECT count(*) FROM customer WHERE id = :x"}
    config.attributes["run"] = _run_on(url, driver, wait=20, **begun)
    with rival.hold(LOCK) as held:
        thread = threading.Thread(target=command.upgrade, args=(config, "0001"))
        thread.start()
        eventually(lambda: admin.execute(_WAITS_FOR_A_LOCK).fetchone(), within=20)
        admin.execute("SET statement_timeout = '10s'")
        admin.execute("CREATE INDEX CONCURRENTLY ON customer (id)")
        held.check()
    thread.join(20)
    assert "made" in tables(admin)


def test_step_by_step_as_tests_of_migrations_do(config: Config, engine: Engine) -> None:
    """Up, down and up again on one connection, as pytest-alembic does; each takes the lock."""

    def run(context: Any) -> None:
        connection = context.config.attributes["connection"]
        context.configure(connection=connection, transaction_per_migration=True)
        with migration_lock(connection, wait=0), context.begin_transaction():
            context.run_migrations()

    config.attributes["run"] = run
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        for step in ("+1", "+1"):
            command.upgrade(config, step)
        command.downgrade(config, "-1")
        command.upgrade(config, "head")
        connection.rollback()
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0002"
        )


def test_within_a_transaction_of_whoever_calls(config: Config, engine: Engine) -> None:
    """To wait for that on another connection would be to wait for itself: it is refused at once."""
    with engine.begin() as connection, migration_lock(connection, wait=0):
        config.attributes["run"] = in_env(engine, wait=20)
        with pytest.raises(advlock.ConfigError, match="in a transaction of its own"):
            command.upgrade(config, "0001")
        config.attributes["run"] = lambda context: _migrate(context, connection, 0, {})
        command.upgrade(config, "0001")
    with engine.connect() as connection:
        connection.execute(text("SELECT FROM made"))


@pytest.mark.parametrize("more", ["", " connect_timeout=7"], ids=["same", "other address"])
def test_within_each_other(
    config: Config, engine: Engine, rival: advlock.Locks, url: str, more: str
) -> None:
    """Around `command.upgrade()` and in env.py, twice: one lock, until the outermost one ends."""
    inner = in_env(engine, transaction_per_migration=True)
    given: dict[str, Any] = {"dsn": f"{url}{more}"} if more else {}

    def run(context: Any) -> None:
        with migration_lock(engine, wait=0):
            inner(context)

    config.attributes["run"] = run
    command.upgrade(config, "0001")
    with migration_lock(engine, wait=0, **given) as outer:
        assert outer
        command.upgrade(config, "head")
        outer.check()
        with rival.attempt(LOCK) as held:
            assert held is None
    with rival.hold(LOCK):
        command.upgrade(config, "head")


@pytest.mark.parametrize("inside", [True, False], ids=["in run_sync", "around it"])
def test_async(
    config: Config, url: str, rival: advlock.Locks, admin: psycopg.Connection[Any], *, inside: bool
) -> None:
    """As in Alembic's template for async engines, with asyncpg."""
    engine = _async_engine(url)

    def run(context: Any) -> None:
        def migrate(connection: Connection) -> None:
            context.configure(connection=connection, transaction_per_migration=True)
            with ExitStack() as stack:
                if inside:
                    stack.enter_context(migration_lock(connection, wait=0))
                with context.begin_transaction():
                    context.run_migrations()

        async def main() -> None:
            with ExitStack() as stack:
                if not inside:
                    stack.enter_context(migration_lock(engine, wait=0))
                async with engine.connect() as connection:
                    await connection.run_sync(migrate)

        asyncio.run(main())

    config.attributes["run"] = run
    with rival.hold(LOCK), pytest.raises(advlock.LockTimeout):
        command.upgrade(config, "head")
    command.upgrade(config, "head")
    assert {"made", "more"} < tables(admin)


def test_other_databases_have_no_lock(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite is migrated without one; a debug message says so."""
    engine = create_engine("sqlite://")

    def run(context: Any) -> None:
        with engine.connect() as connection:
            context.configure(connection=connection)
            with migration_lock(connection) as held:
                assert held is None

    config.attributes["run"] = run
    with caplog.at_level("DEBUG", "alembic.advlock"):
        command.upgrade(config, "head")
    assert "no lock: sqlite has no advisory locks" in caplog.messages
    engine.dispose()


def test_an_engine_of_which_nobody_knows_the_address(
    config: Config, url: str, admin: psycopg.Connection[Any]
) -> None:
    """It is refused with what to write; `dsn` is that."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
    )
    config.attributes["run"] = in_env(engine)
    with pytest.raises(advlock.ConfigError, match=r"migration_lock\(…, dsn="):
        command.upgrade(config, "0001")

    def run(context: Any) -> None:
        with engine.connect() as connection:
            context.configure(connection=connection)
            with migration_lock(connection, dsn=url), context.begin_transaction():
                context.run_migrations()

    config.attributes["run"] = run
    command.upgrade(config, "0001")
    assert "made" in tables(admin)


def test_a_statement_mode_pooler_is_refused(
    config: Config, server: Server, url: str, admin: psycopg.Connection[Any]
) -> None:
    """At once, instead of hanging or of a lock that holds nothing; the server's address helps."""
    name = str(conninfo_to_dict(url)["dbname"])
    given: dict[str, Any] = {}

    def run(context: Any) -> None:
        with engine.connect() as connection:
            context.configure(connection=connection)
            with migration_lock(connection, **given), context.begin_transaction():
                context.run_migrations()

    config.attributes["run"] = run
    with bouncer(server, "statement") as pooler:
        engine = create_engine(
            _of_sqlalchemy(pooler.dsn(name), "psycopg"),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",  # as its users have to have it
            use_native_hstore=False,
        )
        with pytest.raises(advlock.UnsafeServer, match="pooler in statement mode"):
            command.upgrade(config, "0001")
        assert "made" not in tables(admin)
        given["dsn"] = url
        command.upgrade(config, "0001")
    assert "made" in tables(admin)


def test_what_is_no_engine_is_refused() -> None:
    """By its kind, before anything else."""
    with pytest.raises(advlock.ConfigError, match="not str"), migration_lock("x"):  # type: ignore[arg-type]
        pass


# -- when it is lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("when", ["before a statement", "before COMMIT"])
def test_a_lost_lock_lets_nothing_be_committed(
    config: Config, url: str, admin: psycopg.Connection[Any], driver: str, when: str
) -> None:
    """Not even what was done before it was lost."""

    def lose(**_: object) -> None:
        assert admin.execute(_END_THE_LOCK_S_SESSION).fetchall() == [(True,)]

    late = when == "before COMMIT"
    if not late:
        config.attributes["meanwhile"] = lose
    config.attributes["run"] = _run_on(url, driver, on_version_apply=lose if late else None)
    with pytest.raises(advlock.LockLost) as caught:
        command.upgrade(config, "0001")
    assert isinstance(caught.value, CommandError)
    assert "made" not in tables(admin)


@pytest.mark.parametrize("when", ["before COMMIT", "in a statement"])
def test_a_lost_lock_of_whoever_is_around(
    config: Config, engine: Engine, url: str, admin: psycopg.Connection[Any], when: str
) -> None:
    """It stops what runs on another engine, that of env.py, as well."""

    def lose(**_: object) -> None:
        assert admin.execute(_END_THE_LOCK_S_SESSION).fetchall() == [(True,)]

    def sleep() -> None:
        lose()
        operations.execute("SELECT pg_sleep(50)")

    late = when == "before COMMIT"
    if not late:
        config.attributes["meanwhile"] = sleep
    config.attributes["run"] = _run_on(url, "psycopg", on_version_apply=lose if late else None)
    with pytest.raises(advlock.LockLost), migration_lock(engine):
        command.upgrade(config, "0001")
    assert "made" not in tables(admin)


def test_a_lock_that_is_lost_before_anybody_watches(
    engine: Engine, rival: advlock.Locks, admin: psycopg.Connection[Any]
) -> None:
    """Then no statement runs, and nobody waits for ever for a migration that is over."""
    with pytest.raises(advlock.LockLost), rival.hold(LOCK) as held:  # noqa: PT012
        told: list[object] = []
        held.on_lost(told.append)
        admin.execute(_END_THE_LOCK_S_SESSION)
        eventually(lambda: told)
        with stopped_when_lost(held, engine), engine.begin() as connection:
            connection.execute(text("CREATE TABLE made ()"))
    assert "made" not in tables(admin)


def test_a_lost_lock_lets_no_statement_begin(
    config: Config, engine: Engine, admin: psycopg.Connection[Any]
) -> None:
    """Nor where each is committed at once."""
    config.attributes["run"] = in_env(engine, transaction_per_migration=True)
    command.upgrade(config, "0001")
    config.attributes["meanwhile"] = lambda: admin.execute(_END_THE_LOCK_S_SESSION)
    with pytest.raises(advlock.LockLost):
        command.upgrade(config, "head")
    assert "more" not in tables(admin)


def test_who_does_not_look_commits(
    config: Config, engine: Engine, admin: psycopg.Connection[Any]
) -> None:
    """The control: without what stops it, the migration is there, although the lock was lost."""

    def run(context: Any) -> None:
        with engine.connect() as connection, advlock.Locks.from_engine(engine) as locks:
            context.configure(connection=connection)
            with locks.hold(LOCK), context.begin_transaction():
                context.run_migrations()

    config.attributes["meanwhile"] = lambda: admin.execute(_END_THE_LOCK_S_SESSION)
    config.attributes["run"] = run
    with pytest.raises(advlock.LockLost):
        command.upgrade(config, "0001")
    assert "made" in tables(admin)
