"""Servers that cannot run here, played by a real PostgreSQL and a relay that changes what is asked.

The relay speaks the wire protocol: it passes every message on, and rewrites the SQL text of Query
and Parse messages by rules. So any statement works, and only what a rule names is fake. What it is
replaced by stands in the schema `fake` of the database: functions of the same types, so that
parameters and prepared statements go on working.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Where the words of a statement name it, with and without its schema.
_FUNCTION = r"(?:\bpg_catalog\.)?\b{}(?=\s*\()"
_RELATION = r"(?:\bpg_catalog\.)?\b{}\b"
_LOCK_FUNCTIONS = r"(pg_(?:try_)?advisory_\w+)"

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102


@dataclass(frozen=True)
class Fake:
    """A server that is none, or that lies.

    Attributes:
        rules: Patterns and what replaces them, in every SQL text.

        setup: What the schema `fake` needs for that.

        parameters: What it reports at connect, such as `server_version`.
    """

    rules: tuple[tuple[str, str], ...]
    setup: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    def rewrite(self, sql: str) -> str:
        """Change what is asked."""
        for pattern, replacement in self.rules:
            sql = re.sub(pattern, replacement, sql)
        return sql


# -- what a fake is made of ------------------------------------------------------------------------

_TRIES = (
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_shared",
)
_WAITS = (
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
)
_ALL_FAKE = (_FUNCTION.format(_LOCK_FUNCTIONS), r"fake.\1")
# The view, and the function beneath it.
_LOCKS_FAKE = (_RELATION.format("(pg_locks|pg_lock_status)"), r"fake.\1")
_NO_LOCKS = (
    "CREATE VIEW fake.pg_locks AS SELECT * FROM pg_catalog.pg_locks WHERE false;"
    "CREATE FUNCTION fake.pg_lock_status() RETURNS SETOF fake.pg_locks LANGUAGE sql "
    "AS 'SELECT * FROM fake.pg_locks';"
)


def _functions(answer: str, language: str = "sql") -> str:
    """Every lock function, of which those that answer do so with `answer`."""
    made = []
    for arguments in ("bigint", "int, int"):
        for name in (*_TRIES, *_WAITS):
            kind = "void" if name in _WAITS else "boolean"
            body = "SELECT NULL::void" if name in _WAITS and language == "sql" else answer
            made.append(
                f"CREATE FUNCTION fake.{name}({arguments}) RETURNS {kind} "
                f"LANGUAGE {language} VOLATILE AS $${body}$$;"
            )
    made.append(
        "CREATE FUNCTION fake.pg_advisory_unlock_all() RETURNS void LANGUAGE sql "
        "AS 'SELECT NULL::void';"
    )
    return "".join(made)


def _version(text: str) -> tuple[str, str]:
    return (_FUNCTION.format("version") + r"\(\)", f"'{text}'::text")


_NOT_SUPPORTED = (
    "BEGIN RAISE EXCEPTION 'advisory locks feature is currently not supported' "
    "USING ERRCODE = '0A000'; END"
)
_COCKROACH = "CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu, built 2023/09/27, go1.19.10)"
_YUGABYTE = "PostgreSQL 11.2-YB-2.20.1.0-b0 on x86_64-pc-linux-gnu, compiled by clang 15.0.7"
_REDSHIFT = (
    "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2 20041017, "
    "Redshift 1.0.61395"
)

ALWAYS_TRUE = Fake((_ALL_FAKE, _LOCKS_FAKE), _functions("SELECT true") + _NO_LOCKS)
# Every statement that locks or unlocks gives no row (NodeDB-Lab/nodedb#140).
NO_ROW = Fake(((r"(?s)^(\s*SELECT\b.*\bpg_(?:try_)?advisory_\w+\(.*)$", r"\1 WHERE false"),))
RAISES = Fake((_ALL_FAKE,), _functions(_NOT_SUPPORTED, "plpgsql"))
# Real locks, of which nobody is told: a grant cannot be verified.
HIDDEN = Fake((_LOCKS_FAKE,), _NO_LOCKS)
COCKROACH = Fake(
    (*ALWAYS_TRUE.rules, _version(_COCKROACH)),
    ALWAYS_TRUE.setup,
    (("server_version", "13.0.0"), ("crdb_version", _COCKROACH)),
)
YUGABYTE = Fake(
    (*RAISES.rules, _version(_YUGABYTE)),
    RAISES.setup,
    (("server_version", "11.2-YB-2.20.1.0-b0"),),
)
# With yb_silence_advisory_locks_not_supported_error.
YUGABYTE_SILENT = Fake(
    (*ALWAYS_TRUE.rules, _version(_YUGABYTE)), ALWAYS_TRUE.setup, YUGABYTE.parameters
)
# Nothing of the kind is there: what is not made in `fake` is missing.
REDSHIFT = Fake(
    (
        _ALL_FAKE,
        _LOCKS_FAKE,
        (_FUNCTION.format("(pg_is_in_recovery|pg_control_system)"), r"fake.\1"),
        _version(_REDSHIFT),
    ),
    "SELECT 1",
    (("server_version", "8.0.2"),),
)

UNSAFE = {
    "always-true": ALWAYS_TRUE,
    "no-row": NO_ROW,
    "raises": RAISES,
    "hidden": HIDDEN,
    "cockroach": COCKROACH,
    "yugabyte": YUGABYTE,
    "yugabyte-silent": YUGABYTE_SILENT,
    "redshift": REDSHIFT,
}


def old(version: str) -> Fake:
    """Make a server that says it is an older PostgreSQL."""
    told = _version(f"PostgreSQL {version} on x86_64-pc-linux-gnu")
    return Fake((told,), parameters=(("server_version", version),))


def skewed(seconds: float) -> Fake:
    """Make a server whose clock is ahead."""
    clock = _FUNCTION.format("clock_timestamp") + r"\(\)"
    return Fake(((clock, f"(pg_catalog.clock_timestamp() + interval '{seconds} s')"),))


def deaf(setting: str, value: str) -> Fake:
    """Make a server that takes our settings and keeps its own for one of them."""
    shown = f"CASE name WHEN '{setting}' THEN '{value}' ELSE setting END AS setting"
    masked = f"SELECT name, {shown}, unit, reset_val FROM pg_catalog.pg_settings"
    return Fake(
        ((_RELATION.format("pg_settings"), "fake.pg_settings"),),
        f"CREATE VIEW fake.pg_settings AS {masked};",
    )


# -- the relay -------------------------------------------------------------------------------------


@contextmanager
def fake_server(fake: Fake, dsn: str, tcp_dsn: str) -> Iterator[str]:
    """Play `fake` before a database; yield the address at which it does.

    Args:
        fake: What to play.

        dsn: The database, for somebody who may create a schema there; that stays, until the
            database is dropped.

        tcp_dsn: The same over TCP, which is what the relay speaks. Its role is used.
    """
    if fake.setup:
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("DROP SCHEMA IF EXISTS fake CASCADE; CREATE SCHEMA fake")
            session.execute(fake.setup)  # type: ignore[call-overload] # our own words
            session.execute("GRANT USAGE ON SCHEMA fake TO PUBLIC")
            session.execute("GRANT SELECT ON ALL TABLES IN SCHEMA fake TO PUBLIC")
    target = conninfo_to_dict(tcp_dsn)
    relay = _Relay(fake, str(target["host"]), int(target["port"]))
    try:
        yield make_conninfo(tcp_dsn, host="127.0.0.1", port=relay.start())
    finally:
        relay.stop()


class _Relay:
    """Passes messages on, in a thread of its own."""

    def __init__(self, fake: Fake, host: str, port: int) -> None:
        self._fake = fake
        self._upstream = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake", daemon=True)
        self._server: asyncio.Server | None = None

    def start(self) -> int:
        """Listen; return the port."""
        self._thread.start()
        return self._run(self._listen())

    def stop(self) -> None:
        """Hang up on everybody, and end the thread."""
        self._run(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _hang_up(self) -> None:
        assert self._server is not None
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        writers = [to_client]
        try:
            server, to_server = await asyncio.open_connection(*self._upstream)
            writers.append(to_server)
            await self._greet(client, to_client, to_server)
            ways = [
                asyncio.create_task(self._pass(client, to_server, self._question)),
                asyncio.create_task(self._pass(server, to_client, self._answer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for writer in writers:
                writer.close()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await writer.wait_closed()

    async def _greet(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        to_server: asyncio.StreamWriter,
    ) -> None:
        """Pass the first packet on, which has no type; refuse TLS, which nobody could rewrite."""
        while True:
            length, code = struct.unpack("!II", await client.readexactly(8))
            rest = await client.readexactly(length - 8)
            if code not in {_SSL_REQUEST, _GSS_REQUEST}:
                to_server.write(struct.pack("!II", length, code) + rest)
                return
            to_client.write(b"N")

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        change: Callable[[bytes, bytes], bytes],
    ) -> None:
        while True:
            kind, length = struct.unpack("!cI", await source.readexactly(5))
            body = change(kind, await source.readexactly(length - 4))
            sink.write(kind + struct.pack("!I", len(body) + 4) + body)
            await sink.drain()

    def _question(self, kind: bytes, body: bytes) -> bytes:
        if kind == b"Q":
            return self._rewritten(body[:-1]) + b"\0"
        if kind == b"P":
            name, sql, types = body.split(b"\0", 2)
            return name + b"\0" + self._rewritten(sql) + b"\0" + types
        return body

    def _rewritten(self, sql: bytes) -> bytes:
        return self._fake.rewrite(sql.decode()).encode()

    def _answer(self, kind: bytes, body: bytes) -> bytes:
        if kind == b"S":
            name, _, _ = body.partition(b"\0")
            told = dict(self._fake.parameters).get(name.decode())
            if told is not None:
                return name + b"\0" + told.encode() + b"\0"
        return body
