"""`manage.py migrate` with ADVLOCK = {"MIGRATE": True}, by several processes at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

import advlock

from .migrators import (
    END_THE_LOCK_S_SESSION,
    INDEX_IS_VALID,
    PATIENCE,
    WAITING,
    one,
    wait_for_the_lock,
    wait_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from examples.conftest import Example
    from servers import Server

    Admin = psycopg.Connection[Any]

MIGRATE = ("python", "manage.py", "migrate")
LOCK = "django-migrate"

_APPLIED = "SELECT count(*) FROM django_migrations WHERE app = 'shop'"


@pytest.fixture
def admin(url: str) -> Iterator[Admin]:
    """A bystander."""
    with psycopg.connect(url, autocommit=True) as session:
        yield session


@pytest.fixture
def rival(url: str) -> Iterator[Admin]:
    """Somebody in whose transaction something is that a migration has to wait for."""
    with psycopg.connect(url) as session:
        yield session


@pytest.fixture
def site(example: Callable[[str], Example]) -> Example:
    """A copy of the project."""
    return example("django_site")


@pytest.fixture(params=["direct", "transaction"])
def routed(
    request: pytest.FixtureRequest, site: Example, server: Server, url: str
) -> Iterator[Example]:
    """The same, also behind a PgBouncer in transaction mode."""
    if request.param == "direct":
        yield site
        return
    with bouncer(server, request.param) as pooler:
        site.env["DATABASE_URL"] = pooler.dsn(str(conninfo_to_dict(url)["dbname"]))
        yield site


def setting(site: Example, text: str) -> None:
    """Add to the settings of the project."""
    with (site.folder / "settings.py").open("a") as settings:
        settings.write(f"\n{text}\n")


def test_one_of_five_migrates(routed: Example, admin: Admin, rival: Admin) -> None:
    """The others wait meanwhile, also while an index is built concurrently, and then do nothing."""
    rival.execute("CREATE TABLE shop_customer ()")
    processes = [routed.start(*MIGRATE) for _ in range(5)]
    wait_in(admin, "CREATE TABLE%shop_customer")
    wait_for_the_lock(routed, processes, LOCK, 4)
    rival.rollback()
    codes = [process.wait(PATIENCE) for process in processes]
    said = [routed.said(process) for process in processes]
    assert codes == [0] * 5, "\n".join(said)
    assert sorted(text.count("Applying shop.") for text in said) == [0, 0, 0, 0, 3]
    assert one(admin, _APPLIED) == 3
    assert one(admin, INDEX_IS_VALID)


def test_without_the_setting_they_collide(site: Example, admin: Admin, rival: Admin) -> None:
    """The control: both begin, and one of them fails."""
    setting(site, "ADVLOCK = {}")
    rival.execute("CREATE TABLE django_migrations ()")
    processes = [site.start(*MIGRATE) for _ in range(2)]
    wait_in(admin, "CREATE TABLE%django_migrations", number=2)
    rival.rollback()
    assert sorted(process.wait(PATIENCE) for process in processes) == [0, 1]
    assert any("already exists" in site.said(process) for process in processes)


def test_another_one_goes_on_where_one_was_killed(
    routed: Example, admin: Admin, rival: Admin
) -> None:
    """`kill -9` frees the lock at once; what the dead one had begun is rolled back."""
    rival.execute("CREATE TABLE shop_mail ()")
    first = routed.start(*MIGRATE)
    wait_in(admin, "CREATE TABLE%shop_mail")
    second = routed.start(*MIGRATE)
    wait_for_the_lock(routed, [second], LOCK, 1)
    first.send_signal(signal.SIGKILL)
    eventually(lambda: "Applying shop.0003" in routed.said(second), within=PATIENCE)
    rival.rollback()
    assert second.wait(PATIENCE) == 0
    assert routed.said(second).count("Applying") == 1
    assert one(admin, _APPLIED) == 3


def test_who_has_lost_the_lock_stops(site: Example, admin: Admin, rival: Admin) -> None:
    """Its statement is cancelled, nothing of it stays, and it says so with exit code 74."""
    rival.execute("CREATE TABLE shop_mail ()")
    process = site.start(*MIGRATE)
    wait_in(admin, "CREATE TABLE%shop_mail")
    assert one(admin, END_THE_LOCK_S_SESSION)
    assert process.wait(PATIENCE) == 74
    assert one(admin, WAITING, "%CREATE TABLE%") == 0  # though the rival is still there
    assert one(admin, _APPLIED) == 2
    assert "CommandError: advlock: the lock 'django-migrate' was lost" in site.said(process)


def test_who_has_waited_long_enough_says_who_holds_it(site: Example, url: str) -> None:
    """And ends with exit code 75; `--plan` and `--check` wait for nobody."""
    # After a shorter wait there is less time to say who.
    setting(site, "ADVLOCK['MIGRATE_WAIT'] = '2s'")
    with advlock.Locks(url) as locks, locks.hold("django-migrate"):
        busy = site.start(*MIGRATE)
        plan = site.start(*MIGRATE, "--plan")
        assert busy.wait(PATIENCE) == 75
        assert plan.wait(PATIENCE) == 0
    (line,) = [line for line in site.said(busy).splitlines() if "CommandError" in line]
    assert "'django-migrate' was not free within 2 s: held by " in line


def test_a_statement_mode_pooler_is_refused(site: Example, server: Server, url: str) -> None:
    """It says so at once, instead of hanging or of a lock that holds nothing."""
    with bouncer(server, "statement") as pooler:
        site.env["DATABASE_URL"] = pooler.dsn(str(conninfo_to_dict(url)["dbname"]))
        process = site.start(*MIGRATE, "--skip-checks")
        assert process.wait(PATIENCE) == 78
    assert "CommandError: advlock: a connection pooler in statement mode" in site.said(process)


def test_databases_of_tests_are_made_and_dropped(site: Example, admin: Admin) -> None:
    """`manage.py test` migrates under the lock, and locks that tests take are no hindrance."""
    (site.folder / "shop" / "tests.py").write_text(_TESTS)
    name = one(admin, "SELECT current_database()")
    said = site.run("python -W error::ResourceWarning manage.py test --verbosity 1")
    assert "OK" in said, said
    assert not one(admin, "SELECT 1 FROM pg_database WHERE datname LIKE %s", f"test\\_{name}%")


_TESTS = '''
"""Tests that take locks."""
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase
from advlock.django import async_locks, locks, xact_lock
from shop.models import Mail

class One(TestCase):
    def test_locks(self):
        self.assertEqual(Mail.objects.count(), 3)
        with locks().hold("x") as held:
            held.check()
        self.assertIn(connection.settings_dict["NAME"], str(locks()))

    async def test_async(self):
        async with async_locks().hold("x") as held:
            held.check()

class Two(TransactionTestCase):
    def test_xact(self):
        with locks().hold("y"), transaction.atomic():
            xact_lock("x")
'''
