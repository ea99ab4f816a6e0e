"""A transaction that pins its server session behind a pooler, and a pooler to try it on.

The transaction is one libpq pipeline with one Sync: a single round trip, and for a pooler a single
request. It ends in a return to the savepoint because the statement before it has parameters, and
would keep its snapshot until the next one, and its locks on tables until the end (test_pinning.py).
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from .helpers import PATIENCE, answers, one, sqlstate, value

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from bouncers import Bouncer
    from psycopg import Connection
    from psycopg.pq.abc import PGresult

    Connect = Callable[..., Connection[Any]]

HEARTBEAT = "/* advlock: heartbeat */"
ROLLBACK = "ROLLBACK TO SAVEPOINT advlock"
RELEASE = b"RELEASE SAVEPOINT advlock"
TRY = b"SELECT pg_catalog.pg_try_advisory_lock(x) FROM pg_catalog.unnest($1::int8[]) x"
LEAVE = "SELECT pg_advisory_unlock_all(); COMMIT"

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_SET = b"SELECT pg_catalog.set_config($1, $2, true)"
_SAVEPOINT = b"SAVEPOINT advlock"


@dataclass(frozen=True, slots=True)
class Pooler:
    """A PgBouncer before the test database.

    Attributes:
        bouncer: The program.

        dbname: The test database.

        clients: Closes them, at the end of the test.
    """

    bouncer: Bouncer
    dbname: str
    clients: ExitStack

    def connect(self, **options: object) -> Connection[Any]:
        """Open a client in autocommit mode, without named prepared statements: they would stay."""
        dsn = self.bouncer.dsn(self.dbname, **options)
        session = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        self.clients.callback(session.close)
        return session


def send_pin(
    session: Connection[Any],
    *keys: int,
    settings: dict[str, str] | None = None,
    try_: bytes = TRY,
    end: bytes | None = ROLLBACK.encode(),
) -> None:
    """Send the pipeline that begins the transaction and tries for `keys`.

    Args:
        session: Who begins it.

        keys: What to try for.

        settings: Set for this transaction only.

        try_: The statement that tries.

        end: The last statement; None to do without.
    """
    pgconn = session.pgconn
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(_BEGIN, None)
    for name, setting in (settings or {}).items():
        pgconn.send_query_params(_SET, [name.encode(), setting.encode()])
    pgconn.send_query_params(_SAVEPOINT, None)
    pgconn.send_query_params(try_, [f"{{{','.join(map(str, keys))}}}".encode()])
    if end:
        pgconn.send_query_params(end, None)
    pgconn.pipeline_sync()
    pgconn.flush()


def pin(session: Connection[Any], *keys: int, **how: Any) -> list[bool]:
    """Begin the transaction as `send_pin` does; return for each key whether it was granted."""
    send_pin(session, *keys, **how)
    results = answers(session)
    session.pgconn.exit_pipeline_mode()
    assert not [error for result in results if (error := sqlstate(result))]
    tried = results[2 + len(how.get("settings") or {})]
    assert session.info.transaction_status == TransactionStatus.INTRANS
    return [tried.get_value(row, 0) == b"t" for row in range(tried.ntuples)]


def pinned(session: Connection[Any], key: int, **settings: str) -> int:
    """Begin the transaction and get the lock; return the process id of the backend."""
    assert pin(session, key, settings=settings) == [True]
    return backend(session)


def backend(session: Connection[Any]) -> int:
    """Ask which backend answers."""
    pid: int = one(session, "SELECT pg_catalog.pg_backend_pid()")
    return pid


def free(witness: Connection[Any], key: int) -> bool:
    """Tell whether nobody has the lock: get it, and let it go."""
    return bool(
        one(
            witness,
            f"SELECT CASE WHEN pg_try_advisory_lock({key}) THEN pg_advisory_unlock({key}) END",
        )
    )


def refusal(session: Connection[Any]) -> tuple[str | None, str]:
    """Return SQLSTATE and message of the next answer, an error; also when the session is over."""
    pgconn, deadline = session.pgconn, time.monotonic() + PATIENCE
    while pgconn.is_busy():
        readable = select.select([pgconn.socket], [], [], max(0, deadline - time.monotonic()))[0]
        assert readable, f"no answer within {PATIENCE:g} s"
        pgconn.consume_input()
    result: PGresult | None = pgconn.get_result()
    assert result is not None
    return sqlstate(result), result.error_message.decode().strip()


def ended(session: Connection[Any]) -> bool:
    """Tell whether something has come for a session that asked nothing: a goodbye, or its end."""
    return bool(select.select([session.fileno()], [], [], 0)[0])


def last_words(session: Connection[Any]) -> tuple[str | None, str]:
    """Return SQLSTATE and message with which a session answers that is over."""
    try:
        session.execute(HEARTBEAT)
    except psycopg.Error as error:
        return error.sqlstate, str(error)
    raise AssertionError("the session is not over")


def footprint(witness: Connection[Any], pid: int) -> tuple[bool, bool]:
    """Return whether a backend has a transaction id, and whether it has a snapshot."""
    columns = "array[backend_xid IS NOT NULL, backend_xmin IS NOT NULL]"
    xid, xmin = one(witness, f"SELECT {columns} FROM pg_stat_activity WHERE pid = %s", pid)
    return xid, xmin


def setting(session: Connection[Any], name: str) -> str | None:
    """Return a setting of the session that answers."""
    return value(session.pgconn.exec_(f"SHOW {name}".encode()))
