"""The address of an alias: what Django would connect with, as a connection string for libpq."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from django.conf import settings
from django.db import connections
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from advlock import _dsn
from advlock._dsn import Dsn
from advlock.django import _settings
from advlock.errors import ConfigError

# Not that of the web processes: without one, `advlock ps` can say which host and process it is.
_LEFT_OUT: Final = ("application_name",)
_names: dict[str, str] = {}


class Address(NamedTuple):
    """Where the locks of an alias live.

    Attributes:
        dsn: The address, and what to call it in messages.

        identity: The same for addresses that lead to the same database in the same way, whatever
            the password is just now: some backends make a new one for each connection.

        of_a_test: Whether it is a database that Django made for its tests, and will drop.
    """

    dsn: Dsn
    identity: tuple[object, ...]
    of_a_test: bool


def remember_names() -> None:
    """Note what the databases are called before any test has one of its own."""
    for alias, database in settings.DATABASES.items():
        _names.setdefault(alias, database.get("NAME", ""))  # as Django fills it in, on first use


def address(using: str) -> Address:
    """Find the address for the locks of an alias, as it is at this moment.

    Raises:
        ConfigError: there is no such alias, or it is no PostgreSQL.
    """
    check_alias(using)
    name = connections[using].settings_dict["NAME"]
    of_a_test = name != _names.get(using, name)
    own = _settings.read().dsn_of(using)
    if own is None:
        return _made(_of_django(using), f"DATABASES[{using!r}]", using, of_a_test=of_a_test)
    origin = f"ADVLOCK['DSN'] for {using!r}"
    try:
        params = conninfo_to_dict(_dsn.normalise(own))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    if of_a_test:
        params["dbname"] = name  # or a test would take the locks of the real one
    return _made(params, origin, using, of_a_test=of_a_test)


def of_django(using: str) -> Address:
    """Find the address that Django itself connects to for an alias."""
    return _made(_of_django(using), f"DATABASES[{using!r}]", using, of_a_test=False)


def check_alias(using: str) -> None:
    """Refuse what is no alias of a PostgreSQL.

    Raises:
        ConfigError: it is none.
    """
    if using not in connections:
        known = ", ".join(map(repr, connections))
        raise ConfigError(f"DATABASES has no {using!r}; there are {known}")
    if connections[using].vendor != "postgresql":
        engine = connections[using].settings_dict["ENGINE"]
        raise ConfigError(
            f"advisory locks are PostgreSQL's, and DATABASES[{using!r}] is {engine}; "
            f"use an alias that is one"
        )


def _of_django(using: str) -> dict[str, Any]:
    # Asked of the backend and not read from the settings: some make the password at that moment
    # (a token of a cloud's). What is no parameter of libpq's, such as `cursor_factory` or
    # `prepare_threshold`, is for Django's connections.
    params = connections[using].get_connection_params()
    return {
        name: value
        for name, value in params.items()
        if name in _dsn._KEYWORDS and name not in (*_LEFT_OUT, "client_encoding")
    }


def _made(params: dict[str, Any], origin: str, using: str, *, of_a_test: bool) -> Address:
    shown = tuple(sorted((k, str(v)) for k, v in params.items() if k not in _dsn._SECRET))
    dsn = Dsn(make_conninfo("", **params), origin)
    return Address(dsn, (using, shown), of_a_test)
