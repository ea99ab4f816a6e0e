"""What every new connection gets: our parameters, and errors that say what to do next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from advlock import _dsn, _label
from advlock.errors import ConfigError, DatabaseUnavailable

if TYPE_CHECKING:
    from advlock._liveness import Bounds

# How long a connection attempt may take, in seconds; libpq's own limit is for each host of the DSN.
PATIENCE: Final = 10.0

_LIBPQ_S_OWN_HINT: Final = "Is the server running"

_POOL_IS_USED_UP: Final = (
    "the pooler has no server connection to give: every client that holds locks through it keeps "
    "one. Raise default_pool_size there, or give advlock the server's own address"
)
_HINTS: Final = (
    ("password authentication failed", "check the user and the password in {origin}"),
    ("no password supplied", "put a password into {origin}, PGPASSWORD or ~/.pgpass"),
    ("translate host name", "check the host's name in {origin}"),
    ("resolve host", "check the host's name in {origin}"),
    ("no pg_hba.conf entry", "ask the server's administrator for an entry in pg_hba.conf"),
    ("refused", "is PostgreSQL running there, and is the port right in {origin}?"),
    ("No such file or directory", "is PostgreSQL running there? Or name a host in {origin}"),
    ("query_wait_timeout", _POOL_IS_USED_UP),
    ("gave no server connection", _POOL_IS_USED_UP),
    ("no more connections allowed", "raise max_client_conn in the pooler, or close some"),
    ("too many clients", "raise max_connections there, or close sessions that are not needed"),
    ("remaining connection slots", "raise max_connections there, or close unneeded sessions"),
    ("starting up", "try again in a moment"),
    ("Too many open files", "raise the limit of open files (ulimit -n), or close some"),
    ("start new thread", "raise the limit of threads (ulimit -u), or end some"),
    ("does not exist", "check the user and the database in {origin}"),
    ("timeout", "is the host right in {origin}, and reachable from here?"),
)


_forks = 0


def forks() -> int:
    """Count the forks of this process, at their beginning and at their end.

    What is connected while it changes, or is odd, a child may have a copy of: a session that
    lives on there, with its locks, when this process is killed.
    """
    return _forks


def _note_fork() -> None:
    global _forks  # noqa: PLW0603 - one for each process
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_fork, after_in_parent=_note_fork, after_in_child=_note_fork)


def conninfo(dsn: str, application_name: str | None, bounds: Bounds) -> str:
    """Complete the user's conninfo with our defaults; what the user set stays.

    Raises:
        ConfigError: libpq cannot read it.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        text = _dsn.redact_text(str(error), dsn).strip()
        raise ConfigError(
            f"the database address cannot be read: {text}. "
            f"Write postgresql://user:password@host:5432/database"
        ) from None
    defaults = {"connect_timeout": f"{PATIENCE:.0f}", **bounds.conninfo()}
    settings = {key: value for key, value in defaults.items() if key not in given}
    settings["client_encoding"] = "utf8"  # what we send and read, whatever the database is in
    if application_name is not None:
        settings["application_name"] = application_name
    elif signs(dsn, application_name):
        settings["application_name"] = _label.make()
    return make_conninfo(dsn, **settings)


def signs(dsn: str, application_name: str | None) -> bool:
    """Whether the `application_name` is ours to choose; `dsn` can be read."""
    if application_name is not None or "PGAPPNAME" in os.environ:
        return False
    return "application_name" not in conninfo_to_dict(dsn)


def ended_at_once(why: Exception) -> DatabaseUnavailable:
    """Say that not even a new session was of use."""
    hint = next((hint for sign, hint in _HINTS if sign in str(why)), "try again")
    return DatabaseUnavailable(f"the server ended a new session at once: {why} — {hint}")


def unavailable(error: BaseException, dsn: _dsn.Dsn) -> DatabaseUnavailable:
    """Say in one line why there is no session, without the password, and what to check."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_LIBPQ_S_OWN_HINT)]
    silent = f"no answer within {PATIENCE:g} s (timeout)"
    text = _dsn.redact_text("; ".join(said) or silent, dsn.conninfo)
    origin = dsn.origin or "the DSN"
    hint = next((hint for sign, hint in _HINTS if sign in text), "check {origin}")
    return DatabaseUnavailable(
        f"cannot connect to the database: {text} — {hint.format(origin=origin)}",
        sqlstate=getattr(error, "sqlstate", None),
    )
