"""`flask advlock …`, and a client for the app: `pip install 'advlock[flask]'`.

The command is found by Flask through an entry point; there is nothing to register.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

import click

try:
    from flask import current_app
    from flask.cli import ScriptInfo
except ImportError as _missing:
    _how = "Flask is not installed: pip install 'advlock[flask]'"
    raise ImportError(_how, name=_missing.name) from _missing

if TYPE_CHECKING:
    from flask import Flask

    from advlock._dsn import Dsn
    from advlock._locks import Locks

__all__ = ["command", "locks"]

# Of `app.config`; the first that is set decides.
KEYS: Final = ("ADVLOCK_DSN", "SQLALCHEMY_DATABASE_URI", "DATABASE_URL")
OPTIONS: Final = "ADVLOCK_OPTIONS"
_HELP: Final = (("-h",), ("--help",), ("--version",))
_NAME: Final = "advlock"  # in `app.extensions`

_mutex = threading.Lock()
_clients: weakref.WeakSet[Locks] = weakref.WeakSet()


@click.command(
    "advlock",
    short_help="Run the advlock command for this app's database.",
    context_settings={
        "ignore_unknown_options": True,  # they are the subcommand's
        "allow_interspersed_args": False,
        "help_option_names": [],
    },
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run the advlock command for this app's database, as `flask advlock ps`."""
    from advlock.cli import main  # noqa: PLC0415 - `flask` loads this module for every command

    if not arguments or arguments in _HELP:
        sys.exit(main(arguments or ["--help"]))
    app = ctx.ensure_object(ScriptInfo).load_app()
    before = os.environ.get("ADVLOCK_DSN")
    code = _told(app)
    try:
        code = code or main(arguments)
    finally:
        if before is None:
            os.environ.pop("ADVLOCK_DSN", None)
        else:
            os.environ["ADVLOCK_DSN"] = before
    sys.exit(code)


def _told(app: Flask) -> int:
    """Put the app's address where the command finds it; the exit code if it cannot be right."""
    from advlock.cli._say import say  # noqa: PLC0415 - as above
    from advlock.cli.exits import Exit  # noqa: PLC0415
    from advlock.errors import ConfigError  # noqa: PLC0415

    try:
        found = _address(app)
    except ConfigError as error:
        say(str(error))
        return Exit.CONFIG
    if found is not None:
        # In the environment a password is this user's alone; on a command line it is everybody's.
        os.environ["ADVLOCK_DSN"] = found.conninfo
    return 0


def locks() -> Locks:
    """Return the current app's client in this process, for views, commands and jobs.

    There is one for all threads, in `app.extensions["advlock"]`; it connects on first use, with one
    session of its own, and is closed at exit, or with the app. After a fork (gunicorn's
    `--preload`) the child has one without locks.

    Its database is that of the first of `ADVLOCK_DSN`, `SQLALCHEMY_DATABASE_URI` and `DATABASE_URL`
    in `app.config`, else that of the environment; `ADVLOCK_OPTIONS` there are more parameters of
    `Locks`, such as `{"namespace": "shop"}`.

    Raises:
        ConfigError: no place names a database, or something there cannot be right.
        RuntimeError: there is no current app; use `with app.app_context():`.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    with _mutex:
        client: Locks | None = app.extensions.get(_NAME)
        if client is None or client._closed:
            client = app.extensions[_NAME] = _made(app)
    return client


def _made(app: Flask) -> Locks:
    from advlock._locks import Locks  # noqa: PLC0415 - not for other commands of `flask`

    found = _address(app)
    client = Locks(found.conninfo if found else None, **app.config.get(OPTIONS, {}))
    if found is not None:
        client._dsn = found  # what to call it in messages
    _clients.add(client)
    # A finalizer runs in whatever thread, and must not wait there.
    weakref.finalize(app, client._close_elsewhere).atexit = False
    return client


def _address(app: Flask) -> Dsn | None:
    """Find the address in the app's settings; None if it is the environment's affair.

    Raises:
        ConfigError: the first that is set is no PostgreSQL's.
    """
    from advlock import _dsn  # noqa: PLC0415 - not for other commands of `flask`

    for key in KEYS:
        value: Any = app.config.get(key)
        if value:
            if hasattr(value, "render_as_string"):
                # SQLAlchemy's URL: its `str` hides the password, and blanks stay bare in it.
                value = value.render_as_string(hide_password=False).replace(" ", "%20")
            return _dsn._found(value, f"app.config[{key!r}]")
    return None


def _close() -> None:
    for client in list(_clients):
        client.close()


def _after_fork() -> None:
    global _mutex  # noqa: PLW0603 - another thread may have held it
    _mutex = threading.Lock()


atexit.register(_close)
os.register_at_fork(after_in_child=_after_fork)
