"""A session of the sync client: the loop that drives plans, and combined requests.

Many threads share one session. Whoever gets the *turn* runs everything that is queued as one
request; the others find their answer there. A request belongs to the session, not to the thread
that sent it: if that thread runs out of time or is interrupted, a rescuer thread sees the request
through, so that no grant is ever lost sight of and no other thread's lock suffers.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from advlock import _plan
from advlock._connect import PATIENCE
from advlock._plan import Refused, Unanswered
from advlock._waiter import new_waiter, wait, wake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._ledger import Op
    from advlock._wire import Answer, Wire

log = logging.getLogger("advlock")
R = TypeVar("R")

_LARGEST_BATCH = 500


class Expired(Exception):  # noqa: N818 - an answer, not a failure
    """The caller's own time ran out; the request goes on without it."""


class SessionLost(Exception):  # noqa: N818 - an answer, not a failure
    """The session ended, and every lock on it with it."""


class Session:
    """One server session, and the queue of what it is asked."""

    def __init__(
        self, wire: Wire, settle: Callable[[Op, Session, bool | Exception], Any] | None = None
    ) -> None:
        self.wire = wire
        self.lost: str | None = None
        self._settle = settle
        self._on_lost: Callable[[Session, list[Op]], Any] | None = None
        self._poll = select.poll()
        self._poll.register(wire.fd, select.POLLIN)
        self._turn = threading.Lock()
        self._pending: deque[Op] = deque()
        # What the holder of the turn is in the middle of, so that a rescuer can go on from there.
        self._busy = False  # a request was sent whose answer is not booked yet
        self._ops: list[Op] = []  # what it asked, if it is a combined request
        self._verdicts: Sequence[bool | Exception] | None = None  # what was answered
        self._fragile = False  # an interruption here leaves no way to go on
        self._patient = False  # the server was asked to wait
        self._mask = select.POLLIN

    def when_lost(self, callback: Callable[[Session, list[Op]], Any]) -> None:
        """Name who is told, once, when the session has ended, and of what stays unanswered."""
        self._on_lost = callback

    # -- combined requests -----------------------------------------------------------------------

    def ask(self, op: Op, deadline: float | None) -> bool:
        """Ask `op`, together with whatever else is queued, and wait for its answer.

        Raises:
            Expired: `deadline` passed; the request goes on.
            SessionLost: the session ended before it answered.
        """
        self._pending.append(op)
        try:
            while not op.done:
                if self._turn.acquire(blocking=False):
                    try:
                        if not op.done:
                            self._run_batch(deadline)
                    finally:
                        self._pass_turn()
                elif op.waiter is None:
                    # The turn must be tried once more after the waiter is there to be seen:
                    # whoever had it may have looked for somebody to wake in between.
                    op.waiter = new_waiter()
                else:
                    _wait_until(op.waiter, deadline)
        except BaseException:
            op.deserted = True
            if not self._turn.locked():
                self._wake_next()
            raise
        if op.error is not None:
            raise op.error
        return op.result

    def put(self, op: Op) -> None:
        """Have `op` asked by somebody else: by whoever has the turn, or by a thread of its own."""
        op.deserted = True
        self._pending.append(op)
        if not self._turn.locked():
            self._wake_next()

    def fetch(
        self, plan: _plan.SessionPlan[R], deadline: float | None, *, patient: bool = False
    ) -> R:
        """Drive `plan` on this session.

        A `patient` plan asks the server to wait; if its caller cannot wait any longer, the server
        is told to stop and the session ends.

        Raises:
            Expired: `deadline` passed before it was through.
            SessionLost: the session ended.
        """
        _wait_until(self._turn, deadline)
        self._patient = patient
        try:
            return self._drive(plan, deadline, patient=patient)
        except BaseException:
            if patient and self._busy:
                self.wire.cancel()
                self._end("its caller stopped waiting")
            raise
        finally:
            self._patient = False
            self._pass_turn()

    def looks_alive(self) -> bool:
        """Look at the socket, without waiting: False once the server has hung up."""
        if self.lost is None and self._turn.acquire(blocking=False):
            try:
                if self._poll.poll(0) and self.wire.hung_up():
                    self._end("the server closed the connection")
            finally:
                self._pass_turn()
        return self.lost is None

    # -- the loop --------------------------------------------------------------------------------

    def _drive(
        self, plan: _plan.SessionPlan[R], deadline: float | None, *, patient: bool = False
    ) -> R:
        """Do what `plan` yields until it returns: one of the two loops that drive plans."""
        try:
            script = next(plan)
            while True:
                answer = self._exchange(script, deadline, patient=patient)
                try:
                    rows = answer.rows()
                except Refused as refusal:
                    script = plan.throw(refusal)
                else:
                    script = plan.send(rows)
        except StopIteration as stop:
            verdict: R = stop.value
            return verdict

    def _exchange(self, script: _plan.Script, deadline: float | None, *, patient: bool) -> Answer:
        self._check()
        fragile, self._fragile = self._fragile, True
        self._busy = True
        self._send(lambda: self.wire.send_script(script))
        self._fragile = fragile
        answer = self._receive(deadline, patient=patient)
        self._busy = False
        return answer

    def _run_batch(self, deadline: float | None) -> None:
        """With the turn: send everything that is queued, and hand out the answers."""
        self._check()
        self._fragile = True
        ops: list[Op] = []
        self._ops = ops
        self._take(ops)
        if ops:
            self._busy = True
            self._send(lambda: self.wire.send_ops(ops))
            self._fragile = False
            self._finish(deadline)
        self._fragile = False

    def _take(self, ops: list[Op]) -> None:
        pending = self._pending
        while pending and len(ops) < _LARGEST_BATCH:
            op = pending[0]
            if not (op.taken or op.done):
                op.taken = True
                ops.append(op)
            pending.popleft()

    def _finish(self, deadline: float | None) -> None:
        """Wait for the answer to what is in flight, and hand it out. May be called again."""
        ops = self._ops
        if self._verdicts is None:
            if not self.wire.expects:
                self._end("interrupted while an answer was being read")
                raise SessionLost(self.lost)
            answer = self._receive(deadline, patient=False)
            try:
                self._verdicts = answer.verdicts() if ops else []
            except Refused as refusal:
                self._verdicts = self._recover(ops, refusal)
        for op, verdict in zip(ops, self._verdicts, strict=True):
            if not op.done:
                self._answer(op, verdict)
        unheld = any(op.releases and not op.result and op.done for op in ops)
        self._ops = []
        self._verdicts = None
        self._busy = False
        if unheld:
            self._end("the server says that it did not hold a lock that was released")

    def _recover(self, ops: list[Op], refusal: Refused) -> list[bool | Exception]:
        self._fragile = True
        try:
            verdicts = self._drive(_plan.recover(ops, refusal), None)
        except Refused as again:
            self._end(f"the server refused a combined request ({again.message})")
            raise SessionLost(self.lost) from again
        self._fragile = False
        self._busy = True
        return verdicts

    def _answer(self, op: Op, verdict: bool | Exception) -> None:  # noqa: FBT001
        if isinstance(verdict, Unanswered):
            op.taken = False
            self._pending.append(op)
            return
        if self._settle is not None:
            self._settle(op, self, verdict)
        if isinstance(verdict, Exception):
            op.error = verdict
        else:
            op.result = verdict
        op.done = True
        if op.waiter is not None:
            wake(op.waiter)

    def _send(self, send: Callable[[], None]) -> None:
        try:
            send()
        except psycopg.Error as error:
            self._end(str(error))
            raise SessionLost(self.lost) from error

    def _receive(self, deadline: float | None, *, patient: bool) -> Answer:
        """Wait until the answer is whole.

        A server that is asked what it cannot block on answers at once, or is not there any more:
        after `PATIENCE` seconds of silence the session is given up. A `patient` caller, one that
        asked the server to wait, sets its own limit instead.
        """
        limit = None if patient else time.monotonic() + PATIENCE
        while True:
            mask = select.POLLIN | select.POLLOUT if self.wire.unsent else select.POLLIN
            if mask != self._mask:
                self._poll.modify(self.wire.fd, mask)
                self._mask = mask
            if not self._poll.poll(_milliseconds(deadline, limit)):
                if limit is None or time.monotonic() < limit:
                    raise Expired
                self._end(f"the server did not answer for {PATIENCE:.0f} s")
                raise SessionLost(self.lost)
            try:
                answer = self.wire.receive()
            except psycopg.Error as error:
                self._end(str(error))
                raise SessionLost(self.lost) from error
            if answer is not None:
                return answer

    # -- turns -----------------------------------------------------------------------------------

    def _pass_turn(self) -> None:
        """Let the next thread have the turn; if a request is still in flight, a rescuer gets it."""
        if self._fragile:
            self._end("interrupted in the middle of a request")
        if self._busy and self.lost is None:
            _thread.start_new_thread(self._rescue, ())
            return
        if self.lost is not None:
            self._fail_pending()
        self._turn.release()
        self._wake_next()

    def _rescue(self) -> None:
        """See a request through that its sender left; the turn came with it."""
        try:
            self._finish(None)
        except SessionLost:
            pass
        except BaseException as error:
            self._end(f"a request could not be finished: {error!r}")
            raise
        finally:
            self._busy = False
            self._pass_turn()

    def _run_pending(self) -> None:
        with contextlib.suppress(SessionLost):
            while self._pending and self._turn.acquire(blocking=False):
                try:
                    self._run_batch(None)
                finally:
                    self._pass_turn()

    def _wake_next(self) -> None:
        """Without the turn: see to it that somebody takes it while anything is queued."""
        if not self._pending:
            return
        unasked = [op for op in tuple(self._pending) if not (op.taken or op.done)]
        for op in unasked:
            if op.waiter is not None and not op.deserted:
                wake(op.waiter)
                return
        if any(op.deserted for op in unasked):
            _thread.start_new_thread(self._run_pending, ())

    # -- the end ---------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.lost is not None:
            raise SessionLost(self.lost)

    def _end(self, reason: str, *, goodbye: bool = True) -> None:
        """With the turn: the session is over. Close the socket; the server frees the locks."""
        if self.lost is not None:
            return
        self.lost = " ".join(reason.split())
        unanswered = [op for op in self._ops if not op.done]
        self._ops = []
        self._verdicts = None
        self._busy = self._fragile = False
        if goodbye:
            self.wire.close()
        else:
            self.wire.abandon()
        log.debug("session ended: %s", self.lost, extra={"event": "session.ended"})
        self._fail(unanswered)

    def _fail_pending(self) -> None:
        ops: list[Op] = []
        self._take(ops)
        if ops:
            self._fail(ops)

    def _fail(self, ops: list[Op]) -> None:
        if self._on_lost is not None:
            self._on_lost(self, ops)
        for op in ops:
            op.error = SessionLost(self.lost)
            op.done = True
            if op.waiter is not None:
                wake(op.waiter)

    def close(self, reason: str, *, goodbye: bool = True) -> None:
        """End the session, after what is in flight; a wait on the server is cut short."""
        if self._patient:
            self.wire.cancel()
        if wait(self._turn, time.monotonic() + PATIENCE):
            try:
                self._end(reason, goodbye=goodbye)
            finally:
                self._pass_turn()

    def disown(self) -> None:
        """In a forked child: drop our copy of the parent's socket, and touch nothing else."""
        self.lost = "the process forked; a child starts without locks"
        self.wire.disown()


def _wait_until(waiter: Any, deadline: float | None) -> None:
    if not wait(waiter, deadline):
        raise Expired


def _milliseconds(deadline: float | None, limit: float | None) -> float | None:
    if limit is None:
        if deadline is None:
            return None
    elif deadline is None or limit < deadline:
        deadline = limit
    return max(0.0, deadline - time.monotonic()) * 1000 + 0.5
