"""How `async def` tests run, and what every promise needs."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict
from routes import DIRECT, POOL

from .helpers import backends
from .worlds import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bouncers import Bouncer
    from psycopg import Connection
    from servers import Server

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


@pytest.fixture(scope="session")
def route(request: pytest.FixtureRequest) -> str:
    """How clients reach the server; see `routes`."""
    return str(request.param)


@pytest.fixture(scope="session")
def pooler(server: Server, route: str) -> Iterator[Bouncer | None]:
    """The PgBouncer on the route, which the tests of a worker share; None where there is none."""
    if route == DIRECT:
        yield None
        return
    with bouncer(server, route, **POOL) as made:
        yield made


@pytest.fixture(scope="session")
def dsn(database: str, pooler: Bouncer | None) -> str:
    """How clients reach the database: along the route."""
    if pooler is None:
        return database
    return pooler.dsn(str(conninfo_to_dict(database)["dbname"]))


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
def sessions(admin: Connection[Any], pooler: Bouncer | None) -> Callable[[str], list[object]]:
    """List a client's sessions, by its application_name: on the server, or on the pooler."""

    def _sessions(application: str) -> list[object]:
        if pooler is None:
            return [*backends(admin, application)]
        # Its own sessions on the server are lent to others, too, and keep the name of the last.
        clients = pooler.ask("SHOW CLIENTS")
        return [each["ptr"] for each in clients if each["application_name"] == application]

    return _sessions


@pytest.fixture
def rival(database: str) -> Iterator[Connection[Any]]:
    """Somebody else, who speaks plain SQL to the same database."""
    with psycopg.connect(database, autocommit=True, application_name="rival") as connection:
        yield connection
