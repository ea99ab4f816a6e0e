"""`advlock.django` inside a process of a project: clients, locks of transactions, commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from examples.conftest import EXAMPLES
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

import advlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

import django
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.management import call_command, load_command_class
from django.core.management.base import BaseCommand, CommandError
from django.core.management.commands.migrate import Command as Core
from django.db import OperationalError, connections, models, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings

from advlock.django import (
    _address,
    _clients,
    _migrate,
    async_locks,
    locks,
    singleton,
    try_xact_lock,
    xact_lock,
)
from advlock.django import checks as our_checks
from advlock.django._stop import stopped_when_lost

SECRET = "it's a 'secret'"  # noqa: S105
Admin = psycopg.Connection[Any]
_MODES = """
SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_OURS = """
SELECT pid FROM pg_stat_activity
WHERE application_name LIKE 'advlock%' AND datname = current_database()
"""
_END_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture(scope="session")  # Django is set up once in a process
def project(server: Server) -> Iterator[str]:
    """The example's app in this process, migrated, in a database of its own: its DSN."""
    name = f"django_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    where = conninfo_to_dict(server.dsn(name))
    sys.path.insert(0, str(EXAMPLES / "django_site"))
    settings.configure(
        INSTALLED_APPS=["advlock.django", "shop"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": where.pop("dbname"),
                "OPTIONS": where,
            },
            "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        },
        ADVLOCK={"MIGRATE": True, "MIGRATE_WAIT": "100ms"},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", verbosity=0)
    yield server.dsn(name)
    sys.path.remove(str(EXAMPLES / "django_site"))
    connections.close_all()
    _clients.close()
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def admin(project: str) -> Iterator[Admin]:
    """A bystander, who sees that nothing stays locked."""
    with psycopg.connect(project, autocommit=True) as session:
        yield session
        eventually(lambda: modes(session) == [])


@pytest.fixture
def other(project: str) -> Iterator[advlock.Locks]:
    """Another process."""
    with advlock.Locks(project) as client:
        yield client


def in_a_thread(admin: Admin, statement: str, *values: object) -> None:
    """Run it in a thread: the interrupt that it leads to must not hit it."""
    threading.Thread(target=admin.execute, args=[statement, values or None]).start()


def modes(admin: Admin) -> list[str]:
    """In which modes something is locked."""
    return [row[0] for row in admin.execute(_MODES)]


def options(monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    """Change OPTIONS of the default alias."""
    database = connections["default"].settings_dict
    monkeypatch.setitem(database, "OPTIONS", database["OPTIONS"] | changed)


def test_nobody_pays_for_django_who_does_not_use_it() -> None:
    """`import advlock` does without it; and without it, an error says what to install."""
    code = """
import sys, advlock
assert not [name for name in sys.modules if name.split(".")[0] == "django"]
sys.modules["django"] = None
try:
    import advlock.django
except ImportError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "advlock.django needs Django: pip install 'advlock[django]'\n"


# -- clients ---------------------------------------------------------------------------------------


def test_an_alias_has_one_client_which_excludes_other_processes(other: advlock.Locks) -> None:
    """It is the same one each time; other names are free."""
    assert locks() is locks("default")
    with locks().hold("report"):
        assert other.attempt("report").__enter__() is None
        with other.attempt("another") as held:
            assert held


def test_what_is_libpq_s_in_the_settings_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of OPTIONS is for Django's connections, and no password is shown."""
    options(
        monkeypatch,
        isolation_level=psycopg.IsolationLevel.SERIALIZABLE,
        server_side_binding=True,
        assume_role="postgres",
        pool=True,
        prepare_threshold=3,
        application_name="web",
        connect_timeout=7,
        passfile="/nowhere",
    )
    monkeypatch.setitem(connections["default"].settings_dict, "PASSWORD", SECRET)
    with advlock.Locks(locks()._dsn.conninfo) as client:
        given = conninfo_to_dict(client._dsn.conninfo)
    assert given["password"] == SECRET
    assert (given["connect_timeout"], given["passfile"]) == ("7", "/nowhere")
    ours = {"user", "dbname", "host", "port", "password", "connect_timeout", "passfile"}
    assert set(given) <= ours
    assert "secret" not in repr(locks())
    assert "DATABASES['default']" in repr(locks())


def test_a_password_that_is_new_each_time_makes_no_new_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its locks stay, and when it has to connect again it has the last one."""
    wrapper, passwords = connections["default"], iter("abc")
    original = wrapper.get_connection_params
    monkeypatch.setattr(
        wrapper, "get_connection_params", lambda: original() | {"password": next(passwords)}
    )
    client = locks()
    assert locks() is client
    assert conninfo_to_dict(client._dsn.conninfo)["password"] == "b"  # noqa: S105


def test_the_locks_may_have_an_address_of_their_own(
    project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own, where the alias goes through a pooler; in a test, its database there."""
    own = project.replace("dbname=", "connect_timeout=3 dbname=")
    for dsn in (own, {"default": own}):
        with override_settings(ADVLOCK={"DSN": dsn}):
            assert conninfo_to_dict(locks()._dsn.conninfo) == conninfo_to_dict(own)
            with monkeypatch.context() as patch:
                patch.setitem(connections["default"].settings_dict, "NAME", "test_x")
                assert conninfo_to_dict(locks()._dsn.conninfo)["dbname"] == "test_x"
    for none in ({"lite": own}, {"default": ""}, ""):
        with override_settings(ADVLOCK={"DSN": none}):
            assert "connect_timeout" not in locks()._dsn.conninfo


def test_an_alias_that_names_a_service(project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no NAME, so nothing takes the place of the database that the locks' address names."""
    without_name = SimpleNamespace(DATABASES={"default": {"OPTIONS": {"service": "shop"}}})
    monkeypatch.setattr(_address, "_names", {})
    with monkeypatch.context() as patch:  # before Django fills it in, on first use
        patch.setattr(_address, "settings", without_name)
        _address.remember_names()
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "")
    with override_settings(ADVLOCK={"DSN": project}):
        assert conninfo_to_dict(locks()._dsn.conninfo) == conninfo_to_dict(project)


def test_what_is_no_postgresql_is_refused() -> None:
    """With the name of what it is."""
    with pytest.raises(advlock.ConfigError, match="sqlite3"):
        locks("lite")
    with pytest.raises(advlock.ConfigError, match="no 'nope'; there are 'default', 'lite'"):
        xact_lock("x", using="nope")


def test_after_a_fork_the_child_has_no_locks() -> None:
    """As behind `gunicorn --preload`: what the parent holds is not the child's."""
    with locks().hold("report"):
        child = os.fork()
        if not child:
            code = 1
            try:
                with locks().attempt("report") as mine, locks().attempt("child") as own:
                    code = 0 if mine is None and own is not None else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_event_loop_has_one_client_until_it_ends(admin: Admin, other: advlock.Locks) -> None:
    """Its sessions go with the loop; the next loop has another one."""
    before = set(admin.execute(_OURS))  # some of which may be about to go

    async def view() -> advlock.AsyncLocks:
        async with async_locks().hold("report"):
            assert other.attempt("report").__enter__() is None
        assert async_locks() is async_locks("default")
        return async_locks()

    assert asyncio.run(view()) is not asyncio.run(view())
    eventually(lambda: len(set(admin.execute(_OURS)) - before) == 1)  # that of `other`
    with pytest.raises(advlock.ConfigError, match="use locks"):
        async_locks()


def test_threads_have_loops_of_their_own() -> None:
    """Where Django runs async views under WSGI; one begins while another looks which have ended."""

    async def view() -> None:
        async_locks()

    class Ended(asyncio.SelectorEventLoop):
        meanwhile: Callable[[], object] | None = None

        def is_closed(self) -> bool:
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                with ThreadPoolExecutor() as threads:
                    threads.submit(meanwhile).result()
            return super().is_closed()

    first, second = Ended(), asyncio.new_event_loop()
    first.run_until_complete(view())
    first.meanwhile = lambda: second.run_until_complete(view())
    asyncio.run(view())
    for loop in (first, second):
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# -- locks of transactions -------------------------------------------------------------------------


def test_a_transaction_s_lock_ends_with_it(other: advlock.Locks) -> None:
    """Not with an inner block, unless that is rolled back."""
    with transaction.atomic():
        with transaction.atomic():
            xact_lock("order")
        assert not _free(other, "order")
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
            assert try_xact_lock("inner")
            assert not _free(other, "inner")
            raise ZeroDivisionError
        assert _free(other, "inner")
    assert _free(other, "order")


def _free(client: advlock.Locks, name: str) -> bool:
    with client.attempt(name) as held:
        return held is not None


def test_outside_atomic_it_is_refused() -> None:
    """As an error of ours and of Django's; also in a TestCase, whose transaction does not count."""
    with pytest.raises(advlock.ConfigError, match=r"with transaction\.atomic\(\):") as refused:
        xact_lock("order")
    assert isinstance(refused.value, TransactionManagementError)
    testcase = transaction.atomic()
    testcase._from_testcase = True
    with testcase:
        with pytest.raises(TransactionManagementError):
            try_xact_lock("order")
        with transaction.atomic():
            assert try_xact_lock("order")


def test_after_a_timeout_the_transaction_goes_on(other: advlock.Locks) -> None:
    """It says who holds it, by the name that was asked for."""
    with other.hold("order"), transaction.atomic():
        with pytest.raises(advlock.LockTimeout, match=r"'order' was not free within 0.05 s: held"):
            xact_lock("order", wait=0.05)
        assert not try_xact_lock("order")
        assert apps.get_model("shop", "Customer").objects.count() == 3


def test_errors_of_the_database_are_django_s(admin: Admin) -> None:
    """So that `except OperationalError` works, and the transaction is rolled back."""
    with pytest.raises(OperationalError), transaction.atomic():  # noqa: PT012
        pid = connections["default"].connection.info.backend_pid
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        xact_lock("order")
    connections["default"].close()


def test_a_namespace_is_the_same_for_both_kinds(other: advlock.Locks) -> None:
    """What `locks` calls by a name, `xact_lock` does."""
    with override_settings(ADVLOCK={"OPTIONS": {"namespace": "shop"}}), transaction.atomic():
        xact_lock("order")
        assert not _free(locks(), "order")
        assert not _free(other, "shop:order")


# -- commands --------------------------------------------------------------------------------------


@singleton("mails")
class Mails(BaseCommand):
    """A command that one process runs at a time."""

    def handle(self, *_: Any, **__: Any) -> str:
        """Say that it ran."""
        self.held.check()  # type: ignore[attr-defined]
        return "ran"


def run(command: BaseCommand) -> tuple[str, str]:
    """What it says."""
    out, err = StringIO(), StringIO()
    call_command(command, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_a_singleton_is_skipped_where_another_process_runs_it(other: advlock.Locks) -> None:
    """One line says who; then it runs."""
    with other.hold("mails"):
        out, err = run(Mails())
    assert not out
    assert err.startswith("advlock: skipped, 'mails' is held by ")
    assert run(Mails()) == ("ran\n", "")


def test_a_singleton_that_fails_instead(other: advlock.Locks) -> None:
    """With exit code 75; without the decorator it would have run, which is the control."""

    class Plain(BaseCommand):
        def handle(self, *_: Any, **__: Any) -> str:
            return "ran"

    with other.hold("mails"):
        assert run(Plain())[0] == "ran\n"
        with pytest.raises(CommandError, match=r"'mails' was not free within 0.05 s: ") as busy:
            run(singleton("mails", wait=0.05, on_busy="fail")(Plain)())
    assert busy.value.returncode == 75
    with pytest.raises(advlock.ConfigError, match="on_busy must be"):
        singleton(on_busy="explode")  # type: ignore[call-overload]
    with pytest.raises(advlock.ConfigError, match="decorates the class"):
        singleton(Plain.handle)  # type: ignore[call-overload]


def test_a_singleton_is_called_as_its_command_is(other: advlock.Locks) -> None:
    """By the app and the command."""
    apps.get_model("shop", "Mail").objects.all().delete()  # or it would send them
    command = load_command_class("shop", "send_mails")
    with locks().hold("shop.send_mails"):
        assert run(command) == ("", "")  # this thread has it, and is let in
    with other.hold("shop.send_mails"):
        assert "skipped, 'shop.send_mails' is held" in run(command)[1]


# An interrupt that falls into a callback from C is swallowed there; the next statement is refused.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("work", ["sleeps", "asks"])
def test_a_singleton_that_has_lost_its_lock_stops(admin: Admin, work: str) -> None:
    """Whatever it is at, also a statement on the server; it ends with exit code 74."""

    @singleton("lost")
    class Command(BaseCommand):
        def handle(self, *_: Any, **__: Any) -> None:
            with transaction.atomic(), connections["default"].cursor() as cursor:
                in_a_thread(admin, _END_HOLDERS)
                if work == "sleeps":
                    time.sleep(60)
                cursor.execute("SELECT pg_sleep(60)")

    began = time.monotonic()
    with pytest.raises(CommandError, match="the lock 'lost' was lost") as lost:
        run(Command())
    assert lost.value.returncode == 74
    assert time.monotonic() - began < 20
    assert not connections["default"].in_atomic_block
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL  # as it was


@pytest.mark.parametrize("then", ["a statement", "COMMIT"])
def test_in_another_thread_what_comes_next_is_refused(admin: Admin, then: str) -> None:
    """A thread cannot be interrupted; its connection is as good as before."""
    customers = apps.get_model("shop", "Customer").objects

    @singleton("lost")
    class Command(BaseCommand):
        def handle(self, *_: Any, **__: Any) -> None:
            with transaction.atomic():
                customers.create(email="lost@example.com")
                admin.execute(_END_HOLDERS)
                eventually(lambda: self.held.lost)  # type: ignore[attr-defined]
                if then == "a statement":
                    with transaction.atomic():
                        customers.count()

    def call() -> None:
        try:
            with pytest.raises(CommandError, match="was lost"):
                run(Command())
            assert customers.filter(email="lost@example.com").count() == 0
            assert "commit" not in vars(connections["default"])
        finally:
            connections.close_all()

    with ThreadPoolExecutor() as threads:
        threads.submit(call).result()


def test_a_lock_that_is_lost_at_the_very_end(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows where it is released: the same exit code; others' losses stay what they are."""

    @contextlib.contextmanager
    def and_then_lose(*args: Any) -> Iterator[None]:
        with stopped_when_lost(*args):
            yield
        admin.execute(_END_HOLDERS)

    monkeypatch.setattr("advlock.django._singleton.stopped_when_lost", and_then_lose)
    monkeypatch.setattr("advlock.django._migrate.stopped_when_lost", and_then_lose)
    for command in (Mails(), "migrate"):
        with pytest.raises(CommandError, match="was lost") as lost:
            call_command(command, verbosity=0)
        assert lost.value.returncode == 74


def test_a_command_within_another_one_is_interrupted(admin: Admin, other: advlock.Locks) -> None:
    """By the loss of its own lock, as when it is called alone."""

    @singleton("inner")
    class Inner(BaseCommand):
        def handle(self, *_: Any, **__: Any) -> None:
            (holder,) = other.holders("inner")
            in_a_thread(admin, "SELECT pg_terminate_backend(%s)", holder.pid)
            time.sleep(60)

    began = time.monotonic()
    with other.hold("outer") as outer, stopped_when_lost(outer, connections["default"]):
        with pytest.raises(CommandError, match="'inner' was lost"):
            run(Inner())
        outer.check()
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


def test_processes_that_a_singleton_forks_work() -> None:
    """They work for the one that has the lock, as those of multiprocessing do."""

    @singleton("forks")
    class Command(BaseCommand):
        def handle(self, *_: Any, **__: Any) -> None:
            connections.close_all()
            child = os.fork()
            if not child:
                code = 1
                try:
                    with transaction.atomic():
                        apps.get_model("shop", "Mail").objects.count()
                    code = 0
                finally:
                    os._exit(code)
            self.code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    command = Command()
    run(command)
    assert command.code == 0


def test_an_interrupted_commit_leaves_no_open_transaction(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is as good as before: nothing of what was begun is committed by the next."""
    connection = connections["default"]
    customers = apps.get_model("shop", "Customer").objects

    def lose() -> None:
        admin.execute(_END_HOLDERS)
        time.sleep(60)

    @singleton("lost")
    class Command(BaseCommand):
        def handle(self, *_: Any, **__: Any) -> None:
            with transaction.atomic():
                customers.create(email="lost@example.com")
                monkeypatch.setattr(connection, "_commit", lose)

    before = customers.count()
    with pytest.raises(CommandError, match="was lost"):
        run(Command())
    monkeypatch.undo()
    with transaction.atomic():
        customers.create(email="later@example.com")
    emails = admin.execute("SELECT email FROM shop_customer").fetchall()
    assert ("lost@example.com",) not in emails
    assert ("later@example.com",) in emails
    customers.filter(email="later@example.com").delete()
    assert customers.count() == before


def test_manage_py_advlock_is_for_the_alias(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at that database, ends with the command's exit code, and leaves no password."""
    monkeypatch.setenv("ADVLOCK_DSN", "postgresql://elsewhere.invalid/")
    with locks().hold("report"):
        call_command("advlock", "ps", "report", "--json")
        (lock,) = json.loads(capsys.readouterr().out)["locks"]
        assert lock["name"] == "report"
        with pytest.raises(SystemExit) as ended:
            call_command("advlock", "--database", "default", "run", "-n", "report", "--", "true")
        assert ended.value.code == 75
    assert os.environ["ADVLOCK_DSN"] == "postgresql://elsewhere.invalid/"
    with pytest.raises(CommandError, match="sqlite3"):
        call_command("advlock", "ps", database="lite")


# -- migrate ---------------------------------------------------------------------------------------


def migrate(admin: Admin) -> list[str]:
    """Migrate, where nothing is to be applied: in which modes the lock is held meanwhile."""
    seen: list[str] = []

    def look(**_: Any) -> None:
        seen.extend(modes(admin))

    models.signals.post_migrate.connect(look)
    try:
        call_command("migrate", verbosity=0)
    finally:
        models.signals.post_migrate.disconnect(look)
    return sorted(set(seen))


def test_who_has_nothing_to_apply_queues_behind_nobody(
    admin: Admin, other: advlock.Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He shares the lock, and goes on without it when somebody migrates for long."""
    with other.hold("django-migrate", shared=True):
        assert migrate(admin) == ["ShareLock"]
    monkeypatch.setattr("advlock.django._migrate.SHORTLY", 0.05)
    with other.hold("django-migrate"):
        assert migrate(admin) == ["ExclusiveLock"]  # the other one's


def test_who_unapplies_is_alone(other: advlock.Locks) -> None:
    """Anything but plain `migrate` waits for its turn; without the setting, nobody does."""
    with other.hold("django-migrate", shared=True):
        with pytest.raises(CommandError, match="'django-migrate' was not free") as busy:
            call_command("migrate", "shop", "0003", verbosity=0, stderr=StringIO())
        with override_settings(ADVLOCK={}):
            call_command("migrate", "shop", "0003", verbosity=0)
    assert busy.value.returncode == 75
    call_command("migrate", "shop", "zero", database="lite", verbosity=0)


def test_without_a_lock_nothing_is_migrated(
    admin: Admin, other: advlock.Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there was nothing to apply a moment ago, and now there is."""
    row = "FROM django_migrations WHERE app = 'shop' AND name = '0003_mail'"

    def unapply(*_: Any, **__: Any) -> None:
        admin.execute(f"DELETE {row}")  # type: ignore[arg-type]

    monkeypatch.setattr("advlock.django._migrate.SHORTLY", 0.05)
    monkeypatch.setattr(connections["default"], "prepare_database", unapply)  # before it looks
    try:
        with other.hold("django-migrate"), pytest.raises(CommandError, match="now there") as said:
            call_command("migrate", verbosity=0)
        assert said.value.returncode == 75
        assert not admin.execute(f"SELECT 1 {row}").fetchall()  # type: ignore[arg-type]
    finally:
        monkeypatch.undo()
        call_command("migrate", fake=True, verbosity=0)


def test_another_app_s_migrate_is_alone(
    other: advlock.Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would migrate, such as the schemas of tenants, nobody but itself can tell."""

    class Theirs(Core):  # type: ignore[misc]
        def handle(self, *_: Any, **__: Any) -> None:
            pytest.fail("it ran")

    monkeypatch.setattr(_migrate, "below", lambda: Theirs)
    with other.hold("django-migrate", shared=True), pytest.raises(CommandError, match="not free"):
        call_command("migrate", verbosity=0, stderr=StringIO())


def test_another_app_s_migrate_is_run_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours goes before it, and takes over what it adds."""

    class Theirs(Core):  # type: ignore[misc]
        pass

    monkeypatch.setattr(_migrate, "find_commands", lambda path: ["migrate"] * ("shop" in path))
    monkeypatch.setattr(
        _migrate, "load_command_class", lambda app, _: Theirs() if app == "shop" else Core()
    )
    assert _migrate.below() is Theirs
    monkeypatch.undo()
    assert _migrate.below() is Core


# -- checks ----------------------------------------------------------------------------------------


def found(*, deploy: bool = False) -> dict[str, str]:
    """What the checks say, by id; all that they say has a hint."""
    messages = checks.run_checks(
        tags=["advlock"], databases=["default", "lite"], include_deployment_checks=deploy
    )
    assert all(message.hint for message in messages)
    return {message.id: message.msg for message in messages}


def test_a_healthy_project_hears_nothing() -> None:
    """Not even before a deployment."""
    assert found(deploy=True) == {}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"MIGRAET": True}, "did you mean 'MIGRATE'?"),
        ({"MIGRATE": "yes"}, "must be True or False"),
        ({"MIGRATE_WAIT": "ten"}, "is no duration"),
        ({"DSN": 5}, "must be an address"),
        ({"DSN": {"default": 5}}, "must be an address"),
        ({"DSN": {"defualt": ""}}, "did you mean 'default'?"),
        ({"OPTIONS": {"leese": 5}}, "did you mean 'lease'?"),
        ({"MIGRATE": True, "OPTIONS": {"lease": "long"}}, "is no duration"),
        ({"MIGRATE": True, "DSN": {"default": "mysql://db/shop"}}, "none of PostgreSQL's"),
        (["MIGRATE"], "must be a dict"),
    ],
)
def test_a_wrong_setting(setting: object, words: str) -> None:
    """advlock.E001 says what to write instead."""
    with override_settings(ADVLOCK=setting):
        assert words in found()["advlock.E001"]
        with pytest.raises(CommandError) as refused:
            call_command("migrate", verbosity=0)
    assert refused.value.returncode == 78


def test_a_migrate_command_that_goes_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """advlock.E002, but only where ours is wanted."""
    monkeypatch.setattr(our_checks, "get_commands", lambda: {"migrate": "tenants"})
    assert "'tenants', which takes no lock" in found()["advlock.E002"]
    with override_settings(ADVLOCK={}):
        assert found() == {}


def test_poolers(server: Server, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """advlock.E003: no lock would hold. W001, W002: Django's settings do not fit the pooler."""
    database = connections["default"].settings_dict
    with bouncer(server, "statement") as pooler:
        options(monkeypatch, host="127.0.0.1", port=pooler.port)
        assert [*found()] == ["advlock.E003"]
        with override_settings(ADVLOCK={"DSN": project}):
            assert found() == {}
    with bouncer(server, "transaction") as pooler:
        options(monkeypatch, host="127.0.0.1", port=pooler.port)
        assert [*found()] == ["advlock.W001"]
        monkeypatch.setitem(database, "DISABLE_SERVER_SIDE_CURSORS", True)
        assert found() == {}
    with bouncer(server, "session") as pooler:
        options(monkeypatch, host="127.0.0.1", port=pooler.port)
        assert found() == {}
        monkeypatch.setitem(database, "CONN_MAX_AGE", None)
        assert [*found()] == ["advlock.W002"]


def test_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """advlock.W003, before a deployment."""
    monkeypatch.setitem(settings.DATABASES["default"], "ATOMIC_REQUESTS", True)
    assert [*found(deploy=True)] == ["advlock.W003"]
    assert found() == {}
