"""Sessions that hold locks, tables with names, and a window to look through."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from .seeing import Scene, window_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    from advlock._inspect._window import Window


@pytest.fixture
def scene(database: str) -> Iterator[Scene]:
    """A database in which sessions are opened at will; they end with the test."""
    with ExitStack() as stack:

        def connect(**options: Any) -> Connection[Any]:
            dsn = make_conninfo(database, **options)
            return stack.enter_context(psycopg.connect(dsn, autocommit=True))

        yield Scene(database, connect)


@pytest.fixture
def window(database: str) -> Iterator[Window]:
    """A window to the test's database."""
    with window_to(database) as made:
        yield made


@pytest.fixture
def no_tables(admin: Connection[Any]) -> Iterator[Connection[Any]]:
    """No schema `advlock`, before and after."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    yield admin
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
