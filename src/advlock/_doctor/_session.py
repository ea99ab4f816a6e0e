"""One plain connection of the doctor's, each of whose answers has a limit of time.

Anything unexpected ends the connection, and the server frees what it held: no clean-up statement
can fail half-way.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from advlock._dsn import redact_text

if TYPE_CHECKING:
    from typing import LiteralString

Rows = list[tuple[str | None, ...]]


class Unanswered(Exception):  # noqa: N818 - an answer of a kind: the check is noted, others go on
    """A question got no answer that could be used; the text says why."""


class Refused(Unanswered):
    """The server answered with an error."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{message} ({sqlstate})" if sqlstate else message)
        self.sqlstate = sqlstate
        self.message = message


class Budget:
    """The time that is left: for one question, and for all."""

    def __init__(self, total: float, step: float) -> None:
        self._end = time.monotonic() + total
        self._step = step

    def next(self) -> float:
        """How long the next question may take.

        Raises:
            Unanswered: nothing is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise Unanswered("the doctor's time was over")
        return min(left, self._step)


class Session:
    """A connection that asks one question at a time."""

    def __init__(self, conninfo: str, budget: Budget) -> None:
        """Connect.

        Raises:
            psycopg.Error, OSError: there is no connection to be had.
        """
        self._conninfo = conninfo
        self._budget = budget
        self._connection = psycopg.Connection.connect(conninfo, autocommit=True)
        self._pgconn = self._connection.pgconn

    @property
    def startup_pid(self) -> int:
        """The process id that the server, or a pooler, gave at connect."""
        return self._pgconn.backend_pid

    @property
    def info(self) -> psycopg.ConnectionInfo:
        """What the driver knows about the connection."""
        return self._connection.info

    @property
    def tls(self) -> bool:
        """Whether our end speaks TLS."""
        return bool(self._pgconn.ssl_in_use)

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._connection.closed

    def ask(self, sql: LiteralString, *params: object) -> Rows:
        """Ask, and return the rows of the last statement as text.

        Raises:
            Refused: the server answered with an error; the session goes on.
            Unanswered: no answer in time, or the session broke; it is closed.
        """
        self.send(sql, *params)
        return self.answer()

    def value(self, sql: LiteralString, *params: object) -> str | None:
        """Ask for one value.

        Raises:
            Unanswered: as `ask`, or there is no row.
        """
        rows = self.ask(sql, *params)
        if not rows:
            raise Unanswered("the server returned no row")
        return rows[0][0]

    def send(self, sql: LiteralString, *params: object) -> None:
        """Send a question without waiting for the answer."""
        text = sql.encode()
        try:
            if params:  # the extended protocol, which takes one statement
                values = [None if value is None else str(value).encode() for value in params]
                self._pgconn.send_query_params(text, values)
            else:
                self._pgconn.send_query(text)
        except psycopg.Error as error:
            raise self._broken(error) from None

    def answer(self) -> Rows:
        """Wait for the answer to what was sent.

        Raises:
            Refused, Unanswered: as `ask`.
        """
        limit = self._budget.next()
        until = time.monotonic() + limit
        results: list[Any] = []
        try:
            while not self._received(results):
                left = until - time.monotonic()
                if left <= 0:
                    self.close()
                    raise Unanswered(f"no answer within {limit:.1f} s")
                self._wait(left)
        except psycopg.Error as error:
            raise self._broken(error) from None
        return _rows(results)

    def _received(self, results: list[Any]) -> bool:
        self._pgconn.consume_input()
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                return True
            results.append(result)
        return False

    def _wait(self, seconds: float) -> None:
        """Wait for the socket; an interruption passes through here."""
        poll = select.poll()
        more = self._pgconn.flush()
        poll.register(self._pgconn.socket, select.POLLIN | (select.POLLOUT if more else 0))
        poll.poll(seconds * 1000)

    def _broken(self, error: Exception) -> Unanswered:
        self.close()
        return Unanswered(f"the session broke: {said(error, self._conninfo)}")

    def close(self) -> None:
        """Say goodbye. In an open transaction a pooler ends the server's session, too."""
        self._connection.close()

    def drop(self) -> None:
        """Close our end of the socket without a word, as a process that is killed does."""
        with contextlib.suppress(OSError), socket.socket(fileno=self._pgconn.socket) as alias:
            try:
                alias.shutdown(socket.SHUT_RDWR)
            finally:
                alias.detach()
        self._connection.close()


def said(error: BaseException, conninfo: str) -> str:
    """Return an error's words in one line, and without a password."""
    lines = (line.strip() for line in str(error).splitlines())
    return redact_text("; ".join(filter(None, lines)) or type(error).__name__, conninfo)


def _rows(results: list[Any]) -> Rows:
    rows: Rows = []
    for result in results:
        if result.status == pq.ExecStatus.TUPLES_OK:
            columns = range(result.nfields)
            rows = [
                tuple(_text(result.get_value(row, column)) for column in columns)
                for row in range(result.ntuples)
            ]
        elif result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY}:
            sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no message"
            raise Refused(sqlstate.decode(), message.decode("utf-8", "replace").strip())
    return rows


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
