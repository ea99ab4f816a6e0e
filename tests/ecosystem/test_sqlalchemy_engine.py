"""`Locks.from_engine`: where an engine connects to, on sessions of our own."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import await_only

from advlock import AsyncLocks, ConfigError, DatabaseUnavailable, Locks
from advlock._sqlalchemy import _address

from .sqlalchemy_drivers import ASYNC, SYNC, async_engine, in_a_loop, sync_engine

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "p%40ss%2F%27%25%20w"  # noqa: S105 - of nobody
# Enough of psycopg2 and pg8000 for an engine that does not connect.
DRIVER: Any = SimpleNamespace(
    __version__="2.9", paramstyle="pyformat", extensions=SimpleNamespace(), connect=None
)


class Dialects:
    """Engines without a connection, on drivers that need not be installed."""

    @staticmethod
    def address(url: str, libpq: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        """What a client of the engine would connect to, as libpq's parameters."""
        driver = url.partition(":")[0].partition("+")[2]
        make: Callable[..., Any] = create_async_engine if driver == "asyncpg" else create_engine
        if driver in ("psycopg2", "pg8000"):
            settings |= {"module": DRIVER, "poolclass": StaticPool, "_initialize": False}
        engine = make(url, **settings)
        found = conninfo_to_dict(Locks.from_engine(engine, libpq=libpq)._dsn.conninfo)
        assert found.pop("client_encoding") == "utf8"
        return found


address = Dialects.address


@pytest.mark.parametrize("driver", SYNC)
def test_it_locks_where_the_engine_connects_to(dsn: str, driver: str) -> None:
    """The same database, whatever the driver; a lock here is seen there."""
    engine = sync_engine(dsn, driver)
    with Locks.from_engine(engine, namespace="shop") as locks, locks.hold("nightly"):
        assert locks.namespace == "shop"
        with engine.connect() as conn:
            took = "SELECT pg_try_advisory_xact_lock(hashtextextended('shop:nightly', 0))"
            assert conn.scalar(text(took)) is False
    engine.dispose()


@pytest.mark.parametrize("driver", ASYNC)
@in_a_loop
async def test_it_locks_where_an_async_engine_connects_to(dsn: str, driver: str) -> None:
    """Also with the sync client, for threads beside the loop."""
    engine = async_engine(dsn, driver)
    async with AsyncLocks.from_engine(engine) as locks, locks.hold("nightly"):
        with Locks.from_engine(engine) as others, others.attempt("nightly") as held:
            assert held is None


def test_no_connection_of_the_pool_is_used(dsn: str) -> None:
    """A pool of one, which is lent: the lock comes all the same, and outlives the commit."""
    engine = sync_engine(dsn, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with engine.connect() as conn, Locks.from_engine(engine) as locks, locks.hold("x") as held:
        conn.execute(text("SELECT 1"))
        conn.commit()
        held.check()
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg", "pg8000"])
def test_the_url_is_understood(driver: str) -> None:
    """User, password with special characters, host, port and database."""
    assert address(f"postgresql+{driver}://ada:{PASSWORD}@db.example:6543/shop") == {
        "user": "ada",
        "password": "p@ss/'% w",
        "host": "db.example",
        "port": "6543",
        "dbname": "shop",
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("psycopg://@/d?host=/run/pg&port=6543", {"host": "/run/pg", "port": "6543"}),
        ("asyncpg://:6543/d?host=/run/pg", {"host": "/run/pg", "port": "6543"}),
        ("asyncpg:///d?host=/run/pg/.s.PGSQL.6543", {"host": "/run/pg", "port": "6543"}),
        ("pg8000://h/d", {"host": "h", "port": "5432"}),
        ("pg8000:///d?unix_sock=/run/pg/.s.PGSQL.6543", {"host": "/run/pg", "port": "6543"}),
        ("psycopg:///d?host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("psycopg2:///d?host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("asyncpg:///d?host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("asyncpg://h/d?ssl=verify-full", {"host": "h", "sslmode": "verify-full"}),
        (
            "psycopg://h/d?sslmode=verify-ca&sslrootcert=/ca.pem&application_name=shop",
            {"host": "h", "sslmode": "verify-ca", "sslrootcert": "/ca.pem"},
        ),
        (
            "asyncpg://h/d?target_session_attrs=read-write",
            {"host": "h", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_sockets_several_hosts_and_tls(url: str, expected: dict[str, str]) -> None:
    """Each driver has its own words for them; the application's own name is left out."""
    assert address(f"postgresql+{url}") == {"dbname": "d"} | expected


def test_an_engine_without_an_address_means_libpq_s_environment(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`postgresql+psycopg://` is PGHOST and its kind to the driver, and to us."""
    for name, value in conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    with Locks.from_engine(create_engine("postgresql+psycopg://")) as locks, locks.hold("x"):
        pass


def test_pg8000_does_not_know_that_environment() -> None:
    """What it connects to by itself is said: our client would look there for what is not."""
    assert address("postgresql+pg8000://ada@") == {
        "user": "ada",
        "host": "localhost",
        "port": "5432",
        "dbname": "ada",
    }


@pytest.mark.parametrize(
    ("driver", "given", "expected"),
    [
        ("psycopg", {"sslmode": "require", "prepare_threshold": None}, {"sslmode": "require"}),
        ("psycopg", {"conninfo": "host=b sslmode=require"}, {"host": "h", "sslmode": "require"}),
        ("psycopg2", {"dsn": "sslmode=require"}, {"sslmode": "require"}),
        ("psycopg2", {"connect_timeout": 3, "cursor_factory": 0}, {"connect_timeout": "3"}),
        ("asyncpg", {"ssl": False, "timeout": 2.5}, {"sslmode": "disable", "connect_timeout": "3"}),
        ("asyncpg", {"server_settings": {"jit": "off"}, "statement_cache_size": 0}, {}),
        ("asyncpg", {"ssl": "require", "direct_tls": False}, {"sslmode": "require"}),
        ("asyncpg", {"dsn": "postgres://x/y?ssl=require"}, {"sslmode": "require"}),
        ("pg8000", {"ssl_context": True, "port": 1, "timeout": 3}, {"sslmode": "require"}),
        ("pg8000", {"user": b"ada", "port": 1}, {"user": "ada"}),
    ],
)
def test_connect_args_are_understood(
    driver: str, given: dict[str, Any], expected: dict[str, str]
) -> None:
    """What concerns statements and types is left out."""
    found = address(f"postgresql+{driver}://h/d", connect_args=given)
    found.pop("sslnegotiation", None)
    found.pop("port", None)
    assert found == {"host": "h", "dbname": "d"} | expected


def test_python_s_default_context_is_the_system_s_certificates() -> None:
    """`ssl=True` looks at certificate and name, so we do."""
    found = address("postgresql+asyncpg://h/d", connect_args={"ssl": True})
    assert found["sslmode"] == "verify-full"
    assert found["sslrootcert"] in (ssl.get_default_verify_paths().cafile, "system")


@pytest.mark.skipif(
    not any(Path(each).is_file() for each in _address._CERTIFICATES), reason="has none"
)
def test_a_python_that_was_built_elsewhere_does_not_know_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are found all the same: libpq's own word leads nowhere in psycopg's wheel."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/cert.pem")
    assert ssl.get_default_verify_paths().cafile is None
    found = address("postgresql+asyncpg://h/d", connect_args={"ssl": True})
    assert Path(found["sslrootcert"]).is_file()


@pytest.mark.parametrize("driver", ["asyncpg", "pg8000"])
def test_an_ssl_context_has_to_be_said_in_libpq_s_words(driver: str) -> None:
    """What files it was made of it does not tell; with `libpq=` there is a way."""
    name = "ssl" if driver == "asyncpg" else "ssl_context"
    settings: Any = {"connect_args": {name: ssl.create_default_context()}}
    with pytest.raises(ConfigError, match=r"an SSLContext .* libpq=\{"):
        address(f"postgresql+{driver}://h/d", **settings)
    said = {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}
    found = address(f"postgresql+{driver}://h:1/d", said, **settings)
    assert found == {"host": "h", "port": "1", "dbname": "d"} | said


@pytest.mark.parametrize(
    ("engine", "match"),
    [
        (lambda: create_engine("sqlite://"), "this engine is for sqlite"),
        (lambda: create_engine("postgresql+psycopg://h/d", creator=object), "made by a function"),
        (
            lambda: create_async_engine("postgresql+asyncpg://h/d", async_creator=object),
            "made by a function",
        ),
        (
            lambda: create_async_engine("postgresql+asyncpg://h/d", connect_args={"novel": 1}),
            "have 'novel'",
        ),
        (
            lambda: create_async_engine("postgresql+asyncpg://h/d", connect_args={"ssl": 7}),
            "ssl=7 in the",
        ),
        (lambda: create_engine("postgresql+psycopg://h/d").connect, "not method"),
    ],
)
def test_what_cannot_be_told_is_refused(engine: Callable[[], Any], match: str) -> None:
    """With what to do instead, before anything connects."""
    with pytest.raises(ConfigError, match=match):
        Locks.from_engine(engine())
    with pytest.raises(ConfigError, match=match):
        AsyncLocks.from_engine(engine())


def test_a_misspelt_parameter_of_libpq_is_refused() -> None:
    """Or a certificate would go unchecked."""
    with pytest.raises(ConfigError, match="did you mean 'sslmode'"):
        Locks.from_engine(create_engine("postgresql+psycopg://h/d"), libpq={"ssl_mode": "require"})


# -- tokens ----------------------------------------------------------------------------------------


def test_a_listener_s_token_is_asked_for_at_each_connection(
    dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """As SQLAlchemy's documentation has it for the tokens of a cloud: `cparams["password"] = …`."""
    engine, given = sync_engine(dsn), list[str]()

    @event.listens_for(engine, "do_connect")
    def provide_token(_dialect: Any, _record: Any, _args: Any, params: dict[str, Any]) -> None:
        given.append(f"token {len(given)}")
        params["password"] = given[-1]

    with Locks.from_engine(engine) as locks:
        assert given == []
        for count in (1, 2):
            with locks.hold("x"):
                assert len(given) == count
                assert conninfo_to_dict(locks._dsn.conninfo)["password"] == given[-1]
            (pid,) = admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name LIKE 'advlock %' AND datname = current_database()"
            ).fetchone() or (None,)
            assert pid


def test_a_listener_may_come_after_the_client(dsn: str) -> None:
    """As where the engine and the client are made side by side, and the listener is elsewhere."""
    engine, asked = sync_engine(dsn), list[Any]()
    with Locks.from_engine(engine) as locks:
        event.listen(engine, "do_connect", lambda *_: asked.append(1))
        with locks.hold("x"):
            assert asked == [1]


def test_a_listener_that_fails_says_so_when_it_is_asked(dsn: str) -> None:
    """And the next hold asks it again."""
    engine, broken = sync_engine(dsn), [True]

    @event.listens_for(engine, "do_connect")
    def provide_token(*_: Any) -> None:
        if broken:
            broken.clear()
            msg = "no credentials"
            raise RuntimeError(msg)

    with Locks.from_engine(engine) as locks:
        with pytest.raises(DatabaseUnavailable, match="no credentials"), locks.hold("x"):
            pass
        with locks.hold("x"):
            pass


@in_a_loop
async def test_a_listener_is_asked_for_an_async_engine_too(dsn: str) -> None:
    """One that makes the connection itself is refused, and what it has made is closed."""
    engine, made = async_engine(dsn), list[psycopg.Connection[Any]]()
    mode = ["parameters"]

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(_dialect: Any, _record: Any, _args: Any, params: dict[str, Any]) -> Any:
        if mode[0] == "parameters":
            params["password"] = mode[0]
            return None
        made.append(psycopg.connect(dsn))
        return made[-1]

    async with AsyncLocks.from_engine(engine) as locks, locks.hold("x"):
        pass
    mode[0] = "connection"
    async with AsyncLocks.from_engine(engine) as locks:
        with pytest.raises(ConfigError, match="makes this engine's connections itself"):
            await locks.hold("x").__aenter__()
    assert made[0].closed


@in_a_loop
async def test_a_listener_that_awaits_is_refused(dsn: str) -> None:
    """For good, and not as if the database were away: that would be tried again for ever."""
    engine = async_engine(dsn)

    @event.listens_for(engine.sync_engine, "do_connect")
    def provide_token(_dialect: Any, _record: Any, _args: Any, params: dict[str, Any]) -> None:
        params["password"] = await_only(asyncio.sleep(0, "token"))

    async with engine.connect() as conn:
        assert await conn.scalar(text("SELECT 1")) == 1
    async with AsyncLocks.from_engine(engine) as locks:
        with pytest.raises(ConfigError, match="awaited"):
            await locks.hold("x").__aenter__()


def test_a_password_may_be_a_function(dsn: str) -> None:
    """Asyncpg's way; it is called at each connection, and one that is awaited is refused."""

    async def awaited() -> str:
        return "x"

    engine = async_engine(dsn, connect_args={"password": lambda: "hidden"})
    with Locks.from_engine(engine) as locks, locks.hold("x"):
        assert "password=hidden" in locks._dsn.conninfo
        assert "hidden" not in repr(locks)
    engine = async_engine(dsn, connect_args={"password": awaited})
    with (
        Locks.from_engine(engine) as locks,
        pytest.raises(ConfigError, match="awaited"),
        locks.hold("x"),
    ):
        pass


@pytest.mark.parametrize("package", ["sqlalchemy", "asyncpg"])
def test_a_package_is_needed_only_by_those_who_have_it(package: str) -> None:
    """`import advlock` and a client import none; without it, the error says what to install."""
    code = f"""
import sys, advlock
advlock.Locks("host=x")
print({package!r} in sys.modules)
sys.modules[{package!r}] = None
try:
    import advlock.{package}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.startswith("False\n")
    assert f"pip install 'advlock[{package}]'" in done.stdout
