"""Which database: the order of the places to look, and one spelling libpq understands.

Nothing here imports psycopg or opens a socket. Whatever is refused is refused before a driver sees
it, because libpq quotes parts of a malformed connection string, passwords too, in its errors.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# libpq 18's keywords (PQconndefaults); tests/unit/test_dsn.py compares them with the library's own.
_KEYWORDS: Final = frozenset(
    "application_name channel_binding client_encoding connect_timeout"  # noqa: SIM905
    " dbname fallback_application_name gssdelegation gssencmode gsslib host hostaddr keepalives"
    " keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts"
    " max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer"
    " oauth_scope options passfile password port replication require_auth requirepeer"
    " scram_client_key scram_server_key service servicefile ssl_max_protocol_version"
    " ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey"
    " sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni target_session_attrs"
    " tcp_user_timeout user".split()
)
_SECRET: Final = frozenset(
    ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
)
# Parameters of SQLAlchemy, asyncpg, psycopg, Django, Prisma, Rails and poolers that say nothing
# about which database is meant, nor how safely to reach it. Anything else unknown is refused.
_DROPPED: Final = frozenset(
    "async_fallback atomic_requests autocommit checkout_timeout"  # noqa: SIM905
    " command_timeout conn_health_checks conn_max_age connection_limit cursor_factory"
    " disable_server_side_cursors encoding executemany_mode idle_in_transaction_session_timeout"
    " idle_timeout jit lock_timeout max_cached_statement_lifetime max_cacheable_statement_size"
    " max_overflow max_size min_size pgbouncer pool pool_max_overflow pool_pre_ping pool_recycle"
    " pool_size pool_timeout prepare_threshold prepared_statement_cache_size"
    " prepared_statement_name_func prepared_statements reaping_frequency schema search_path"
    " server_settings single_use_connections socket_timeout statement_cache_size statement_timeout"
    " supa timezone uselibpqcompat workaround".split()
)
_RENAMED: Final = {"ssl": "sslmode", "timeout": "connect_timeout"}
_KNOWN: Final = _KEYWORDS | _DROPPED | _RENAMED.keys()
_SSLMODES: Final = {
    **{m: m for m in ("allow", "disable", "prefer", "require", "verify-ca", "verify-full")},
    **dict.fromkeys(("true", "1", "yes", "on", "no-verify"), "require"),
    **dict.fromkeys(("false", "0", "no", "off"), "disable"),
}

_POSTGRES: Final = frozenset(
    ("postgresql", "postgres", "pgsql", "postgis", "timescale", "timescalegis")
)
_NO_LOCKS: Final = {
    "cockroach": "CockroachDB's session locks are stubs that exclude nobody (cockroach#13546)",
    "redshift": "Redshift has no advisory locks",
}
_URL: Final = re.compile(
    r"\s*(?P<scheme>(?:jdbc:)?[A-Za-z][A-Za-z0-9+._-]*)://(?P<rest>.*)", re.DOTALL
)
_REST: Final = re.compile(
    r"(?:(?P<userinfo>[^@/]*)@)?(?P<hosts>[^/?]*)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?$", re.DOTALL
)
_HOST: Final = re.compile(r"(?:\[[^\]@]*\]|[^:\[\]@]*)(?::[0-9]*)?")
_PGBOUNCER: Final = re.compile(r"[?&]pgbouncer=(?:true|1|yes|on)(?:&|$)", re.IGNORECASE)
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00|[\s\0]")
# libpq's conninfo_parse: blanks may stand around the sign, a backslash escapes the next character.
_SETTING: Final = re.compile(
    r"(?P<key>[^=\s']+)\s*=\s*+(?P<value>'(?:[^'\\]|\\.)*+'|(?!')(?:[^\s\\]|\\.)*+)\s*",
    re.ASCII | re.DOTALL,
)

_LIBPQ: Final = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER")
_SETTINGS: Final = ("dsn", "locks", "cron", "jobs", "namespace", "keys")


@dataclass(frozen=True, slots=True, repr=False)
class Dsn:
    """Where the locks live, and who said so. Neither its `str` nor its `repr` shows a password.

    Attributes:
        conninfo: A URL or keyword string for libpq; empty when libpq's own environment decides.

        origin: The place it was found in, such as `DATABASE_URL`.

        pooled: Whether it said `pgbouncer=true`, as Prisma's URLs do.
    """

    conninfo: str
    origin: str
    pooled: bool = False

    def __str__(self) -> str:
        """Say it for a message."""
        return f"{redact(self.conninfo)} (from {self.origin})" if self.conninfo else self.origin

    def __repr__(self) -> str:
        """Show it in a debugger, without the password."""
        return f"Dsn({redact(self.conninfo)!r}, origin={self.origin!r})"


def resolve(
    dsn: str | None = None,
    *,
    given: str = "--dsn",
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Dsn:
    """Find the database: the first place that names one decides.

    The places, in order: `dsn` itself, `ADVLOCK_DSN`, `advlock.toml` or `[tool.advlock]` in
    `pyproject.toml` (this directory, then its parents), `DATABASE_URL`, and libpq's own variables.
    There is no fallback: two hosts that each fell back to a database of their own would each
    believe that they hold the lock.

    Args:
        dsn: What `--dsn` or the caller gave; None when nothing was given.
        given: What to call that place in messages.
        environ: The environment, `os.environ` by default. An empty variable counts as unset.
        cwd: Where the search for a configuration file starts, the current directory by default.

    Raises:
        ConfigError: No place names a database, or the first that does is wrong.
    """
    environ = os.environ if environ is None else environ
    if dsn is not None:
        return _found(dsn, given)
    if url := environ.get("ADVLOCK_DSN"):
        return _found(url, "ADVLOCK_DSN")
    settings, path = find_settings(cwd)
    if path and "dsn" in settings:
        return _found(settings["dsn"], str(path))
    if url := environ.get("DATABASE_URL"):
        return _found(url, "DATABASE_URL")
    if present := [name for name in _LIBPQ if environ.get(name)]:
        return Dsn("", ", ".join(present))
    raise ConfigError(
        "no database: set DATABASE_URL (or give --dsn) to the PostgreSQL that all hosts share,"
        " or use --local for the embedded server of this user alone"
    )


def find_settings(cwd: Path | None = None) -> tuple[dict[str, Any], Path | None]:
    """Read the nearest `advlock.toml`, or `pyproject.toml` with a table `[tool.advlock]`.

    Args:
        cwd: The directory to start in, the current one by default; its parents follow, up to a
            repository's root.

    Returns:
        The settings and the file they stand in; `({}, None)` when there is none.

    Raises:
        ConfigError: The file cannot be read, or holds a setting that does not exist.
    """
    with suppress(FileNotFoundError):  # a current directory that was deleted has no settings
        cwd = (cwd or Path()).absolute()
    for folder in (cwd, *cwd.parents) if cwd else ():
        for name in ("advlock.toml", "pyproject.toml"):
            settings = read_settings(folder / name)
            if settings is not None:
                return settings, folder / name
        if (folder / ".git").exists():
            break
    return {}, None


def normalise(url: str) -> str:
    """Return a connection string that libpq takes, from one that some Python library takes.

    SQLAlchemy's `postgresql+driver://` and the `postgres://` of hosting providers become
    `postgresql://`; `?ssl=…` becomes `sslmode`; parameters that only configure another driver or a
    pool are dropped. User, password, hosts and database stay as they are, to the letter, and
    keyword strings (`host=… dbname=…`) pass. Applying it twice changes nothing more.

    Raises:
        ConfigError: It is not a PostgreSQL connection string. The message never shows its password.
    """
    match = _URL.match(url)
    if match is None:
        list(_settings(url))  # for its errors
        return url
    _check_scheme(match["scheme"])
    parts = _split(match["rest"].strip())
    query = "&".join(_translated(parts["query"]))
    base = "".join((parts["userinfo"], parts["hosts"], parts["path"]))
    return f"postgresql://{base}{'?' if query else ''}{query}"


def redact(conninfo: str) -> str:
    """Return a connection string fit for people: every password in it reads `***`.

    One that cannot be parsed is hidden whole, because nobody can say where its password ends.
    """
    match = _URL.match(conninfo)
    try:
        if match is None:
            pairs = _settings(conninfo) if conninfo.strip() else ()
            return " ".join(f"{key}={'***' if key in _SECRET else raw}" for key, raw in pairs)
        parts = _split(match["rest"].strip())
        query = "&".join(
            f"{raw}=***" if key in _SECRET else f"{raw}={value}"
            for key, raw, value in _parameters(parts["query"])
        )
    except ConfigError:
        return f"{match['scheme']}://***" if match else "***"
    user, colon, _ = parts["userinfo"].partition(":")
    userinfo = f"{user}:***@" if colon else parts["userinfo"]
    base = f"{match['scheme']}://{userinfo}{parts['hosts']}{parts['path']}"
    return f"{base}?{query}" if query else base


def redact_text(message: str, conninfo: str) -> str:
    """Return a driver's message without any password of the connection string it is about.

    Args:
        message: What the driver said.
        conninfo: The connection string it was given. Where that cannot be parsed, the message is
            withheld, because nobody can say which part of it is a password.
    """
    try:
        secrets = {secret for secret in _secrets(conninfo) if secret}
    except ConfigError:
        return "(message withheld: the connection string is malformed and may show in it)"
    # One pass, longest first: a second one could find a short password inside a `***`.
    pattern = "|".join(re.escape(secret) for secret in sorted(secrets, key=len, reverse=True))
    return re.sub(pattern, "***", message) if pattern else message


def _found(dsn: object, origin: str) -> Dsn:
    if not isinstance(dsn, str):
        raise ConfigError(f"{origin}: dsn is a string such as 'postgresql://host/database'")
    try:
        return Dsn(normalise(dsn), origin, bool(_PGBOUNCER.search(dsn)))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def read_settings(path: Path) -> dict[str, Any] | None:
    """Read the settings of one file; None when it has none, or does not exist."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    own = path.name != "pyproject.toml"
    # Somebody else's pyproject.toml costs no parse, and its mistakes are not ours to report.
    if not own and "advlock" not in text:
        return None
    try:
        table: Any = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with too many digits
        raise ConfigError(f"{path}: no valid TOML: {error}") from error
    for key in () if own else ("tool", "advlock"):
        table = table.get(key) if isinstance(table, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigError(
            f"{path}: advlock's settings are a table; write [tool.advlock] and below it dsn = …"
        )
    for key in table:
        if key not in _SETTINGS:
            raise ConfigError(f"{path}: no such setting: {key!r}{_hint(key, _SETTINGS)}")
    return table


def _check_scheme(scheme: str) -> None:
    base, _, _ = scheme.lower().removeprefix("jdbc:").partition("+")
    if reason := _NO_LOCKS.get(base.removesuffix("db")):
        raise ConfigError(f"{reason}; point advlock to a PostgreSQL (postgresql://…)")
    if base not in _POSTGRES or scheme.lower().startswith("jdbc:"):
        raise ConfigError(
            f"a {scheme}:// URL is none of PostgreSQL's; write postgresql://user@host/database"
        )


def _split(rest: str) -> dict[str, str]:
    """Take a URL apart where libpq does, and refuse what libpq would take apart wrongly."""
    if _ESCAPE.search(rest):
        _refuse_url("holds a bare % or a blank; write % as %25 and a blank as %20")
    match = _REST.match(rest)
    parts = match.groupdict("") if match else {}
    sound = all(_HOST.fullmatch(host) for host in parts["hosts"].split(","))
    # libpq takes an @ behind the host for a part of the database or of a parameter, but hardly
    # anybody means that: mostly it ends a password with a bare / or ? or @ in it.
    if not sound or "#" in parts["hosts"] or "@" in parts["path"] + parts["query"]:
        _refuse_url(
            "has a malformed host or port, or an @ behind them; special characters in a user,"
            " password, database or parameter must be percent-encoded:"
            " / as %2F, @ as %40, # as %23, ? as %3F"
        )
    if match and match["userinfo"] is not None:
        parts["userinfo"] += "@"
    return parts


def _parameters(query: str) -> Iterator[tuple[str, str, str]]:
    for item in filter(None, query.split("&")):
        raw, sign, value = item.partition("=")
        if not sign:
            _refuse_url("has a parameter that is not name=value; write & in a value as %26")
        # libpq refuses a second bare `=`, which Python's own URL parsers let through.
        yield unquote(raw), raw, value.replace("=", "%3D")


def _translated(query: str) -> Iterator[str]:
    given = list(_parameters(query))
    names = [key for key, _, _ in given]
    for key, raw, value in given:
        _check_name(key, _KNOWN)
        if names.count(key) > 1:
            raise ConfigError(
                f"the parameter {key!r} is given twice; write several hosts as host=a,b&port=1,2"
            )
        if key in _KEYWORDS:
            yield f"{raw}={value}"
        elif key in _RENAMED and _RENAMED[key] not in names:
            yield f"{_RENAMED[key]}={_converted(key, unquote(value))}"


def _converted(key: str, value: str) -> str:
    if key == "ssl":
        if value.lower() in _SSLMODES:
            return _SSLMODES[value.lower()]
        raise ConfigError(
            f"ssl={value!r} is no way to use TLS; write sslmode=require or sslmode=verify-full"
        )
    with suppress(ValueError, OverflowError):
        return str(math.ceil(float(value)))
    raise ConfigError(f"timeout={value!r} is no number of seconds; write connect_timeout=10")


def _settings(conninfo: str) -> Iterator[tuple[str, str]]:
    """Yield each keyword and its raw value, as libpq's conninfo_parse sees them."""
    # Blanks are libpq's six, and those at the end the pattern's: one may be escaped.
    text = conninfo.lstrip(" \t\n\r\f\v")
    position, previous = 0, ""
    while position < len(text) or not text:
        match = _SETTING.match(text, position)
        if match is None or "\0" in text:
            raise ConfigError(
                "the connection string is neither a URL (postgresql://user@host/database) nor"
                " key=value pairs (host=… dbname=…; a value with blanks stands in single quotes)"
            )
        # Behind an unquoted password with a blank, this word is a part of the password.
        _check_name(match["key"], _KEYWORDS, show=previous not in _SECRET)
        yield match["key"], match["value"]
        position, previous = match.end(), match["key"]


def _secrets(conninfo: str) -> Iterator[str]:
    if not conninfo.strip():
        return
    match = _URL.match(conninfo)
    if match is None:
        for key, raw in _settings(conninfo):
            if key in _SECRET:
                yield raw
                bare = raw[1:-1] if raw.startswith("'") else raw
                yield bare
                yield re.sub(r"\\(.)", r"\1", bare, flags=re.DOTALL)
        return
    parts = _split(match["rest"].strip())
    raws = [value for key, _, value in _parameters(parts["query"]) if key in _SECRET]
    for raw in (*raws, parts["userinfo"].removesuffix("@").partition(":")[2]):
        yield from (raw, unquote(raw))


def _check_name(key: str, known: Iterable[str], *, show: bool = True) -> None:
    if key in known:
        return
    if not show or not key.isidentifier():
        raise ConfigError(
            "the connection string is malformed near its password; in key=value pairs a value with"
            " blanks stands in single quotes, in a URL special characters are percent-encoded"
        )
    hint = _hint(key, (*_KEYWORDS, *_RENAMED)) or "; libpq has no such parameter, so leave it out"
    raise ConfigError(f"unknown connection parameter {key!r}{hint}")


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _refuse_url(why: str) -> NoReturn:
    raise ConfigError(f"the connection URL {why}")
