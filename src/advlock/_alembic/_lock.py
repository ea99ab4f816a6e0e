"""The lock around Alembic's migrations."""

from __future__ import annotations

import contextlib
import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, Engine

from advlock import _dsn
from advlock._alembic import _run
from advlock._alembic._errors import as_command_errors
from advlock._alembic._stop import stopped_when_lost
from advlock._client import wait_seconds
from advlock._duration import brief
from advlock._locks import Locks
from advlock._sqlalchemy._xact import try_xact_lock
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from advlock._client import Seconds
    from advlock._held import Held
    from advlock._key import Name

    Connectable = Engine | Connection | AsyncEngine | AsyncConnection

# Beneath Alembic's own, which its alembic.ini shows.
log = logging.getLogger("alembic.advlock")
_held_here: ContextVar[tuple[tuple[_Turn, Held | Connection], ...]] = ContextVar(
    "_held_here", default=()
)

_WHERE_IT_BELONGS: Final = (
    "put it around: with migration_lock(connection), context.begin_transaction():"
)


def migration_lock(
    connectable: Connectable,
    *,
    wait: Seconds = "10m",
    name: Name | None = None,
    dsn: str | None = None,
) -> AbstractContextManager[Held | None]:
    """Migrate in the block, alone; the others wait, and find it done.

    For env.py, after `context.configure()` and around `context.begin_transaction()`. It enters with
    the hold, on a session of its own; or with None, without a lock, where there is nothing to do,
    the command only looks, or the database is no PostgreSQL. With None, too, where the connection
    was in a transaction before it was configured: then the lock is in that, and ends with it; and
    where whoever calls this has the lock.

    Args:
        connectable: What the migrations run on: an engine or a connection, sync or async.
        wait: How long to wait for whoever migrates, in seconds or as `"10m"`; None for ever.
        name: What to lock; by default `alembic:` and the version table, with its schema if
            `context.configure()` names one.
        dsn: Another address of the same database for the lock; by default that of the engine.

    Raises:
        LockTimeout: on entering, when it was not free in time; it says who holds it.
        LockLost: when it was lost: from then on every statement, and the COMMIT, is refused; or on
            leaving, when all was committed before that was known.
        DatabaseUnavailable: on entering, when there is no session for the lock.
        UnsafeServer: on entering, when no lock would hold: a statement-mode pooler, a replica.
        ConfigError: the lock would end before the COMMIT, or there is no address for it.
        LockError: there was nothing to do, and then there was; nothing was migrated.
        Each is Alembic's `CommandError`, too.
    """
    return _locked(connectable, wait, name, dsn)


@contextlib.contextmanager
def _locked(
    connectable: Connectable, wait: Seconds, name: Name | None, dsn: str | None
) -> Iterator[Held | None]:
    with as_command_errors():
        seconds = wait_seconds(wait)
        engine = _engine_of(connectable)
        env = _run.environment()
        ctx = _run.configured(env)
        if not _is_needed(engine, env, ctx):
            yield None
            return
        if env is not None and _run.has_nothing_to_do(env, connectable):
            _not_needed("the database is where it shall be")
            with _run.replaced(env, _run.without_steps):
                yield None
            return
        with _client(engine, dsn) as client:
            turn = _Turn(client, _name_for(ctx) if name is None else name, seconds)
            transaction = _transaction_of_others(ctx, connectable)
            target = connectable if isinstance(connectable, Connection) else engine
            target = (ctx and ctx.connection) or target
            if (outer := turn.around(transaction)) is not None:
                with stopped_when_lost(outer, target):
                    yield None
            elif transaction is not None:
                turn.join(transaction)
                with turn.known_here(transaction):
                    yield None
            else:
                watched = _watched(env, ctx, named=name is not None)
                with turn.alone(target) as held, watched, stopped_when_lost(held, target):
                    yield held


# -- whether, and where ----------------------------------------------------------------------------


def _is_needed(
    engine: Engine, env: EnvironmentContext | None, ctx: MigrationContext | None
) -> bool:
    if engine.dialect.name != "postgresql":
        return _not_needed(f"{engine.dialect.name} has no advisory locks")
    if env is None:  # around `alembic.command.upgrade()`
        return True
    if env.is_offline_mode():
        return _not_needed("no database is changed in offline mode")
    if _run.only_looks(env):
        return _not_needed("this command only looks")
    if ctx is not None and ctx._transaction is not None:
        raise ConfigError(
            f"this migration_lock() is inside context.begin_transaction(), so the lock would end "
            f"before the COMMIT; {_WHERE_IT_BELONGS}"
        )
    return True


def _not_needed(why: str) -> bool:
    log.debug("no lock: %s", why, extra={"event": "migration.unlocked"})
    return False


def _engine_of(connectable: object) -> Engine:
    # The async kinds are known by what is in them: their module is not there without greenlet.
    found = getattr(connectable, "sync_engine", getattr(connectable, "engine", connectable))
    engine = getattr(found, "sync_engine", found)
    if not isinstance(engine, Engine):
        raise ConfigError(
            f"migration_lock needs what the migrations run on, an Engine or a Connection of "
            f"SQLAlchemy's, not {type(connectable).__name__}"
        )
    return engine


def _client(engine: Engine, dsn: str | None) -> Locks:
    if dsn is not None:
        return Locks(dsn)
    try:
        return Locks.from_engine(engine)
    except ConfigError as error:
        raise ConfigError(f"{error}; or here: migration_lock(…, dsn='postgresql://…')") from None


def _name_for(ctx: MigrationContext | None) -> str:
    # What `configure` says, not where the search_path leads: that may change while migrations run.
    table = _run.VERSION_TABLE if ctx is None else ctx.version_table
    schema = None if ctx is None else ctx.version_table_schema
    return f"alembic:{schema}.{table}" if schema else f"alembic:{table}"


def _transaction_of_others(ctx: MigrationContext | None, connectable: object) -> Connection | None:
    """Return the connection whose transaction others began, and commit when we have left."""
    if ctx is None:
        return connectable if _in_transaction(connectable) else None  # type: ignore[return-value]
    theirs = ctx._in_external_transaction and _in_transaction(ctx.connection)
    return ctx.connection if theirs else None


def _in_transaction(connection: object) -> bool:
    if not isinstance(connection, Connection) or connection.closed:
        return False
    # In AUTOCOMMIT, too, SQLAlchemy speaks of a transaction.
    autocommit = getattr(connection.connection.dbapi_connection, "autocommit", False)
    return connection.in_transaction() and not autocommit


@contextlib.contextmanager
def _watched(
    env: EnvironmentContext | None, ctx: MigrationContext | None, *, named: bool
) -> Iterator[None]:
    """Refuse what cannot be seen on entering: how Alembic is configured in the block, and used."""
    applied: set[MigrationContext] = set()

    def applies(*, ctx: MigrationContext, **_: object) -> None:
        applied.add(ctx)

    def watch(found: MigrationContext) -> None:
        if not named and _name_for(found) != _name_for(ctx):
            raise ConfigError(
                "this migration_lock() is around context.configure(), and so did not know which "
                f"version table it names; {_WHERE_IT_BELONGS}"
            )
        found.on_version_apply_callbacks = (*found.on_version_apply_callbacks, applies)

    def watching(work: _run.Work) -> _run.Work:
        def watched(heads: object, found: MigrationContext) -> object:
            watch(found)
            return work(heads, found)

        return watched

    with contextlib.ExitStack() as stack:
        if env is not None:
            stack.enter_context(_run.replaced(env, watching))
        yield
    if any(_in_transaction(each.connection) for each in applied):
        raise ConfigError(
            "what was migrated is not committed yet, and the lock would end before the COMMIT; "
            "let the transaction begin and end inside of migration_lock(), or begin it before "
            "context.configure() and give its connection: migration_lock(connection)"
        )


def _let_go_of_the_snapshot(connection: object) -> None:
    """Wait in a transaction, if it has to be in one, that no `CREATE INDEX CONCURRENTLY` heeds."""
    # What the extended protocol has left of the last statement, and with it its snapshot, the next
    # one takes the place of; this one needs none.
    if _in_transaction(connection):
        connection.begin_nested().commit()  # type: ignore[attr-defined]


# -- the wait --------------------------------------------------------------------------------------


class _Turn:
    """The wait for our turn."""

    def __init__(self, client: Locks, name: Name, wait: float | None) -> None:
        self._client = client
        self._name = name
        self._wait = wait
        self._told = False
        params = conninfo_to_dict(client._dsn.conninfo)
        where = frozenset((k, v) for k, v in params.items() if k not in _dsn._SECRET)
        self._identity: object = (where, name)

    @contextlib.contextmanager
    def alone(self, connectable: object) -> Iterator[Held]:
        """Hold it on a session of the client's."""
        with contextlib.ExitStack() as stack:
            held = stack.enter_context(self._client.attempt(self._name))
            if held is None:
                _let_go_of_the_snapshot(connectable)
                self._tell()
                held = stack.enter_context(self._client.hold(self._name, wait=self._wait))
            with self.known_here(held):
                yield held

    @contextlib.contextmanager
    def known_here(self, by: Held | Connection) -> Iterator[None]:
        """Let those who are called in the block find out that it is held, and by what."""
        before = _held_here.get()
        _held_here.set((*before, (self, by)))
        try:
            yield
        finally:
            _held_here.set(before)

    def around(self, transaction: Connection | None) -> Held | None:
        """The lock, if whoever calls us has it: to wait for it would be to wait for ourselves.

        Raises:
            ConfigError: it is in a transaction on another connection, and so cannot be watched.
        """
        for outer, by in _held_here.get():
            # The same database may have several addresses; of a session there is one.
            if outer._identity != self._identity and not (
                outer._name == self._name and outer._sessions() & self._sessions()
            ):
                continue
            if not isinstance(by, Connection):
                return by
            if by is not transaction:
                raise ConfigError(
                    f"whoever calls this has {self._name!r} in a transaction of its own; migrate "
                    f"on that connection, or give migration_lock() the engine there"
                )
        return None

    def _sessions(self) -> set[object]:
        holders = self._client.holders(self._name)
        return {(h.pid, h.connected) for h in holders if h.connected and not h.waiting}

    def join(self, connection: Connection) -> None:
        """Take it in somebody's transaction.

        But wait on a session of the client's, in slices: a transaction that waits in a statement
        is what `CREATE INDEX CONCURRENTLY` waits for.
        """
        deadline = None if self._wait is None else time.monotonic() + self._wait
        while not try_xact_lock(connection, self._name):
            _let_go_of_the_snapshot(connection)
            self._tell()
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            with self._client.hold(self._name, wait=left):
                pass

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        who = "; ".join(str(h) for h in self._client.holders(self._name) if not h.waiting)
        limit = "" if self._wait is None else f", for at most {brief(self._wait)}"
        log.info(
            "waiting for %r, held by %s%s",
            self._name,
            who or "somebody",
            limit,
            extra={"event": "migration.waiting"},
        )
