"""What is given to us, and what is refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    Sync = Session | scoped_session[Any] | Connection
    Async = AsyncSession | async_scoped_session[Any] | AsyncConnection


def engine_of(engine: object) -> Engine:
    """Return the engine that does the work.

    Raises:
        ConfigError: it is none.
    """
    if _is_async(engine, "AsyncEngine"):
        engine = engine.sync_engine  # type: ignore[attr-defined]
    if isinstance(engine, Engine):
        return engine
    msg = (
        f"from_engine takes a SQLAlchemy Engine or AsyncEngine, not {type(engine).__name__}; of a "
        f"session or a connection it is session.get_bind() or connection.engine"
    )
    raise ConfigError(msg)


def refuse_other_databases(dialect: Dialect) -> None:
    """Refuse what is no PostgreSQL.

    Raises:
        ConfigError: it is none.
    """
    if dialect.name != "postgresql":
        msg = (
            f"advisory locks are PostgreSQL's, and this engine is for {dialect.name}; use one for "
            f"postgresql"
        )
        raise ConfigError(msg)


def runs_async(given: object, verb: str) -> Callable[..., Any] | None:
    """Return what runs sync code for an async one; None for a sync one.

    Raises:
        ConfigError: it is neither.
    """
    if _is_async(given, "AsyncConnection", "AsyncSession"):
        found: Callable[..., Any] = given.run_sync  # type: ignore[attr-defined]
        return found
    if _is_async(given, "async_scoped_session"):
        return runs_async(given(), verb)  # type: ignore[operator]
    if isinstance(given, Connection | Session | scoped_session):
        return None
    hint = "; open one: with engine.begin() as connection" if _is_engine(given) else ""
    msg = (
        f"{verb} needs a SQLAlchemy Session or Connection, sync or async, "
        f"not {type(given).__name__}{hint}"
    )
    raise ConfigError(msg)


def _is_engine(given: object) -> bool:
    return isinstance(given, Engine) or _is_async(given, "AsyncEngine")


def _is_async(given: object, *names: str) -> bool:
    # Who has one has imported this. We may not be able to: it needs greenlet.
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    return module is not None and isinstance(given, tuple(getattr(module, n) for n in names))
