"""What the owner of a session's turn does: send, wait, hand out the answers, and end it."""

from __future__ import annotations

import _thread
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from advlock import _observe, _plan, _watch
from advlock._clock import now
from advlock._plan import Expired, Refused, SessionLost, Unanswered
from advlock._waiter import milliseconds, wake

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._ledger import Op
    from advlock._liveness import Pulse
    from advlock._wire import Answer, Wire

R = TypeVar("R")

INTERRUPTED: Final = (
    "a signal handler cannot use the client in the middle of a request of the thread that it "
    "interrupts; have a thread do it (a handler may look: Held.lost)"
)

_LARGEST_BATCH = 500
_LOOK_UP = 250.0  # milliseconds of silence after which to look whether to go on


class Caller:
    """Somebody who takes the turn for something else than an `Op`."""

    __slots__ = ("asker",)

    def __init__(self, asker: int | None = None) -> None:
        self.asker = _thread.get_ident() if asker is None else asker


class Engine:
    """One server session, used by one thread at a time: whoever has the turn (`_session.py`).

    Its steps can be taken up again by another thread where an exception cut them short: what is
    under way is written down before it begins, and every answer is booked once.
    """

    def __init__(
        self,
        wire: Wire,
        pulse: Pulse,
        settle: Callable[[Op, Any, bool | Exception], Any] | None = None,
        on_lost: Callable[[Any, list[Op]], Any] | None = None,
        carried: Callable[[Any], Sequence[object]] | None = None,
    ) -> None:
        self.wire = wire
        self.pulse = pulse
        self.lost: str | None = None
        self._settle = settle
        self._on_lost = on_lost
        self._carried = carried
        self._poll = select.poll()
        self._poll.register(wire.fd, select.POLLIN)
        self._mask = select.POLLIN
        self._ears = select.poll()  # for looks: nothing but what the server says
        self._ears.register(wire.fd, select.POLLIN)
        self._pending: deque[Op] = deque()
        self._turn: dict[str, Caller | Op] = {}  # whose it is, under "owner"
        self._rescued: object = None  # who left it to a rescuer
        # What the owner of the turn is in the middle of, so that a rescuer can go on from there.
        self._busy = False  # a request was sent whose answer is not booked yet
        self._ops: list[Op] = []  # what it asked, if it is a combined request
        self._verdicts: Sequence[bool | Exception] | None = None  # what was answered
        self._sending = False  # an interruption here leaves open whether it was sent
        self._fragile = False  # an interruption here leaves no way to go on
        self._patient = False  # the server was asked to wait
        self._taker = 0  # which thread takes what comes, if any
        self._taking = False  # and is at it: that may be the last the server says
        self._asked = 0.0  # when what is under way was sent
        self._doomed: str | None = None  # why it is to end as soon as its user leaves
        self._distrusted = False  # what it carries is not believed in any more
        self.casualties: list[Any] = []  # the tickets lost with it, until their holders are told
        self.telling = False  # somebody is at that

    # -- the loop --------------------------------------------------------------------------------

    def _drive(self, plan: _plan.SessionPlan[R], deadline: float | None) -> R:
        """Do what `plan` yields until it returns: one of the two loops that drive plans."""
        try:
            script = next(plan)
            while True:
                answer = self._exchange(script, deadline)
                try:
                    rows = answer.rows()
                except Refused as refusal:
                    script = plan.throw(refusal)
                else:
                    script = plan.send(rows)
        except StopIteration as stop:
            verdict: R = stop.value
            return verdict

    def _exchange(self, script: _plan.Script, deadline: float | None) -> Answer:
        self._check()
        fragile, self._fragile = self._fragile, True
        self._patient = script.patient
        self._busy = True
        self._asked = now()
        self._prepare_to_send()
        self._send(self.wire.send_script, script)
        self._fragile = fragile
        answer = self._receive(deadline)
        self._busy = False
        return answer

    def _run_batch(self, deadline: float | None) -> None:
        """With the turn: send everything that is queued, and hand out the answers."""
        self._check()
        ops: list[Op] = []
        self._ops, self._verdicts = ops, None
        self._sending = True
        self._take(ops)
        if ops:
            self._asked = now()
            self._prepare_to_send()
            self._send(self.wire.send_ops, ops)
            self._busy = True
        self._sending = False
        if ops:
            self._finish(deadline)

    def _unsend(self) -> None:
        """After an interruption while sending: see the request through, or take it back."""
        if self.wire.under_way():
            self._busy = True
        else:
            unasked = [op for op in self._ops if not op.done and op not in self._pending]
            self._pending.extendleft(reversed(unasked))
            for op in self._pending:
                op.taken = False
        self._sending = False

    def _take(self, ops: list[Op]) -> None:
        pending = self._pending
        while pending and len(ops) < _LARGEST_BATCH:
            op = pending[0]
            if not (op.taken or op.done):
                op.taken = True
                ops.append(op)
            pending.popleft()

    def _finish(self, deadline: float | None, *, again: bool = False) -> None:
        """Wait for the answer to what is in flight, and hand it out.

        May be called `again`, by a rescuer: whoever was interrupted may have read it already.
        """
        ops = self._ops
        if self._verdicts is None:
            answer = self._receive(deadline, again=again)
            try:
                self._verdicts = answer.verdicts() if ops else []
            except Refused as refusal:
                self._verdicts = self._recover(ops, refusal)
        unheld = False
        for op, verdict in zip(ops, self._verdicts, strict=True):
            if not op.done:
                self._answer(op, verdict)
            if op.waiter is not None:  # also where an interruption fell between the two
                wake(op.waiter)
            unheld = unheld or (op.releases and op.done and not op.result)
        if unheld:
            self._end("the server says that it did not hold a lock that was released")
        self._busy = False

    def nests(self) -> bool:
        """Whether we are in a signal handler, and our own thread, interrupted, has the turn.

        To wait for it would be for ever. Whoever asks for locks has looked before (`_books.py`).
        """
        owner = self._turn.get("owner")
        if owner is None or owner is self._rescued:
            return False
        return owner.asker == _thread.get_ident()

    def carried(self) -> Sequence[object]:
        """List what it holds, as far as that is booked."""
        return () if self._carried is None else self._carried(self)

    def _prepare_to_send(self) -> None:
        if self.wire.pinned:
            self.wire.carried = self.carried()

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
        if verdict is True or verdict is False:
            op.result = verdict
        else:
            op.error = verdict
        op.done = True

    def _send(self, send: Callable[[R], None], what: R) -> None:
        try:
            send(what)
        except psycopg.Error as error:
            self._end(self.wire.reason(error))
            raise SessionLost(self.lost) from error

    def _receive(self, deadline: float | None, *, again: bool = False) -> Answer:
        """Wait until the answer is whole.

        A server that is asked what it cannot block on answers at once, or is not there any more:
        the session is given up when the trust in it ends. A patient script has no such limit.
        """
        self._taker = _thread.get_ident()
        try:
            return self._await_answer(deadline, again=again)
        finally:
            self._taker = 0

    def _await_answer(self, deadline: float | None, *, again: bool) -> Answer:
        while True:
            mask = select.POLLIN | select.POLLOUT if self.wire.unsent else select.POLLIN
            if mask != self._mask:
                self._poll.modify(self.wire.fd, mask)
                self._mask = mask
            if not (again or self._poll.poll(self._slice(deadline))):
                self._check_silence(deadline)
                continue
            self._taking = True
            try:
                answer = self.wire.receive()
            except psycopg.Error as error:
                self._end(self.wire.reason(error))
                raise SessionLost(self.lost) from error
            finally:
                self._taking = False
            if answer is not None:
                self.pulse.confirm(self._asked)
                return answer
            again = False

    def _slice(self, deadline: float | None) -> float | None:
        # A patient wait is cut short by a cancel; another one looks up now and then.
        left = None if deadline is None else milliseconds(deadline)
        if self._patient:
            return left
        return _LOOK_UP if left is None or left > _LOOK_UP else left

    def _check_silence(self, deadline: float | None) -> None:
        """Judge that the server has said nothing for a while.

        Raises:
            SessionLost: somebody ends the session, or its time is up.
            Expired: the caller's time is up; the request goes on.
        """
        self._check()
        silent = now() - self._asked
        if not self._patient and silent >= self.pulse.patience(self._asked):
            self._end(f"{self.wire.silence} for {silent:.1f} s")
            raise SessionLost(self.lost)
        if deadline is not None and time.monotonic() >= deadline:
            raise Expired

    @property
    def why(self) -> str:
        """Why it is over."""
        return self.lost or self._doomed or "its session ended"

    def vouches(self) -> bool:
        """Whether what this session held is still believed in; if not, then for good.

        Looks at the clock only, so that it is right in a process that was stopped, or while
        another thread talks to the server.
        """
        if self.lost is None and self._doomed is None:
            if not self.pulse.lapsed(now()):
                return True
            self.distrust(f"no word from the server for {self.pulse.bounds.trust:.1f} s")
        return False

    def doom(self, reason: str) -> None:
        """Have the session end as soon as whoever talks to the server is through."""
        self._doomed = self._doomed or reason

    def distrust(self, why: str) -> None:
        """Stop believing, for good; the session ends as soon as its user leaves."""
        self._distrusted = True
        self._doomed = self._doomed or why

    # -- the end ---------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._doomed is not None:
            self._end(self._doomed)
        if self.lost is not None:
            raise SessionLost(self.lost)

    def _end(self, reason: str) -> None:
        """With the turn: the session is over. Close the socket; the server frees the locks."""
        if self.lost is None:
            self.lost = " ".join(reason.split())
            if _observe.on():
                # Elsewhere: a log handler is somebody's code, and may take its time.
                _watch.elsewhere(self._say_ended)
        self._bury()

    def _say_ended(self) -> None:
        _observe.ended(self.lost)

    def _bury(self) -> None:
        """With the turn, after the end: close, and tell everybody. May be called again."""
        self.wire.close()
        self._fragile = self._sending = self._busy = False
        ops = [*self._ops, *self._pending]
        if self._on_lost is not None:
            self._on_lost(self, [op for op in ops if not op.done])
        for op in ops:
            if not op.done:
                op.error = SessionLost(self.lost)
                op.done = True
            if op.waiter is not None:
                wake(op.waiter)
        # Not `clear`: what was appended meanwhile has somebody who waits to be woken.
        while self._pending and self._pending[0].done:
            self._pending.popleft()
