"""`advlock.flask`: `flask advlock …` as a user types it, and the app's client."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url
from waiting import eventually

from advlock.errors import ConfigError
from advlock.flask import command, locks

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg
    from examples.conftest import Example

SECRET = "it's a 'secret'"  # noqa: S105
_SESSIONS = """
SELECT FROM pg_stat_activity
WHERE application_name LIKE 'advlock%' AND datname = current_database()
"""
_LOADED = """
import json, sys
import click, flask.cli
before = set(sys.modules)
import advlock.flask
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def an_app(**config: object) -> Flask:
    """Make an application with these settings."""
    app = Flask("shop")
    app.config.update(config)
    return app


@pytest.fixture
def shop(example: Callable[[str], Example]) -> Example:
    """A copy of the example."""
    return example("flask_cli")


# -- the command -----------------------------------------------------------------------------------


def test_options_and_codes_are_the_subcommand_s(shop: Example) -> None:
    """Whatever follows `flask advlock` is for the advlock command, and so is the exit code."""
    told = shop.run("flask advlock run -n nightly -- flask advlock ps --json")
    (lock,) = json.loads("".join(told))["locks"]
    assert lock["name"] == "nightly"
    codes = shop.run(
        "flask advlock run nightly -- flask advlock run -n -E 33 nightly -- true; echo $?;"
        " flask advlock run -n x -- sh -c 'exit 7'; echo $?; flask advlock ps --nonsense; echo $?"
    )
    assert [line for line in codes if line.isdigit()] == ["33", "7", "64"]


def test_the_command_is_there_without_an_app(shop: Example) -> None:
    """Flask lists it; help and version need no app, and nothing is loaded but click and Flask."""
    elsewhere = "cd / && unset DATABASE_URL"
    assert any("advlock" in line for line in shop.run(f"{elsewhere}; flask --help"))
    assert shop.run(f"{elsewhere}; flask advlock --version")[0].startswith("advlock ")
    assert any("doctor" in line for line in shop.run(f"{elsewhere}; flask advlock"))
    told = shop.run(f"{elsewhere}; flask advlock ps; echo $?")
    assert "Could not locate a Flask application" in "".join(told)
    done = subprocess.run(
        [sys.executable, "-c", _LOADED], check=True, stdout=subprocess.PIPE, text=True
    )
    loaded = {each for each in json.loads(done.stdout) if each.startswith(("advlock", "psycopg"))}
    assert loaded == {"advlock", "advlock.flask"}


@pytest.mark.parametrize(
    ("config", "origin"),
    [
        ({"ADVLOCK_DSN": "sqlite://", "DATABASE_URL": "postgresql://"}, "ADVLOCK_DSN"),
        ({"SQLALCHEMY_DATABASE_URI": make_url("sqlite://")}, "SQLALCHEMY_DATABASE_URI"),
        ({"SQLALCHEMY_DATABASE_URI": "", "DATABASE_URL": "mysql://h/d"}, "DATABASE_URL"),
    ],
)
def test_a_wrong_setting_is_named(
    config: dict[str, Any], origin: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 78, and a `ConfigError` from `locks()`; the first that is set decides."""
    app = an_app(**config)
    assert app.test_cli_runner().invoke(command, ["ps"]).exit_code == 78
    said = capfd.readouterr().err
    with app.app_context(), pytest.raises(ConfigError, match=origin):
        locks()
    assert said == "" or f"app.config['{origin}']" in said


def test_no_password_is_on_a_command_line(dsn: str, tmp_path: Any) -> None:
    """It is in the environment of what is run, and so in nobody's list of processes."""
    where = conninfo_to_dict(dsn)
    user, database = where["user"], where["dbname"]
    query = {name: str(where[name]) for name in ("host", "port")}
    (tmp_path / "app.py").write_text(
        "from flask import Flask\nfrom sqlalchemy.engine import URL\napp = Flask('shop')\n"
        "app.config['SQLALCHEMY_DATABASE_URI'] = URL.create('postgresql+psycopg', "
        f"{user!r}, {SECRET!r}, database={database!r}, query={query!r})\n"
    )
    show = "cat /proc/$PPID/cmdline /proc/self/cmdline | tr '\\0' ' '; echo; echo \"$ADVLOCK_DSN\""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "advlock", "run", "x", "--", "sh", "-c", show],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines, found = done.stdout.splitlines()
    assert "secret" not in lines
    assert conninfo_to_dict(found)["password"] == SECRET


# -- the client ------------------------------------------------------------------------------------


def test_an_app_has_one_client(dsn: str, admin: psycopg.Connection[Any]) -> None:
    """For all threads; it excludes another app's, and goes with its app."""
    app = an_app(DATABASE_URL=dsn, ADVLOCK_OPTIONS={"namespace": "flask"})
    other = an_app(ADVLOCK_DSN=dsn)

    def client(app: Flask) -> object:
        with app.app_context():
            return locks()

    with ThreadPoolExecutor(4) as pool:
        (ours,) = set(pool.map(client, [app] * 20))
    with app.app_context(), locks().hold("x"):
        assert locks() is ours is app.extensions["advlock"]
        with other.app_context():
            assert locks() is not ours
            with locks().attempt("flask:x") as held:
                assert held is None
    with app.app_context():
        locks().close()  # a test's own clean-up
        assert locks() is not ours
        with locks().hold("x"), other.app_context():
            locks().close()
    eventually(lambda: admin.execute(_SESSIONS).rowcount == 1)  # what was closed goes soon
    del app
    gc.collect()
    eventually(lambda: not admin.execute(_SESSIONS).rowcount)


def test_a_fork_has_a_client_of_its_own(dsn: str) -> None:
    """As under gunicorn's --preload: the parent's lock is the parent's."""
    app = an_app(DATABASE_URL=dsn)
    with app.app_context(), locks().hold("forked"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with locks().attempt("forked") as held, locks().attempt("another") as free:
                    code = 0 if held is None and free else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with app.app_context():
        locks().close()


def test_there_has_to_be_an_app() -> None:
    """Flask's own error says what to do."""
    with pytest.raises(RuntimeError, match="application context"):
        locks()


def test_views_lock(shop: Example) -> None:
    """The example's view says 409 while somebody else is at it."""
    script = (
        "from app import app, locks; c = app.test_client();"
        " print(c.post('/users/1/report').status_code);"
        " from advlock import Locks;"
        " other = Locks(); lock = other.lock('report:1'); lock.acquire();"
        " print(c.post('/users/1/report').status_code); other.close()"
    )
    assert shop.run(f'python -W error -c "{script}"') == ["200", "409"]
