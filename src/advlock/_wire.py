"""One libpq connection, spoken to without ever waiting.

Both shells use it: they send, wait for the socket in their own way, and call `receive` until the
answer is whole. psycopg makes the connection and owns the protocol; its cursors are not used,
because they cost more than the round trip (`python3 dev.py bench`).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
import time
from collections import deque
from functools import partial
from itertools import islice, starmap
from operator import call
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import pq

from advlock import _sql
from advlock._plan import Refused, Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._ledger import Op

_INT8: Final = 20
_SMALLINT_ARRAY: Final = 1005
_BIGINT_ARRAY: Final = 1016
_BINARY: Final = 1
_BATCH: Final = b"advlock_batch"
_DECLARING: Final = b"advlock_declaring"
_STATEMENTS: Final = {
    b"advlock_try": (_sql.TRY_ONE.encode(), (_INT8,)),
    b"advlock_unlock": (_sql.UNLOCK_ONE.encode(), (_INT8,)),
    _BATCH: (_sql.BATCH.encode(), (_SMALLINT_ARRAY, _BIGINT_ARRAY)),
    _DECLARING: (_sql.DECLARING_BATCH.encode(), (_SMALLINT_ARRAY, _BIGINT_ARRAY)),
}
_ALONE: Final = {_sql.TRY: b"advlock_try", _sql.UNLOCK: b"advlock_unlock"}
_pack_int8: Final = struct.Struct(">q").pack
_FORMAT_BINARY: Final = (_BINARY,)
_HEARTBEAT: Final = _sql.HEARTBEAT.encode()
_CANCEL_LIMIT: Final = 0.25  # seconds; on a working network it takes one or two thousandths
_STOP_LIMIT: Final = 0.1
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_ERROR: Final = int(pq.ExecStatus.FATAL_ERROR)  # libpq's word for any error
_FATAL: Final = (b"FATAL", b"PANIC")
HUNG_UP: Final = "the server closed the session"
# How libpq says so, and in front of it what the server said itself.
_LIBPQ_S_WORDS: Final = re.compile(
    r"^(?:[a-z ]+ failed: )?(?:FATAL: +)?(.*?)\s*server closed the connection unexpectedly"
)
_ITS_END: Final = getattr(select, "POLLRDHUP", 0)
_NEVER: Final = object()

Rows = list[tuple[str | None, ...]]


class Answer(NamedTuple):
    """What came back: the rows of each statement, or the server's refusal."""

    results: list[Any]

    def rows(self) -> list[Rows]:
        """Return the rows of every statement, as text.

        Raises:
            Refused: the server answered with an error.
        """
        rows: list[Rows] = []
        for result in self.results:
            try:
                rows.append(_rows(result))
            except Refused as refusal:
                refusal.rows = rows  # what was answered before
                raise
        return rows

    def verdicts(self) -> list[bool]:
        """Return the answers to a batch of ops, in order.

        Raises:
            Refused: the server answered with an error.
        """
        result = self.results[-1]  # the one before it is that of its preparation
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise _refusal(self.results[0] if self.results[0].status == _ERROR else result)
        value = result.get_value
        return [value(row, 0) in (b"\x01", b"t") for row in range(result.ntuples)]


class Wire:
    """A connection that sends and receives, and never waits."""

    __slots__ = (
        "_connection",
        "_prepared",
        "_preparing",
        "_results",
        "_syncs",
        "_words",
        "carried",
        "expects",
        "fd",
        "pgconn",
        "silence",
        "unsent",
    )

    pinned = False  # whether a transaction is around what holds locks (`_pinned`)
    restless = False  # whether that transaction goes on, and nothing is under way

    def __init__(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        # psycopg's object owns the connection in its own eyes. One that belongs to a pool ends
        # with the program without a warning, as ours does: our client warns for itself.
        self._connection = connection
        connection._pool = None
        self.pgconn = connection.pgconn
        self.pgconn.nonblocking = 1
        self.fd = self.pgconn.socket
        # A server that ends an idle session says why, which is a notice to libpq, lets go of the
        # locks, and only then hangs up (tests/chaos/test_frozen.py).
        self._words: list[str] = []
        self.pgconn.notice_handler = partial(_listen, self._words)  # no cycle through ourselves
        self._results: list[Any] = []
        self._syncs = 0
        self._prepared: set[bytes] = set()
        self._preparing: bytes | None = None
        self.expects = False
        self.unsent = False
        self.silence = "the server did not answer"  # what it means that no answer comes
        self.carried: Sequence[object] = ()  # what the session holds; for those that are pinned

    # -- sending ---------------------------------------------------------------------------------

    def send_ops(self, ops: Sequence[Op]) -> None:
        """Send one combined request: all of `ops`, in order, in one round trip."""
        pgconn = self.pgconn
        self._results, self._syncs = [], 0
        name = _ALONE.get(ops[0].code) if len(ops) == 1 else None
        arguments: tuple[Any, ...]
        if name is not None:
            arguments = (name, (_pack_int8(ops[0].value),), _FORMAT_BINARY, _BINARY)
        else:
            codes = ",".join([str(op.code) for op in ops])
            values = ",".join([str(op.value) for op in ops])
            name = _DECLARING if any(op.code >= _sql.DECLARE for op in ops) else _BATCH
            arguments = (name, (f"{{{codes}}}".encode(), f"{{{values}}}".encode()))
        if name in self._prepared:
            pgconn.send_query_prepared(*arguments)
        else:
            self._prepare_and_send(name, arguments)
        self.expects = True
        self.unsent = bool(pgconn.flush())

    def _prepare_and_send(self, name: bytes, arguments: tuple[Any, ...]) -> None:
        # Not earlier: on a session that a pooler lends, the name would stay behind.
        pgconn = self.pgconn
        self._preparing, self._syncs = name, 1
        self._call(
            (pgconn.enter_pipeline_mode,),
            (pgconn.send_prepare, name, *_STATEMENTS[name]),
            (pgconn.send_query_prepared, *arguments),
            (pgconn.pipeline_sync,),
        )

    def _call(self, *calls: tuple[Any, ...]) -> None:
        # In C from end to end: an exception between two instructions cannot leave half a request.
        deque(starmap(call, calls), maxlen=0)

    def send_heartbeat(self) -> None:
        """Ask for nothing but an answer."""
        self._results, self._syncs = [], 0
        self.pgconn.send_query_params(_HEARTBEAT, [])
        self.expects = True
        self.unsent = bool(self.pgconn.flush())

    def send_script(self, script: Script) -> None:
        """Send several statements at once, as one libpq pipeline: one round trip."""
        pgconn = self.pgconn
        calls: list[tuple[Any, ...]] = [(pgconn.enter_pipeline_mode,)]
        for step in script.steps:
            params = [None if value is None else value.encode() for value in step.params]
            calls.append((pgconn.send_query_params, step.sql.encode(), params))
            if step.sync:
                calls.append((pgconn.pipeline_sync,))
        calls.append((pgconn.pipeline_sync,))
        self._results = []
        self._syncs = sum(step.sync for step in script.steps) + 1
        self._call(*calls)
        self.expects = True
        self.unsent = bool(pgconn.flush())

    # -- receiving -------------------------------------------------------------------------------

    def receive(self) -> Answer | None:
        """Take what has arrived; return the whole answer, or None while more must come.

        May be called again after it was interrupted.

        Raises:
            psycopg.OperationalError: the connection is broken.
        """
        pgconn = self.pgconn
        if self.unsent:
            self.unsent = bool(pgconn.flush())
        try:
            pgconn.consume_input()
        except psycopg.OperationalError:
            self._hear_last_words()
            raise
        results, syncs = self._results, self._syncs
        while not (_count_syncs(results) == syncs if syncs else results and results[-1] is None):
            if pgconn.is_busy():
                return None
            # In C from end to end: an exception between two instructions cannot drop a result.
            results.extend(islice(iter(pgconn.get_result, _NEVER), 1))
            if results[-1] is not None and results[-1].status == _ERROR:
                self._check_goodbye(results[-1])
        if pgconn.pipeline_status:
            pgconn.exit_pipeline_mode()
        # A goodbye that came in one piece with the answer has left the socket: only libpq has it,
        # and reads on when it is asked (tests/chaos/test_frozen.py).
        pgconn.is_busy()
        if self._words:
            raise psycopg.OperationalError(self._words[0])
        self.expects = False
        if self._preparing is not None:
            if results[0].status == pq.ExecStatus.COMMAND_OK:
                self._prepared.add(self._preparing)
            self._preparing = None
        return Answer([r for r in results if r is not None and r.status != _SYNC])

    def _hear_last_words(self) -> None:
        # They came together with the end, and a pooler's are no notice (test_poolers.py).
        while not self.pgconn.is_busy() and (result := self.pgconn.get_result()) is not None:
            _listen(self._words, result)

    def _check_goodbye(self, error: Any) -> None:
        _listen(self._words, error)
        if self._words:  # there is no answer any more
            raise psycopg.OperationalError(self._words[0])

    def under_way(self) -> bool:
        """Tell whether libpq took a request, where an interruption leaves that open.

        If so, it is ready to be received.
        """
        taken = self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        if taken:
            self.expects = self.unsent = True
        return bool(taken)

    def hung_up(self) -> bool:
        """Take what an idle connection has to say; tell whether that was goodbye."""
        try:
            self.pgconn.consume_input()
            while not self.pgconn.is_busy():
                if self.pgconn.get_result() is None:
                    break
        except psycopg.OperationalError:
            return True
        return bool(self._words) or self.pgconn.status != pq.ConnStatus.OK

    def has_news(self) -> bool:
        """Tell whether there is anything to read, or to be told. Anybody may ask at any time."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def is_cut(self) -> bool:
        """Tell whether the server has hung up. Reads nothing, so anybody may ask at any time."""
        poll = select.poll()
        poll.register(self.fd, _ITS_END)
        return bool(poll.poll(0))

    def reason(self, error: Exception | None = None) -> str:
        """Say in a few words why the session is over."""
        told = _LIBPQ_S_WORDS.search(str(error or ""))
        words = self._words[0] if self._words else told[1] if told else ""
        if words:
            return f"{HUNG_UP} ({words})"
        return HUNG_UP if told or error is None else str(error)

    # -- ending ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye and close; the server frees the session's locks."""
        self.pgconn.finish()

    def cancel(self) -> None:
        """Ask the server to stop what it is doing; waits at most `_CANCEL_LIMIT` seconds."""
        with contextlib.suppress(psycopg.Error, OSError):
            cancel = self.pgconn.cancel_conn()
            cancel.start()
            limit = time.monotonic() + _CANCEL_LIMIT
            while (status := cancel.poll()) in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
                reading = status == pq.PollingStatus.READING
                poll = select.poll()
                poll.register(cancel.socket, select.POLLIN if reading else select.POLLOUT)
                if not poll.poll(max(0.0, limit - time.monotonic()) * 1000):
                    break
            cancel.finish()

    def stop(self) -> None:
        """Cancel, and wait for the server's word that it has stopped; then nobody waits any more.

        Without that word a lock that is freed meanwhile could be granted to a wait that is over.
        """
        self.cancel()
        limit = time.monotonic() + _STOP_LIMIT
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        with contextlib.suppress(psycopg.Error):
            while poll.poll(max(0.0, limit - time.monotonic()) * 1000):
                if self.receive() is not None:
                    break

    def abandon(self) -> None:
        """Close our end of the socket without a word to the server.

        Another process that inherited the socket keeps the session, and its locks. libpq's own
        goodbye (and TLS's) would end the session for it, so it is sent to /dev/null instead.
        """
        self.disown()
        self.pgconn.finish()

    def disown(self) -> None:
        """In a forked child: let go of the parent's socket, and leave libpq's object alone."""
        if self.pgconn.status == pq.ConnStatus.OK:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, self.fd, inheritable=False)
            os.close(null)

    @property
    def connection(self) -> Any:
        """What psycopg made, for another wire to go on with."""
        return self._connection

    def parameter(self, name: str) -> str:
        """Return what the server reported of one of its settings at connect."""
        value = self.pgconn.parameter_status(name.encode())
        return value.decode() if value else ""


def _listen(words: list[str], notice: Any) -> None:
    # A pooler has the one, and a server with translated messages the other.
    fields = (pq.DiagnosticField.SEVERITY_NONLOCALIZED, pq.DiagnosticField.SEVERITY)
    if any(notice.error_field(field) in _FATAL for field in fields):
        message = notice.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        words.append(message.decode("utf-8", "replace"))


def _count_syncs(results: list[Any]) -> int:
    return sum(result is not None and result.status == _SYNC for result in results)


def _rows(result: Any) -> Rows:
    if result.status == pq.ExecStatus.COMMAND_OK:
        return []
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise _refusal(result)
    return [
        tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _refusal(result: Any) -> Refused:
    sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    return Refused(
        (sqlstate or b"").decode(),
        (message or result.error_message or b"no message").decode("utf-8", "replace").strip(),
    )
