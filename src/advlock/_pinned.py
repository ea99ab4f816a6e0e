"""A connection to a pooler that lends server sessions by the transaction. See `_pin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from advlock import _pin, _sql
from advlock._pin import Place
from advlock._plan import Script, SessionLost, Step
from advlock._wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._ledger import Op
    from advlock._liveness import Bounds
    from advlock._set_up import Identity

_PLACES: Final = {
    pq.TransactionStatus.IDLE: Place.OUTSIDE,
    pq.TransactionStatus.INTRANS: Place.INSIDE,
    pq.TransactionStatus.INERROR: Place.FAILED,
}
_FAILED: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)
# Nothing is prepared here, and to plan the batch costs more than all else (`bench --pooler`).
_ALONE: Final = {_sql.TRY: _sql.TRY_ONE, _sql.UNLOCK: _sql.UNLOCK_ONE}
_HEARTBEAT: Final = Script((Step(_sql.HEARTBEAT),))
_UNPIN: Final = Script((), frees=True)
UNPINNED: Final = "the pooler ended the transaction that the locks were in"
NO_CONNECTION: Final = "the pooler gave no server connection"  # whoever begins stands in its queue
_NO_ANSWER: Final = "the server did not answer"


class PinnedWire(Wire):
    """The same to those who use it, with a transaction around what holds locks.

    Args:
        connection: A new one, whose transaction has not begun.

        bounds: The times that the server is told.

        server: Which one was there when we connected; another one may come later.
    """

    __slots__ = ("_bounds", "_request", "_script", "server")

    pinned = True

    def __init__(
        self,
        connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
        bounds: Bounds,
        server: Identity,
    ) -> None:
        super().__init__(connection)
        self._bounds = bounds
        self.server = server
        self._script: Script | None = None
        self._request: _pin.Request | None = None

    @property
    def restless(self) -> bool:  # type: ignore[override]
        """Whether the transaction goes on, and nothing is under way."""
        return not self.expects and self._place() is not Place.OUTSIDE

    def _place(self) -> Place | None:
        return _PLACES.get(pq.TransactionStatus(self.pgconn.transaction_status))

    # -- sending ---------------------------------------------------------------------------------

    def send_ops(self, ops: Sequence[Op]) -> None:
        """Send one combined request; with the last release the transaction ends."""
        releases = all(op.releases for op in ops)
        alone = _ALONE.get(ops[0].code) if len(ops) == 1 else None
        if alone is not None:
            step = Step(alone, (str(ops[0].value),))
        else:
            codes = ",".join([str(op.code) for op in ops])
            values = ",".join([str(op.value) for op in ops])
            declares = any(op.code >= _sql.DECLARE for op in ops)
            sql = _sql.DECLARING_BATCH if declares else _sql.BATCH
            step = Step(sql, (f"{{{codes}}}", f"{{{values}}}"))
        frees = releases and {op.ticket for op in ops}.issuperset(self.carried)
        self.send_script(Script((step,), locks=not releases, frees=frees))

    def send_heartbeat(self) -> None:
        """Ask for nothing but an answer; where nothing is held, end the transaction."""
        self.send_script(_HEARTBEAT if self.carried else _UNPIN)

    def send_script(self, script: Script) -> None:
        """Send several statements at once, in the transaction or, where none is needed, outside."""
        place = self._place()
        if place is None or (self.carried and place is Place.OUTSIDE):
            raise psycopg.OperationalError(UNPINNED)
        self._script = script
        self._request = request = _pin.compose(script, place, self._bounds)
        self.silence = NO_CONNECTION if request.facts is not None else _NO_ANSWER
        super().send_script(Script(request.steps))

    # -- receiving -------------------------------------------------------------------------------

    def receive(self) -> Answer | None:
        """Take what has arrived; return the answer to what was asked, without what is around it.

        Raises:
            psycopg.OperationalError: the connection is broken, or does not pin a session.
        """
        answer = super().receive()
        if answer is None:
            return None
        request, results = self._request, answer.results
        for result in results:
            if result.status in _FAILED:
                if self._script in (_HEARTBEAT, _UNPIN):  # nobody looks at those answers
                    raise psycopg.OperationalError(result.error_message.decode("utf-8", "replace"))
                return Answer([result])
        assert request is not None
        if self._place() is not request.leaves_to:
            raise psycopg.OperationalError(UNPINNED)
        if request.facts is not None:
            self._check(Answer([results[request.facts]]))
        return Answer(results[request.asked])

    def _check(self, facts: Answer) -> None:
        try:
            _pin.check(facts.rows()[0][0], self.server)
        except SessionLost as lost:
            raise psycopg.OperationalError(str(lost)) from None
