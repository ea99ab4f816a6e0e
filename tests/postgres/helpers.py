"""The verbs of the beliefs: send without waiting, look at the queue, wait on a condition.

Statements that block are sent through libpq's asynchronous calls, so that one thread can play
holder, waiter and witness, and the order of events is the order of the lines.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Any

from psycopg.pq import DiagnosticField, ExecStatus
from waiting import eventually

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGresult

PATIENCE = 10.0

_ENTRY = """
    SELECT granted FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND pid = %s AND objsubid = 1
      AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) | objid::bigint = %s
    """


def one(session: Connection[Any], sql: str, *params: object) -> Any:
    """Return the first column of the first row; without params this is the simple protocol."""
    row = session.execute(sql, params or None).fetchone()
    assert row is not None
    return row[0]


def send(session: Connection[Any], sql: str) -> None:
    """Send `sql` by the simple protocol and return without waiting for its answer."""
    session.pgconn.send_query(sql.encode())
    session.pgconn.flush()


def answers(session: Connection[Any], within: float = PATIENCE) -> list[PGresult]:
    """Return every result of what was sent; in pipeline mode: up to the next sync."""
    found: list[PGresult] = []
    while True:
        result = _next_result(session, within)
        if result is not None:
            found.append(result)
            if result.status == ExecStatus.PIPELINE_SYNC:
                return found
        elif not session.pgconn.pipeline_status:
            return found


def answered(session: Connection[Any]) -> bool:
    """Tell whether an answer to what was sent is there, without waiting for it."""
    session.pgconn.consume_input()
    return not session.pgconn.is_busy()


def _next_result(session: Connection[Any], within: float) -> PGresult | None:
    deadline = time.monotonic() + within
    while session.pgconn.is_busy():
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([session.pgconn.socket], [], [], left)[0]:
            raise AssertionError(f"no answer within {within:g} s")
        session.pgconn.consume_input()
    return session.pgconn.get_result()


def sqlstate(result: PGresult) -> str | None:
    """Return the SQLSTATE of a result, None for one without error."""
    field = result.error_field(DiagnosticField.SQLSTATE)
    return None if field is None else field.decode()


def value(result: PGresult, column: int = 0) -> str | None:
    """Return one field of the first row of a successful result, as text."""
    assert result.status == ExecStatus.TUPLES_OK, result.error_message
    field = result.get_value(0, column)
    return None if field is None else field.decode()


def entry(witness: Connection[Any], pid: int, key: int) -> bool | None:
    """Return whether `pid` was granted `key`: True, False while it waits, None without an entry."""
    row = witness.execute(_ENTRY, (pid, key)).fetchone()
    return None if row is None else row[0]


def waits(witness: Connection[Any], session: Connection[Any], key: int) -> bool:
    """Tell whether `session` stands in the queue for `key`."""
    return entry(witness, session.info.backend_pid, key) is False


def start_waiting(
    witness: Connection[Any], session: Connection[Any], key: int, sql: str = ""
) -> None:
    """Send a blocking acquire from `session` and return once the server has queued it."""
    send(session, sql or f"SELECT pg_advisory_lock({key})")
    eventually(lambda: waits(witness, session, key), message=f"a waiter for {key}")


def hang_up(session: Connection[Any]) -> None:
    """End the connection as a killed client does: no Terminate message, just an end of file."""
    with socket.socket(fileno=session.pgconn.socket) as alias:
        alias.shutdown(socket.SHUT_RDWR)
        alias.detach()


def is_gone(witness: Connection[Any], pid: int) -> bool:
    """Tell whether the server no longer runs a backend with this process id."""
    sql = "SELECT count(*) = 0 FROM pg_catalog.pg_stat_activity WHERE pid = %s"
    return bool(one(witness, sql, pid))
