"""A connection to a pooler that lends a server session for good, for as long as it does.

A pooler can be told to lend sessions by the transaction while its clients are connected. Nothing
tells them; two of them would soon be on one session, which grants a lock to both. So each request
names the backend that it is for, does nothing on another one, and then the connection is over
(docs/why.md, 26). Nothing is prepared: who used the session before may have, under the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from advlock import _sql
from advlock._plan import Script, Step
from advlock._wire import Answer, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._ledger import Op

_ALONE: Final = {_sql.TRY: _sql.TRY_ONE_AT_HOME, _sql.UNLOCK: _sql.UNLOCK_ONE_AT_HOME}
_HEARTBEAT: Final = Script((Step(_sql.HEARTBEAT),))
TAKEN_AWAY: Final = "the pooler took the server session away"


class LentWire(Wire):
    """The same to those who use it, on one backend and no other.

    Args:
        connection: Whose session was lent for good, as far as is known.

        home: The backend.
    """

    __slots__ = ("_asks_for_locks", "_home")

    def __init__(
        self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], home: int
    ) -> None:
        super().__init__(connection)
        self._home = str(home)
        self._asks_for_locks = False

    def send_ops(self, ops: Sequence[Op]) -> None:
        """Send one combined request."""
        alone = _ALONE.get(ops[0].code) if len(ops) == 1 else None
        if alone is not None:
            step = Step(alone, (str(ops[0].value), self._home))
        else:
            codes = ",".join([str(op.code) for op in ops])
            values = ",".join([str(op.value) for op in ops])
            declares = any(op.code >= _sql.DECLARE for op in ops)
            sql = _sql.DECLARING_BATCH_AT_HOME if declares else _sql.BATCH_AT_HOME
            step = Step(sql, (f"{{{codes}}}", f"{{{values}}}", self._home))
        self._asks_for_locks = True
        super().send_script(Script((step,)))

    def send_heartbeat(self) -> None:
        """Ask for nothing but an answer from home."""
        self.send_script(_HEARTBEAT)

    def send_script(self, script: Script) -> None:
        """Send several statements at once, and ask who has answered them."""
        self._asks_for_locks = False
        guard = Step(_sql.AT_HOME, (self._home,))
        super().send_script(script._replace(steps=(*script.steps, guard)))

    def receive(self) -> Answer | None:
        """Take what has arrived; return the whole answer, or None while more must come.

        Raises:
            psycopg.OperationalError: the connection is broken, or somebody else has answered.
        """
        answer = super().receive()
        if answer is None or any(r.status == pq.ExecStatus.FATAL_ERROR for r in answer.results):
            return answer
        if not answer.results[-1].ntuples:
            raise psycopg.OperationalError(TAKEN_AWAY)
        return answer if self._asks_for_locks else Answer(answer.results[:-1])
