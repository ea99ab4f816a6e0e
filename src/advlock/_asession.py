"""A session of the async client: the loop that drives plans, and combined requests.

Everything happens in callbacks of the event loop, none of it in the caller's task: a request
belongs to the session, so a cancelled caller changes nothing about it. What is asked while a
request is under way is sent as one request when its answer is in.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from advlock import _observe, _plan
from advlock._aloop import fail, stop_and_close, weakly
from advlock._clock import now
from advlock._liveness import Pulse
from advlock._plan import Refused, SessionLost, Unanswered
from advlock._wire import HUNG_UP

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, TimerHandle
    from collections.abc import Callable, Sequence

    from advlock._ledger import Op
    from advlock._liveness import Bounds
    from advlock._wire import Answer, Wire

R = TypeVar("R")

_LARGEST_BATCH = 500


class AsyncSession:
    """One server session, and the queue of what it is asked."""

    def __init__(
        self,
        wire: Wire,
        loop: AbstractEventLoop,
        bounds: Bounds,
        settle: Callable[[Op, AsyncSession, bool | Exception], Any] | None = None,
        carried: Callable[[AsyncSession], Sequence[object]] | None = None,
    ) -> None:
        self.wire = wire
        self.pulse = Pulse(bounds)
        self.lost: str | None = None
        self.loop = loop
        self._thread = _thread.get_ident()
        self._settle = settle
        self._carried = carried
        self._on_lost: Callable[[AsyncSession, list[Op]], Any] | None = None
        self._pending: deque[Op] = deque()
        self._scripts: deque[tuple[_plan.Script, Future[Answer]]] = deque()
        self._busy = False  # a request is under way, or about to be
        self._beating = False  # it is a heartbeat
        self._reading = False  # somebody, perhaps further up the stack, takes what has come
        self._alone = False  # the last combined request was of one op: nobody to wait for
        self._ops: list[Op] = []  # what it asks, if it is a combined request
        self._script: Future[Answer] | None = None  # who waits for it, if it is a script
        self._patient = False  # the server was asked to wait
        self._asked = 0.0  # when what is under way was sent
        self._doubt: str | None = None  # why it is not believed in any more, and about to end
        self._timer: TimerHandle | None = None
        self._look_at = 0.0  # when the timer is to fire
        self._recovery: asyncio.Task[None] | None = None
        self._stopped: Future[None] | None = None  # done when the server waits for us no more
        # Weakly: the loop must not keep a client alive that everybody else has forgotten.
        loop.add_reader(wire.fd, weakly(self._readable))

    def when_lost(self, callback: Callable[[AsyncSession, list[Op]], Any]) -> None:
        """Name who is told, once, when the session has ended, and of what stays unanswered."""
        self._on_lost = callback

    # -- asking ----------------------------------------------------------------------------------

    def ask(self, op: Op) -> Future[bool]:
        """Ask `op`, together with whatever else is queued.

        The future fails with `SessionLost` when the session ends first. Cancelling it does not
        take the request back.
        """
        future: Future[bool] = self.loop.create_future()
        op.waiter = future
        if self.lost is not None:
            future.set_exception(SessionLost(self.lost))
            return future
        self._pending.append(op)
        if not self._busy:
            self._busy = True
            if self._alone:
                self._next()
            else:
                # Not at once: the other tasks that are ready now come along in the same request.
                self.loop.call_soon(self._next)
        return future

    async def fetch(self, plan: _plan.SessionPlan[R]) -> R:
        """Drive `plan` on this session: one of the two loops that drive plans.

        Raises:
            SessionLost: the session ended.
        """
        script = None
        try:
            script = next(plan)
            while True:
                answer = await self._exchange(script)
                try:
                    rows = answer.rows()
                except Refused as refusal:
                    script = plan.throw(refusal)
                else:
                    script = plan.send(rows)
        except StopIteration as stop:
            verdict: R = stop.value
            return verdict
        except asyncio.CancelledError:
            if script is not None and script.patient:
                self.end("its caller stopped waiting", cancel=True)
            raise

    def _exchange(self, script: _plan.Script) -> Future[Answer]:
        future: Future[Answer] = self.loop.create_future()
        if self.lost is not None:
            future.set_exception(SessionLost(self.lost))
            return future
        self._scripts.append((script, future))
        if not self._busy:
            self._busy = True
            self._next()
        return future

    # -- belief ----------------------------------------------------------------------------------

    @property
    def why(self) -> str:
        """Why it is over."""
        return self.lost or self._doubt or "its session ended"

    def vouches(self) -> bool:
        """Whether what this session held is still believed in; if not, then for good.

        Looks at the clock only, so that it is right while the event loop is blocked, and may be
        asked by any thread.
        """
        if self.lost is None and self._doubt is None:
            if not self.pulse.lapsed(now()):
                return True
            silence = f"no word from the server for {self.pulse.bounds.trust:.1f} s"
            self.distrust(silence + self._blocked())
        return False

    def _blocked(self) -> str:
        """Say so where the loop is to blame: it has not come by when it should have."""
        late = now() - self._look_at
        if late <= self.pulse.bounds.heartbeat:
            return ""
        return f"; the event loop was blocked for {late:.1f} s"

    def distrust(self, why: str) -> None:
        """Stop believing, for good; the session ends as soon as the loop runs."""
        if self._doubt is None:
            self._doubt = why
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(self.end, why)

    def looks_alive(self) -> bool:
        """Look at the socket, without waiting: False once the server has hung up."""
        if self.lost is None:
            if self._reading or self._recovery or _thread.get_ident() != self._thread:
                # Not ours to read now; but the reader may come after somebody has believed.
                if self.wire.is_cut():
                    self.distrust(HUNG_UP)
            else:
                # A goodbye may come with the answer to anything (tests/chaos/test_frozen.py).
                while self.lost is None and self.wire.has_news():
                    self._readable()
        return self.lost is None and self._doubt is None

    # -- the engine ------------------------------------------------------------------------------

    def _next(self) -> None:
        """Send what is queued next, if anything is."""
        if self.lost is not None:
            return
        self._asked = now()
        try:
            self._patient = False
            self._prepare_to_send()
            if self._pending:
                self._ops = ops = self._take()
                self._alone = len(ops) == 1
                self.wire.send_ops(ops)
            elif self._scripts:
                script, self._script = self._scripts.popleft()
                self._patient = script.patient
                self.wire.send_script(script)
            else:
                self._busy = False
                if self.wire.restless and not self.wire.carried:
                    self._beat()  # the transaction need not go on
                return
        except psycopg.Error as error:
            self.end(self.wire.reason(error))
            return
        if self.wire.unsent:
            self.loop.add_writer(self.wire.fd, weakly(self._writable))
        if self._timer is None:
            self._look_in(self.pulse.bounds.heartbeat)

    def _take(self) -> list[Op]:
        return [self._pending.popleft() for _ in range(min(len(self._pending), _LARGEST_BATCH))]

    def _writable(self) -> None:
        self._readable()
        if self.lost is None and not self.wire.unsent:
            self.loop.remove_writer(self.wire.fd)

    def _readable(self) -> None:
        self._reading = True
        try:
            self._read()
        finally:
            self._reading = False

    def _read(self) -> None:
        try:
            if not self.wire.expects:
                if self.wire.hung_up():
                    self.end(self.wire.reason())
                return
            answer = self.wire.receive()
        except psycopg.Error as error:
            self.end(self.wire.reason(error))
            return
        if answer is not None:
            self.pulse.confirm(self._asked)
            self._take_answer(answer)

    def _take_answer(self, answer: Answer) -> None:
        if self._beating:
            self._beating = False
            self._next()
            return
        if self._script is not None:
            script, self._script = self._script, None
            if not script.done():
                script.set_result(answer)
            if self._recovery is None:
                self._next()
            return
        try:
            verdicts: Sequence[bool | Exception] = answer.verdicts()
        except Refused as refusal:
            self._recovery = self.loop.create_task(self._recover(refusal))
            return
        self._hand_out(verdicts)

    def _hand_out(self, verdicts: Sequence[bool | Exception]) -> None:
        ops, self._ops = self._ops, []
        unheld = False
        for op, verdict in zip(ops, verdicts, strict=True):
            if isinstance(verdict, Unanswered):
                self._pending.append(op)
                continue
            if self._settle is not None:
                self._settle(op, self, verdict)
            op.done = True
            if verdict is not True and verdict is not False:
                fail(op.waiter, verdict)
                continue
            unheld = unheld or (op.releases and not verdict)
            if not op.waiter.done():
                op.waiter.set_result(verdict)
        if unheld:
            self.end("the server says that it did not hold a lock that was released")
        if self._pending:
            # Whoever was just woken comes along. Otherwise they and those who asked meanwhile would
            # take turns for ever, in two requests where one would do.
            self.loop.call_soon(self._next)
        else:
            self._next()

    async def _recover(self, refusal: Refused) -> None:
        """After a refused request, and before anything else is sent: find out what it did."""
        try:
            plan = _plan.recover(self._ops, refusal)
            script = next(plan)
            self._script = future = self.loop.create_future()
            self._asked = now()
            self._prepare_to_send()
            self.wire.send_script(script)
            try:
                plan.send((await future).rows())
            except StopIteration as stop:
                self._hand_out(stop.value)
                self._recovery = None
        except (Refused, SessionLost, psycopg.Error) as error:
            self.end(f"the server refused a combined request ({error})")

    # -- heartbeats ------------------------------------------------------------------------------

    def look_after(self) -> None:
        """Have heartbeats from now on, because the session carries something."""
        if self._timer is None and self.lost is None:
            self._look_in(self.pulse.bounds.heartbeat)

    def _look_in(self, seconds: float) -> None:
        self._look_at = now() + seconds
        self._timer = self.loop.call_later(seconds, weakly(self._look))

    def _look(self) -> None:
        """Ask for a sign of life where one is due; give up what has been silent for too long."""
        self._timer = None
        if self.lost is not None:
            return
        if blocked := self._blocked():
            facts, message = {"event": "loop.blocked"}, blocked.removeprefix("; ")
            _observe.tell(_observe.WARNING, facts, "%s", message)
        heartbeat = self.pulse.bounds.heartbeat
        carries = bool(self.carried())
        waits = self.wire.expects and not self._patient
        if carries and not self.vouches():
            self.end(self.why)
        elif waits and now() - self._asked >= self.pulse.bounds.trust:
            self.end(f"{self.wire.silence} for {self.pulse.bounds.trust:.1f} s")
        elif carries or waits or (self.pulse.bounds.lease is not None and not self.wire.pinned):
            # Not during the set-up, which may go on with another wire.
            if self._on_lost is not None and not self._busy and self.pulse.due(now()):
                self._beat()
            left = self.pulse.left(now()) if carries else heartbeat
            self._look_in(min(heartbeat, max(left, 0.0)))

    def carried(self) -> Sequence[object]:
        """List what it holds, as far as that is booked."""
        return () if self._carried is None else self._carried(self)

    def _beat(self) -> None:
        self._busy = self._beating = True
        self._asked = now()
        try:
            self._prepare_to_send()
            self.wire.send_heartbeat()
        except psycopg.Error as error:
            self.end(self.wire.reason(error))

    def _prepare_to_send(self) -> None:
        if self.wire.pinned:
            self.wire.carried = self.carried()

    # -- the end ---------------------------------------------------------------------------------

    def end(self, reason: str, *, cancel: bool = False) -> None:
        """End the session now; the server frees its locks."""
        if self.lost is not None:
            return
        self.lost = " ".join(reason.split())
        if not self.loop.is_closed():
            self.loop.remove_reader(self.wire.fd)
            self.loop.remove_writer(self.wire.fd)
        if self._timer is not None:
            self._timer.cancel()
        if cancel and self.wire.expects:
            # Telling the server takes a connection of its own, which the loop must not wait for.
            self._stopped = self.loop.create_future()
            _thread.start_new_thread(stop_and_close, (self.wire, self.loop, self._stopped))
        else:
            self.wire.close()
        _observe.ended(self.lost)
        self._fail_all()

    async def stopped(self) -> None:
        """After `end(cancel=True)`: wait until the server does not wait for us any more."""
        if self._stopped is not None:
            await asyncio.shield(self._stopped)

    def _fail_all(self) -> None:
        ops = [op for op in (*self._ops, *self._pending) if not op.done]
        waiting = [*(future for _, future in self._scripts), *filter(None, (self._script,))]
        self._ops = []
        self._pending.clear()
        self._scripts.clear()
        self._script = None
        if self._on_lost is not None:
            self._on_lost(self, ops)
        for op in ops:
            op.done = True
            fail(op.waiter, SessionLost(self.lost))
        for future in waiting:
            fail(future, SessionLost(self.lost))

    def disown(self) -> None:
        """In a forked child: drop our copy of the parent's socket, and touch nothing else."""
        self.lost = "the process forked; a child starts without locks"
        self.wire.disown()
