"""What Alembic is about to do, and whether it has to be alone for that."""

from __future__ import annotations

import contextlib
import functools
from inspect import unwrap
from typing import TYPE_CHECKING, Final

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, String, column, inspect, select, table

from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext

    Work: TypeAlias = Callable[[Any, MigrationContext], Any]

VERSION_TABLE: Final = "alembic_version"  # unless `context.configure` says otherwise

# The functions that alembic/command.py hands to the environment, by name, the same from 1.13 to
# 1.20. These only look: current, history, show, edit, revision, check, merge.
_LOOK: Final = frozenset(
    "display_version _display_current_history show_current edit_current"  # noqa: SIM905
    " retrieve_migrations nothing".split()
)
# These only name the steps, from where the database is to where it shall be, and take none.
_NAME_STEPS: Final = frozenset(("upgrade", "downgrade", "do_stamp"))


def environment() -> EnvironmentContext | None:
    """Return what `env.py` runs in; None outside of it.

    `alembic.context` stands for it as a module, and does not hand it out. Tests find out whether it
    is still there, in the oldest and the newest Alembic.
    """
    env: EnvironmentContext | None = getattr(context, "_proxy", None)
    return env


def configured(env: EnvironmentContext | None) -> MigrationContext | None:
    """Return what `context.configure()` has made, if it was called."""
    return None if env is None else env._migration_context


def only_looks(env: EnvironmentContext) -> bool:
    """Whether the command changes nothing that others migrate.

    What is not Alembic's own may do anything.
    """
    return _command(env) in _LOOK


def has_nothing_to_do(env: EnvironmentContext, connectable: object) -> bool:
    """Whether the database is where the command shall bring it. Nothing is locked for that."""
    # Purging is work; and what is not Alembic's own may do more than name its steps.
    if _command(env) not in _NAME_STEPS or env.context_opts.get("purge"):
        return False
    heads = _heads(env, connectable)
    if not heads:  # Alembic makes the version table, even where there is no step to take
        return False
    try:
        return not list(unwrap(env.context_opts["fn"])(heads, None))
    except CommandError:
        # Such as a revision that is not known here. Whoever holds the lock may be changing that;
        # if not, Alembic says it itself.
        return False


def _command(env: EnvironmentContext) -> str:
    work = env.context_opts.get("fn")
    own = getattr(work, "__module__", None) == "alembic.command"
    return getattr(work, "__name__", "") if own else ""


# -- where the database is -------------------------------------------------------------------------


def _heads(env: EnvironmentContext, connectable: object) -> tuple[str, ...]:
    """Read the versions from the table; empty where none is, or where nobody can tell."""
    ctx = configured(env)
    if ctx is not None and ctx.connection is not None:
        with _left_as_it_was(ctx.connection):
            return ctx.get_current_heads()
    if isinstance(connectable, Connection):
        with _left_as_it_was(connectable):
            return _default_heads(connectable)
    if isinstance(connectable, Engine):
        with connectable.connect() as connection:
            return _default_heads(connection)
    return ()  # an async one can be asked only where its loop runs


def _default_heads(connection: Connection) -> tuple[str, ...]:
    if not inspect(connection).has_table(VERSION_TABLE):
        return ()
    version = table(VERSION_TABLE, column("version_num", String))
    return tuple(connection.execute(select(version.c.version_num)).scalars())


@contextlib.contextmanager
def _left_as_it_was(connection: Connection) -> Iterator[None]:
    # A transaction that is there before `context.configure()` is one that Alembic does not commit;
    # and nobody should wait for a lock in one.
    began = not connection.in_transaction()
    try:
        yield
    finally:
        if began:
            connection.rollback()


# -- before the first step -------------------------------------------------------------------------


@contextlib.contextmanager
def replaced(env: EnvironmentContext, wrap: Callable[[Work], Work]) -> Iterator[None]:
    """Have Alembic call something around its own function, when it asks that for the steps."""
    ctx, work = configured(env), env.context_opts.get("fn")
    if work is None:
        yield
        return
    # Still to be known as Alembic's own by whoever is entered in the block.
    wrapper = functools.wraps(work)(wrap(work))
    if ctx is not None:
        ctx._migrations_fn = wrapper  # what `configure()` took along
    env.context_opts["fn"] = wrapper
    try:
        yield
    finally:
        env.context_opts["fn"] = work
        if ctx is not None:
            ctx._migrations_fn = work


def without_steps(work: Work) -> Work:
    """Refuse to migrate: there was nothing to do, so no lock was taken."""

    def refusing(heads: Any, ctx: MigrationContext) -> Any:
        steps = list(work(heads, ctx))
        if steps:
            raise LockError(
                "nothing was to be done, so no lock was taken, and now there is something: "
                "somebody went back in between, or env.py changes the search_path or the version "
                "table after migration_lock(). Run it again; and put migration_lock() right "
                "before context.begin_transaction()"
            )
        return steps

    return refusing
