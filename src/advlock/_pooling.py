"""Find out how a connection pooler lends its server sessions, by watching what it does.

Two connections ask in turns which backend answers. If one of them moves, or both have the same one,
the pooler lends a session for one transaction: that is proof. A coin decides whose turn it is, so
that no order in which a pooler hands out its sessions can look like two sessions that stay
(tests/postgres/test_poolers.py). Whatever is not proved is "unsure", and then treated as if
it were transaction pooling, because a transaction pins a session behind every pooler.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import time
from contextlib import ExitStack, closing
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg

from advlock import _sql
from advlock._direct import direct
from advlock._plan import Refused, Script, Step
from advlock._set_up import statement_pooling
from advlock._wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from advlock._wire import Rows

ASKS: Final = 32  # the more, the less a busy pool can look still; with two sessions, 1 in 2^31
_QUEUED: Final = 0.25  # seconds without an answer, after which somebody else is asked
_GONE: Final = 0.7  # seconds within which what a session has must go with its connection
_LEAKS: Final = "what a client leaves there stays: server_reset_query?"


class Pooling(Enum):
    """How long a client keeps the server session that it is lent."""

    DIRECT = "direct"
    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"
    UNSURE = "unsure"


class Verdict(NamedTuple):
    """What was found.

    Attributes:
        pooling: The mode.

        evidence: What was seen, in a few words.

        leaks: Whether a session's locks outlive its client, because the pooler does not reset it.
    """

    pooling: Pooling
    evidence: str
    leaks: bool = False

    @property
    def pins(self) -> bool:
        """Whether a transaction has to be around what holds locks."""
        return self.pooling is not Pooling.SESSION or self.leaks

    def checked(self, conninfo: str) -> Self:
        """Return it.

        Raises:
            UnsafeServer: no transaction can pin a session there.
        """
        if self.pooling is Pooling.STATEMENT:
            raise statement_pooling(direct(conninfo))
        return self


class _Silent(Exception):  # noqa: N818 - an answer, not a failure
    """No answer yet."""


class _Caller:
    """A plain connection that asks, and does not wait for ever."""

    def __init__(self, conninfo: str) -> None:
        self._wire = Wire(psycopg.Connection.connect(conninfo, autocommit=True))
        self.startup_pid = self._wire.pgconn.backend_pid

    def ask(self, sql: str, *params: object, within: float) -> Rows:
        if not self._wire.expects:
            step = Step(sql, tuple(str(value) for value in params))
            self._wire.send_script(Script((step,)))
        return self.hear(within)

    def hear(self, within: float) -> Rows:
        poll = select.poll()
        poll.register(self._wire.fd, select.POLLIN)
        limit = time.monotonic() + within
        while (answer := self._wire.receive()) is None:
            if not poll.poll(max(0.0, limit - time.monotonic()) * 1000):
                raise _Silent
        return answer.rows()[0]

    def pid(self, within: float) -> int:
        return int(self.ask(_sql.BACKEND_PID, within=within)[0][0] or 0)

    def says(self, sql: str, *params: object, until: float) -> bool:
        return self.ask(sql, *params, within=_left(until))[0][0] == "t"

    def close(self) -> None:
        self._wire.close()

    def vanish(self) -> None:
        """Leave without a word, as a client that was killed does."""
        with socket.socket(fileno=os.dup(self._wire.fd)) as ours:
            ours.shutdown(socket.SHUT_RDWR)  # a child that was forked meanwhile may have a copy
        self._wire.abandon()


def probe(conninfo: str, patience: float = 2.0) -> Verdict:
    """Watch what stands between us and the server; opens two connections, and closes them.

    Args:
        conninfo: Where to, for libpq.

        patience: How many seconds the pooler may take to answer; then the verdict is "unsure".

    Raises:
        psycopg.OperationalError: no connection.
    """
    until = time.monotonic() + patience
    with ExitStack() as stack:
        callers = (_Caller(conninfo), _Caller(conninfo))
        for one in callers:
            stack.callback(one.close)
        try:
            verdict = _watch(conninfo, callers, until)
            if verdict.pooling is Pooling.SESSION:
                return _leave(callers, conninfo, until, verdict)
        except _Silent:
            return Verdict(Pooling.UNSURE, f"the pooler did not answer within {patience:g} s")
        except Refused as refusal:
            return Verdict(Pooling.UNSURE, f"the server refused a question: {refusal.message}")
        return verdict


def _watch(conninfo: str, callers: tuple[_Caller, _Caller], until: float) -> Verdict:
    homes: dict[_Caller, int] = {}
    for turn in range(ASKS):
        who = callers[turn] if turn < len(callers) else random.choice(callers)  # noqa: S311
        try:
            pid = who.pid(min(_QUEUED, _left(until)) if turn == 1 else _left(until))
        except _Silent:
            if turn != 1:
                raise
            return _in_the_queue(conninfo, callers[0], who, homes[callers[0]], until)
        if pid == who.startup_pid:
            return Verdict(Pooling.DIRECT, f"backend {pid} answers from the first word on")
        if homes.setdefault(who, pid) != pid:
            return _moved(
                conninfo, who, f"one connection was on backend {homes[who]}, then on {pid}", until
            )
        if len(set(homes.values())) < len(homes):
            return _moved(conninfo, who, f"two connections were both on backend {pid}", until)
    return Verdict(Pooling.SESSION, f"two connections kept their backends in {ASKS} asks")


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _in_the_queue(
    conninfo: str, first: _Caller, second: _Caller, home: int, until: float
) -> Verdict:
    """Judge when the pool has nothing for the second, who has asked first.

    Where sessions were free after each transaction, the first would have to queue behind it.
    """
    pid = first.pid(_left(until))
    with contextlib.suppress(_Silent):
        second.hear(0.0)
        return Verdict(Pooling.UNSURE, "the pooler was busy")
    if pid != home:
        return _moved(
            conninfo, first, f"one connection was on backend {home}, then on {pid}", until
        )
    return Verdict(Pooling.UNSURE, "session pooling by its looks, but it has no second session")


def _moved(conninfo: str, who: _Caller, evidence: str, until: float) -> Verdict:
    """Tell transaction pooling from statement pooling, which refuses to begin a transaction.

    It hangs up, mostly without a word. So may a pooler that is ended: hence a second connection.

    Raises:
        psycopg.OperationalError: there is none.
    """
    if _begins(who, until):
        return Verdict(Pooling.TRANSACTION, evidence)
    with closing(_Caller(conninfo)) as another:
        another.pid(_left(until))
        if _begins(another, until):
            return Verdict(Pooling.TRANSACTION, evidence)
    return Verdict(Pooling.STATEMENT, f"{evidence}; it refused to begin a transaction")


def _begins(who: _Caller, until: float) -> bool:
    try:
        who.ask(_sql.BEGIN, within=_left(until))
        who.ask(_sql.COMMIT, within=_left(until))
    except (psycopg.OperationalError, Refused):
        return False
    return True


def _leave(
    callers: tuple[_Caller, _Caller], conninfo: str, until: float, verdict: Verdict
) -> Verdict:
    """See whether settings and locks go with their connection, as a session's do.

    The settings first: where these stay, locks mostly do, and nobody could free ours.
    """
    witness, leaver = callers
    mark, key = f"advlock {random.getrandbits(40):x}", random.getrandbits(63)
    backend = leaver.pid(_left(until))
    leaver.ask(_sql.SET_APPLICATION_NAME, mark, "false", within=_left(until))
    leaver.vanish()
    if not _goes(partial(witness.says, _sql.IS_MARKED, backend, mark), until):
        return verdict._replace(evidence=f"{verdict.evidence}; {_LEAKS}", leaks=True)
    with closing(_Caller(conninfo)) as holder:
        holder.ask(_sql.TRY_ONE, key, within=_left(until))
        if not witness.says(_sql.IS_LOCKED, key, until=until):
            return Verdict(Pooling.UNSURE, "two connections do not see each other's locks")
        holder.vanish()
    if not _goes(partial(witness.says, _sql.IS_LOCKED, key), until):
        _clean_up(conninfo, key, until)
        return verdict._replace(evidence=f"{verdict.evidence}; {_LEAKS}", leaks=True)
    return verdict


def _goes(is_there: Callable[..., bool], until: float) -> bool:
    limit = min(until, time.monotonic() + _GONE)
    while is_there(until=until):
        if time.monotonic() >= limit:
            return False
        time.sleep(0.002)
    return True


def _clean_up(conninfo: str, key: int, until: float) -> None:
    """Free the lock that was left in the pool: its session is the one that is lent next, mostly."""
    with ExitStack() as stack, contextlib.suppress(psycopg.Error, _Silent):
        for _ in range(10):
            finder = _Caller(conninfo)
            stack.callback(finder.close)
            if finder.ask(_sql.UNLOCK_IF_OURS, key, within=_left(until))[0][0] == "t":
                return
