"""How `async def` tests run, and what every promise needs."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from .worlds import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

_LIMIT = 50.0  # seconds; less than pytest-timeout's, which would end the worker's whole process


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test to its end, and close its world in the same event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(_to_its_end(pyfuncitem.obj, arguments))
    return True


async def _to_its_end(test: Any, arguments: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(_LIMIT):
            await test(**arguments)
    finally:
        world = arguments.get("world")
        if world is not None:
            await world.close()


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> World:
    """Threads and `Locks`, or tasks and `AsyncLocks`."""
    return World(request.param)


@pytest.fixture
def name() -> str:
    """The name of a lock that no other test uses."""
    return f"job-{secrets.token_hex(4)}"


@pytest.fixture
def application() -> str:
    """An application_name that tells one client's sessions from all others."""
    return f"conformance-{secrets.token_hex(4)}"


@pytest.fixture
def rival(dsn: str) -> Iterator[Connection[Any]]:
    """Somebody else, who speaks plain SQL to the same database."""
    with psycopg.connect(dsn, autocommit=True, application_name="rival") as connection:
        yield connection
