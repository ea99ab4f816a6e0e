"""The pytest plugin. pytest loads it in every run, so it imports nothing until a test asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock.testing import MemoryServer, PostgresDatabase


@pytest.fixture
def advlock_memory() -> Iterator[MemoryServer]:
    """A server of locks in this process: the real client, no PostgreSQL, faults on demand."""
    from advlock.testing import MemoryServer  # noqa: PLC0415 - see above

    with MemoryServer() as server:
        yield server


@pytest.fixture(scope="session")
def advlock_postgres_server() -> Iterator[str]:
    """The address of a real PostgreSQL for this run: that of ADVLOCK_TEST_DSN, or a new one."""
    from advlock.errors import ConfigError  # noqa: PLC0415 - see above
    from advlock.testing import _postgres  # noqa: PLC0415

    server = _postgres.server()
    try:
        address = server.__enter__()
    except ConfigError as error:
        pytest.fail(f"advlock_postgres: {error}", pytrace=False)
    yield address
    server.__exit__(None, None, None)


@pytest.fixture
def advlock_postgres(advlock_postgres_server: str) -> Iterator[PostgresDatabase]:
    """An empty database on a real PostgreSQL, gone when the test has ended."""
    from advlock.testing import _postgres  # noqa: PLC0415 - see above

    with _postgres.database(advlock_postgres_server) as made:
        yield made
