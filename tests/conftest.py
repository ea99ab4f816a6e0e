"""Servers, databases and the rules that hold for every test."""

from __future__ import annotations

import gc
import os
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psycopg
import pytest
from psycopg import sql
from routes import routes_of
from servers import LockRow, Server, find_servers, locks_in_db
from waiting import eventually

from advlock.embedded._temporary import TemporaryHome, remove_abandoned
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_home = pytest.StashKey[TemporaryHome]()
_servers = pytest.StashKey[list[Server]]()
_HOME_INPUT = "advlock_home"
_STRICT = os.environ.get("ADVLOCK_TEST_STRICT") == "1"

# Processes, screens and files, and what the client does by itself: cancelling, giving up, closing,
# hearing nothing. What the servers' versions differ in, tests/postgres, tests/inspection and the
# rest of tests/conformance find out, on each of them.
_NEWEST_ONLY = (
    *("chaos", "cli", "ecosystem", "examples", "leader", "registry", "semaphore", "stress", "tui"),
    "conformance/test_cancellation",
    "conformance/test_cancellation_races",
    "conformance/test_closing",
    "conformance/test_connections",
    "conformance/test_controls",
    "conformance/test_fakes",
    "conformance/test_handlers",
    "conformance/test_interrupted_hold",
    "conformance/test_interrupted_watch",
    "conformance/test_interruptions",
    "conformance/test_leases",
    "conformance/test_liveness",
    "conformance/test_release",
    "conformance/test_timeouts",
)

# A slow machine is no failure, and shrinking a slow example would take for ever.
hypothesis.settings.register_profile("advlock", deadline=None)
hypothesis.settings.load_profile("advlock")

# How long a session that was just closed or killed may take to let its locks go.
_RELEASE_SECONDS = 5.0


def pytest_configure(config: pytest.Config) -> None:
    """Make the run's directory, or take over the one that the xdist controller has made."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has what it runs in the background ignore them, and programs inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "routes(names, why): the routes on which a test runs")
    config.addinivalue_line("markers", "newest: once is enough, with the newest of all packages")
    path: Path | None = None
    if not os.environ.get("ADVLOCK_TEST_DSN"):
        path = _home_path(config)
    try:
        config.stash[_servers] = find_servers(path)
    except (LockError, psycopg.Error) as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what collecting has made: thousands of tests, for good.

    A test that calls it would otherwise take a second, and each worker, a fork's child too, a while
    now and then.
    """
    gc.collect()
    gc.freeze()


def _home_path(config: pytest.Config) -> Path:
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is not None:
        return Path(given[_HOME_INPUT])
    remove_abandoned()
    home = config.stash[_home] = TemporaryHome.create()
    return home.path


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker where the servers of this run are."""
    if _home in node.config.stash:
        node.workerinput[_HOME_INPUT] = str(node.config.stash[_home].path)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers of this run and delete their files; xdist's workers leave that to us."""
    if _home in config.stash:
        config.stash[_home].remove()


def pytest_report_header(config: pytest.Config) -> str:
    """Say what the tests run against."""
    names = ", ".join(f"PostgreSQL {server.version}" for server in config.stash[_servers])
    libpq = psycopg.pq.version()
    strict = "; strict: a skipped test is a failure" if _STRICT else ""
    driver = f"psycopg {psycopg.__version__} ({psycopg.pq.__impl__})"
    return f"servers: {names}; {driver}, libpq {libpq // 10000}.{libpq % 10000}{strict}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that needs a server once per server; and per route to it, if it has routes."""
    if "server" not in metafunc.fixturenames:
        return
    servers = metafunc.config.stash[_servers]
    path = Path(str(metafunc.definition.path)).relative_to(Path(__file__).parent)
    if path.parts[0] in _NEWEST_ONLY or path.with_suffix("").as_posix() in _NEWEST_ONLY:
        servers = servers[-1:]
    if "route" in metafunc.fixturenames:
        ways = routes_of(metafunc.definition, servers)
        metafunc.parametrize(
            ("server", "route"), ways.values(), ids=ways, indirect=True, scope="session"
        )
    else:
        names = [server.name for server in servers]
        metafunc.parametrize("server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """A running server, shared by the whole test run."""
    (chosen,) = (s for s in request.config.stash[_servers] if s.name == request.param)
    chosen.start()
    return chosen


@pytest.fixture(scope="session")
def database(server: Server) -> Iterator[str]:
    """A database that no other worker uses, as a libpq connection string: the straight way."""
    name = f"advlock_test_{secrets.token_hex(4)}"
    identifier = sql.Identifier(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
    yield server.dsn(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


@pytest.fixture(scope="session")
def dsn(database: str) -> str:
    """The same, for clients; tests/conformance sends them through poolers, too."""
    return database


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A bystander's connection to the same database, in autocommit mode."""
    with psycopg.connect(database, autocommit=True, application_name="test-admin") as connection:
        yield connection


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command that is run in this process takes the signals, and keeps them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_lock_stays_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves an advisory lock in its database; end the sessions that hold it."""
    if "database" not in request.fixturenames:
        yield
        return
    database = request.getfixturevalue("database")
    yield
    with psycopg.connect(database, autocommit=True, application_name="test-check") as check:
        left: list[LockRow] = []
        try:
            eventually(lambda: not locks_in_db(check), within=_RELEASE_SECONDS)
        except AssertionError:  # only then: somebody who gave up may yet be probing a pooler
            left = locks_in_db(check)
        for lock in left:
            check.execute("SELECT pg_terminate_backend(%s)", [lock.pid])
    if left:
        pytest.fail("the test left locks behind:\n" + "\n".join(map(str, left)), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ADVLOCK_TEST_STRICT=1, a skipped test fails (an expected failure stays what it is)."""
    report = yield
    if _STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which ADVLOCK_TEST_STRICT=1 forbids: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Hold a module that skips itself to the same rule."""
    report = yield
    if _STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which ADVLOCK_TEST_STRICT=1 forbids: {report.longrepr}"
    return report
