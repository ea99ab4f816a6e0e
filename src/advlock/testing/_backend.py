"""One session of the memory server: the server's end of a connection."""

from __future__ import annotations

import contextlib
import inspect
import secrets
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock.testing import _protocol as protocol
from advlock.testing._locking import DEADLOCK, Locking
from advlock.testing._protocol import Refusal
from advlock.testing._settings import Transaction
from advlock.testing._statements import Statement, understand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator
    from typing import TypeAlias

    from advlock.testing._locking import Patience
    from advlock.testing._protocol import Message, Rows
    from advlock.testing._server import Server

    Waiting: TypeAlias = Generator[Patience, bool, Any]

_DEADLOCK_TIMEOUT: Final = 1.0  # seconds, PostgreSQL's default
_REPORTED: Final = ("application_name", "client_encoding")
_CANCELLED: Final = Refusal("57014", "canceling statement due to user request")
_IDLE: Final = {
    "I": ("idle_session_timeout", "57P05", "terminating connection due to idle-session timeout"),
    "T": (
        "idle_in_transaction_session_timeout",
        "25P03",
        "terminating connection due to idle-in-transaction timeout",
    ),
}
_IDLE["E"] = _IDLE["T"]
_STATES: Final = {
    "I": "idle",
    "T": "idle in transaction",
    "E": "idle in transaction (aborted)",
}


class Portal(NamedTuple):
    """A statement with its values."""

    statement: Statement
    params: tuple[str | None, ...]
    formats: list[int]


class Backend(Locking):
    """A session. It is an `asyncio.Protocol` by its shape.

    What a client says is done one after the other; a statement that waits is a generator, and
    what comes meanwhile stays where it is.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.secret = secrets.randbits(31)
        self._transport: Any = None
        self._buffer = bytearray()
        self._out = bytearray()
        self._statements: dict[str, Statement] = {}
        self._portals: dict[str, Portal] = {}
        self._work: Waiting | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._met = False
        self._skipping = False
        self.over = False

    # -- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        self.server.backends.add(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client says."""
        self._buffer += data
        self._go_on()

    def eof_received(self) -> None:
        """Take that the client has hung up; the transport closes then."""

    def connection_lost(self, error: Exception | None) -> None:
        """End the session, whatever it does."""
        del error
        self.end()

    def pause_writing(self) -> None:
        """Nothing: a client that does not read gets its answers later."""

    def resume_writing(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """End the session: its locks are free when this returns."""
        if not self.over:
            self.over = True
            self._stop_timers()
            self.server.backends.discard(self)
            self.table.end(self)
            self._transport.close()

    def terminate(self, sqlstate: str, why: str) -> None:
        """End the session, and tell the client why."""
        if self.over:
            return
        refusal = Refusal(sqlstate, why)
        self._transport.write(bytes(self._out) + protocol.error(refusal, "FATAL"))
        # At once, and whoever has inherited the socket: a copy of it keeps a connection open.
        ours = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the client has gone first
            ours.shutdown(socket.SHUT_WR)
        self.end()

    # -- one thing after the other ---------------------------------------------------------------

    def _go_on(self) -> None:
        while not self.over and self._work is None:
            if not self._met:
                if not self._meet():
                    break
                continue
            message = protocol.next_message(self._buffer)
            if message is None:
                break
            self._stop_timers()
            self.does("active")
            self._work = self._handle(message)
            self._step(None)
        self._flush()

    def _step(self, outcome: bool | Refusal | None) -> None:  # noqa: FBT001
        """Go on with what is under way; until it is through, or waits again."""
        assert self._work is not None
        self._stop_timers()
        try:
            if isinstance(outcome, Refusal):
                patience = self._work.throw(outcome)
            else:
                patience = self._work.send(outcome)  # type: ignore[arg-type]
        except StopIteration:
            self._work = None
            return
        if patience.seconds is not None:
            self._after(patience.seconds, self._wake, False)  # noqa: FBT003
        if patience.circles:
            self._after(_DEADLOCK_TIMEOUT, self._look_for_a_circle)

    def _wake(self, outcome: bool | Refusal) -> None:  # noqa: FBT001
        if not self.over and self._work is not None:
            if outcome is not True:
                self.table.withdraw(self)
            self._step(outcome)
            self._go_on()

    def granted(self) -> None:
        """Go on: what was waited for is ours. As soon as the server does anything again."""
        self.server.loop.call_soon(self._wake, True)  # noqa: FBT003

    def cancel(self) -> None:
        """Stop waiting, if it waits."""
        if self.table.waits(self):
            self._wake(_CANCELLED)

    def _look_for_a_circle(self) -> None:
        if self.table.waits_for_itself(self):
            self._wake(DEADLOCK)

    def _after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        self._timers.append(self.server.loop.call_later(seconds, callback, *args))

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _say(self, data: bytes) -> None:
        self._out += data

    def _flush(self) -> None:
        if self._out and not self.over:
            self._transport.write(bytes(self._out))
            self._out.clear()

    # -- messages --------------------------------------------------------------------------------

    def _meet(self) -> bool:
        hello = protocol.hello(self._buffer)
        if hello is None:
            return False
        if hello.code in protocol.ENCRYPTION:
            self._say(protocol.NO)
        elif hello.code == protocol.CANCEL:
            self.server.cancel(*hello.whom)
            self.end()
        elif self.server.refuses:
            self.terminate("53300", self.server.refuses)
        else:
            self._welcome(hello)
        return True

    def _welcome(self, hello: protocol.Hello) -> None:
        wanted = hello.parameters
        if hello.code != protocol.VERSION:
            self._say(protocol.negotiate([name for name in wanted if name.startswith("_pq_.")]))
        self._met = True
        self.user = wanted.get("user", "")
        self.database = wanted.get("database", self.user)
        self.at = Transaction({"application_name": wanted.get("application_name", "")})
        reports = {
            "server_version": self.at.get("server_version"),
            "server_encoding": "UTF8",
            "client_encoding": "UTF8",
            "application_name": self.application,
            "in_hot_standby": "off",
            "is_superuser": "on",
            "integer_datetimes": "on",
            "standard_conforming_strings": "on",
            "DateStyle": "ISO, MDY",
            "TimeZone": "UTC",
        }
        self._say(protocol.welcome(reports, self.pid, self.secret))
        self._ready()

    def _ready(self) -> None:
        if self.at.status == "I":
            self.finish(well=True)
        self.does(_STATES[self.at.status])
        setting, sqlstate, why = _IDLE[self.at.status]
        if (seconds := self.at.seconds(setting)) is not None:
            self._after(seconds, self.terminate, sqlstate, why)
        self._say(protocol.ready(self.at.status))

    def _handle(self, message: Message) -> Waiting:
        kind, body = message
        if kind == "S":
            self._skipping = False
            self._ready()
        elif kind == "X":
            self.end()
        elif kind == "Q":
            yield from self._simple(protocol.Reader(body).text())
            self._ready()
        elif not self._skipping:
            try:
                yield from self._extended(kind, body)
            except Exception as error:  # noqa: BLE001 - whoever asked is told
                self._skipping = True
                self._fail(error)

    def _simple(self, text: str) -> Waiting:
        try:
            for statement in understand(text):
                if statement.empty:
                    self._say(protocol.message("I"))
                    continue
                rows = yield from self._run(statement, ())
                if statement.columns:
                    self._say(protocol.columns(statement.columns, (), statement.names))
                self._answer(statement, rows, ())
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            self._fail(error)

    def _extended(self, kind: str, body: bytes) -> Waiting:
        reader = protocol.Reader(body)
        if kind == "P":
            name, text = reader.text(), reader.text()
            self._statements[name], *more = understand(text)
            if more:
                raise Refusal("42601", "cannot insert multiple commands into a prepared statement")
            self._say(protocol.message("1"))
        elif kind == "B":
            bind = protocol.read_bind(body)
            statement = self._statement(bind.statement)
            params = bind.texts(statement.takes)
            self._portals[bind.portal] = Portal(statement, params, bind.formats)
            self._say(protocol.message("2"))
        elif kind == "D":
            self._describe(reader.bytes(1), reader.text())
        elif kind == "E":
            statement, params, formats = self._portal(reader.text())
            if statement.empty:
                self._say(protocol.message("I"))
                return
            rows = yield from self._run(statement, params)
            self._answer(statement, rows, formats)
        elif kind == "C":
            named = self._portals if reader.bytes(1) == b"P" else self._statements
            named.pop(reader.text(), None)
            self._say(protocol.message("3"))
        elif kind != "H":
            raise Refusal("08P01", f"the memory server does not know the message {kind!r}")

    def _describe(self, what: bytes, name: str) -> None:
        if what == b"P":
            statement, _, formats = self._portal(name)
            self._say(protocol.columns(statement.columns, formats, statement.names))
            return
        statement = self._statement(name)
        self._say(protocol.parameters(statement.takes))
        self._say(protocol.columns(statement.columns, (), statement.names))

    def _statement(self, name: str) -> Statement:
        if name not in self._statements:
            raise Refusal("26000", f'prepared statement "{name}" does not exist')
        return self._statements[name]

    def _portal(self, name: str) -> Portal:
        if name not in self._portals:
            raise Refusal("34000", f'portal "{name}" does not exist')
        return self._portals[name]

    # -- statements ------------------------------------------------------------------------------

    def _run(
        self, statement: Statement, params: tuple[str | None, ...]
    ) -> Generator[Patience, bool, Rows]:
        self.asks(statement.text)
        if not statement.rescues:
            self.at.check()
        self.at.start()
        rows = statement.run(self, params)
        if inspect.isgenerator(rows):
            rows = yield from rows
        return rows or []

    def _answer(self, statement: Statement, rows: Rows, formats: list[int] | tuple[()]) -> None:
        for row in rows:
            self._say(protocol.row(statement.columns, row, formats))
        tag = f"SELECT {len(rows)}" if statement.columns else statement.tag
        self._say(protocol.complete(tag))

    def _fail(self, error: Exception) -> None:
        refusal = error if isinstance(error, Refusal) else Refusal("XX000", repr(error))
        # At once, and not with the ROLLBACK: that is when PostgreSQL lets go.
        self.table.roll_back(self, self.at.level)
        self.at.fail()
        self._say(protocol.error(refusal))

    def set(self, name: str, value: str, *, local: bool = False) -> str:
        """Change a setting, and tell the client where it wants to know."""
        told = super().set(name, value, local=local)
        if name in _REPORTED:
            self._say(protocol.report(name, value))
        return told
