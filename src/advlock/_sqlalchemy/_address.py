"""Where an engine connects to, in libpq's words.

A client's sessions are its own, never the pool's: what SQLAlchemy gives back to a pool, and when,
is decided by the caller's commits (docs/sqlalchemy.md).
"""

from __future__ import annotations

import inspect
import math
import os
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.exc import MissingGreenlet

from advlock import _dsn
from advlock._dsn import Dsn
from advlock._sqlalchemy._kinds import engine_of, refuse_other_databases
from advlock.errors import ConfigError, DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Dialect

    from advlock._client import Client

    Params = dict[str, Any]

C = TypeVar("C", bound="Client")

_ORIGIN: Final = "the engine's URL"
# Ours to choose: what the application's connections are called says nothing of who holds a lock.
_OURS: Final = ("application_name", "fallback_application_name", "client_encoding")
_TLS: Final = ("ssl", "sslmode", "sslrootcert", "ssl_context", "direct_tls", "sslnegotiation")
# What the drivers have that only concerns statements, types and their own sockets.
_ASYNCPG_S_OWN: Final = frozenset(
    "loop command_timeout statement_cache_size max_cached_statement_lifetime"  # noqa: SIM905
    " max_cacheable_statement_size connection_class record_class server_settings async_fallback"
    " prepared_statement_cache_size prepared_statement_name_func".split()
)
_PG8000_S_OWN: Final = frozenset(
    "source_address timeout tcp_keepalive replication startup_params".split()  # noqa: SIM905
)
_SAME_IN_ASYNCPG: Final = frozenset(
    "user password passfile service servicefile target_session_attrs krbsrvname gsslib"  # noqa: SIM905
    " sslnegotiation".split()
)
# Where systems have theirs in one file: Debian and Alpine, Red Hat, SUSE, macOS.
_CERTIFICATES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_OTHER_WAY: Final = "give the client the address itself: Locks('postgresql://…')"
_AWAITED: Final = f"a password that is awaited is not possible here; {_OTHER_WAY}"


def client_of(
    cls: Callable[..., C], engine: object, libpq: Mapping[str, object] | None, settings: Any
) -> C:
    """Make a client of that class for the database of an engine.

    Raises:
        ConfigError: nobody can tell where that is.
    """
    source = Source(engine, libpq or {})
    where = source.address()
    client = cls(where.conninfo, **settings)
    client._dsn = where  # what to call it in messages
    client._renew = source.address_now  # always: a listener may be added later
    return client


class Source:
    """What an engine connects with."""

    def __init__(self, engine: object, libpq: Mapping[str, object]) -> None:
        sync_engine = engine_of(engine)
        refuse_other_databases(sync_engine.dialect)
        self._dialect: Dialect = sync_engine.dialect
        self._args, self._params = _arguments(sync_engine.pool._creator)
        for name in libpq:
            _dsn._check_name(name, _dsn._KEYWORDS)
        self._libpq = {name: value for name, value in libpq.items() if value is not None}

    @property
    def _listeners(self) -> Iterable[Any]:
        dispatch: Any = self._dialect.dispatch
        return tuple(dispatch.do_connect)

    def address(self) -> Dsn:
        """Return the address as far as it is fixed.

        Raises:
            ConfigError: it cannot be said in libpq's words.
        """
        params = dict(self._params)
        if callable(params.get("password")):
            del params["password"]
        return self._translated(self._args, params)

    def address_now(self) -> Dsn:
        """Return the address that the engine would connect to now.

        Raises:
            ConfigError: a listener makes the connection itself, or awaits, or the address cannot
                be said in libpq's words.
            DatabaseUnavailable: a listener or a function for the password failed.
        """
        args, params = list(self._args), dict(self._params)
        try:
            for listener in self._listeners:
                _refuse(listener(self._dialect, None, args, params))
            if callable(params.get("password")):
                params["password"] = _text(params["password"]())
        except LockError:
            raise
        except MissingGreenlet as error:
            raise ConfigError(_AWAITED) from error  # not to be tried again
        except Exception as error:
            msg = f"what the engine connects with is not to be had: {error!r}; try again"
            raise DatabaseUnavailable(msg) from error
        return self._translated(args, params)

    def _translated(self, args: Iterable[Any], given: Params) -> Dsn:
        if "sslmode" in self._libpq:
            given = {k: v for k, v in given.items() if k not in _TLS and not k.startswith("ssl")}
        given = {name: value for name, value in given.items() if value is not None}
        params = _translator(self._dialect)([*args], given)
        wanted = {name: value for name, value in params.items() if name not in _OURS}
        try:
            # An empty string would mean "look in the environment" to the client.
            conninfo = make_conninfo("", client_encoding="utf8", **(wanted | self._libpq))
        except psycopg.Error as error:
            said = _dsn.redact_text(str(error), make_conninfo(password=wanted.get("password")))
            msg = f"libpq cannot use what the engine connects with: {said.strip()}; {_OTHER_WAY}"
            raise ConfigError(msg) from None
        return Dsn(conninfo, _ORIGIN)


def _arguments(creator: Any) -> tuple[list[Any], Params]:
    """Read what `create_engine` has made of URL and `connect_args`.

    It keeps them nowhere but in the function that connects; tests/ecosystem/test_sqlalchemy_engine
    looks whether they are still there.
    """
    if getattr(creator, "__module__", "") == "sqlalchemy.engine.create":
        kept = inspect.getclosurevars(creator).nonlocals
        args = kept.get("cargs_tup", kept.get("cargs"))  # the latter in 2.0
        if args is not None and "cparams" in kept:
            return [*args], dict(kept["cparams"])
    msg = (
        f"this engine's connections are made by a function (creator=, async_creator= or a pool of "
        f"its own), so nobody can tell its address; {_OTHER_WAY}"
    )
    raise ConfigError(msg)


def _refuse(made: Any) -> None:
    """Refuse what a listener has made, if it is a connection."""
    if made is None:
        return
    with suppress(Exception):
        made.close()
    msg = (
        f"a do_connect listener makes this engine's connections itself, so nobody can tell its "
        f"address; have it change the parameters, or {_OTHER_WAY}"
    )
    raise ConfigError(msg)


# -- drivers ---------------------------------------------------------------------------------------


def _translator(dialect: Dialect) -> Callable[[list[Any], Params], Params]:
    driver = dialect.driver
    if driver.startswith("psycopg"):
        return _of_libpq
    if driver not in ("asyncpg", "pg8000"):
        msg = f"the driver {driver!r} is not known to advlock; {_OTHER_WAY}"
        raise ConfigError(msg)
    return _of_asyncpg if driver == "asyncpg" else _of_pg8000


def _of_libpq(args: list[Any], given: Params) -> Params:
    """Translate psycopg's and psycopg2's: libpq knows all that is about the address."""
    _refuse_a_function(given)
    whole = given.pop("conninfo", None) or given.pop("dsn", None) or (args[0] if args else "")
    params: Params = dict(conninfo_to_dict(whole)) if whole else {}
    if "database" in given:
        given["dbname"] = given.pop("database")
    return params | {name: _text(v) for name, v in given.items() if name in _dsn._KEYWORDS}


def _of_asyncpg(args: list[Any], given: Params) -> Params:
    _refuse_a_function(given)
    whole = given.pop("dsn", None) or (args[0] if args else "")
    params: Params = dict(conninfo_to_dict(_dsn.normalise(whole))) if whole else {}
    for name, value in given.items():
        if name in _SAME_IN_ASYNCPG:
            params[name] = _text(value)
        elif name == "database":
            params["dbname"] = value
        elif name == "timeout":
            params["connect_timeout"] = str(math.ceil(float(value)))
        elif name == "direct_tls":
            params |= {"sslnegotiation": "direct"} if value else {}
        elif name == "ssl":
            params |= _tls("ssl", value)
        elif name not in {*_ASYNCPG_S_OWN, "host", "port"}:
            raise _unknown(name)
    return params | _hosts(given.get("host"), given.get("port"))


def _of_pg8000(_: list[Any], given: Params) -> Params:
    # It knows nothing of libpq's environment, so what it connects to by itself is said.
    params: Params = {"dbname": _text(given.get("user"))} if given.get("user") else {}
    for name, value in given.items():
        if name in {"user", "password"}:
            params[name] = _text(value)
        elif name == "database":
            params["dbname"] = _text(value)
        elif name == "ssl_context":
            # To it, True means TLS without a look at the certificate.
            params |= {"sslmode": "require"} if value is True else _tls(name, value)
        elif name not in {*_PG8000_S_OWN, *_OURS, "host", "port", "unix_sock"}:
            raise _unknown(name)
    socket = given.get("unix_sock")
    return params | _hosts(socket or given.get("host", "localhost"), given.get("port", 5432))


def _refuse_a_function(given: Params) -> None:
    if "async_creator_fn" in given:
        _arguments(None)


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"the engine's connect_args have {name!r}, which advlock cannot translate; {_OTHER_WAY}"
    )


def _hosts(host: Any, port: Any) -> Params:
    """Translate hosts and ports; a path may be that of the socket itself."""
    hosts = [host] if isinstance(host, str) else [*(host or ())]
    ports = [*port] if isinstance(port, list | tuple) else [port]
    if len(hosts) == 1 and ".s.PGSQL." in hosts[0]:
        folder, _, number = hosts[0].rpartition(".s.PGSQL.")
        hosts, ports = [folder.rstrip(os.sep)], [number]
    found: Params = {"host": ",".join(hosts)} if hosts else {}
    if any(ports):
        found["port"] = ",".join("" if each is None else str(each) for each in ports)
    return found


def _tls(name: str, value: Any) -> Params:
    if isinstance(value, str) and value in _dsn._SSLMODES.values():
        return {"sslmode": value}
    if value is False:
        return {"sslmode": "disable"}
    if value is True:  # Python's default context: the certificates of the system
        return {"sslmode": "verify-full", "sslrootcert": _system_s_certificates()}
    what = "an SSLContext" if isinstance(value, ssl.SSLContext) else repr(value)
    msg = (
        f"{name}={what} in the engine's connect_args cannot be translated for libpq; say it beside "
        f'the engine: from_engine(engine, libpq={{"sslmode": "verify-full", "sslrootcert": '
        f'"/etc/ca.pem"}})'
    )
    raise ConfigError(msg)


def _system_s_certificates() -> str:
    # libpq's own word for them leads to where its own copy of OpenSSL looks, which in psycopg's
    # wheel is where no system has them (tests/ecosystem/test_deploy.py). A Python that was built
    # elsewhere, as uv's is, need not know either.
    found = ssl.get_default_verify_paths().cafile
    return found or next(filter(os.path.isfile, _CERTIFICATES), "system")


def _text(value: Any) -> str:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise ConfigError(_AWAITED)
    return value.decode() if isinstance(value, bytes) else str(value)
