"""What the session of an async client does in callbacks of the loop: send, hand out, and end."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import psycopg

from advlock import _observe, _plan
from advlock._aloop import fail, stop_and_close, weakly
from advlock._clock import now
from advlock._liveness import Pulse
from advlock._plan import Refused, SessionLost, Unanswered

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, TimerHandle
    from collections.abc import Callable, Sequence

    from advlock._ledger import Op
    from advlock._liveness import Bounds
    from advlock._wire import Answer, Wire

_LARGEST_BATCH = 500


class AsyncEngine:
    """One server session: what is under way there, one request at a time."""

    def __init__(
        self,
        wire: Wire,
        loop: AbstractEventLoop,
        bounds: Bounds,
        settle: Callable[[Op, Any, bool | Exception], Any] | None = None,
        carried: Callable[[Any], Sequence[object]] | None = None,
    ) -> None:
        self.wire = wire
        self.pulse = Pulse(bounds)
        self.lost: str | None = None
        self.loop = loop
        self._thread = _thread.get_ident()
        self._settle = settle
        self._carried = carried
        self._on_lost: Callable[[Any, list[Op]], Any] | None = None
        self._pending: deque[Op] = deque()
        self._scripts: deque[tuple[_plan.Script, Future[Answer]]] = deque()
        self._busy = False  # a request is under way, or about to be
        self._beating = False  # it is a heartbeat
        self._reading = False  # somebody, perhaps further up the stack, takes what has come
        self._early: Answer | None = None  # what a look has read, for the loop to hand out
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

    # -- sending and receiving ---------------------------------------------------------------------

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
        if self.lost is not None:
            return
        answer, self._early = self._early, None
        if answer is None:
            answer = self._read(self.end)
        if answer is not None:
            self._take_answer(answer)

    def _read_ahead(self) -> None:
        """Read what has come, and leave it to the loop to do anything about it.

        A look may come anywhere, as a signal handler does; and a goodbye may come with the answer
        to anything (tests/chaos/test_frozen.py).
        """
        while self.lost is None and self._doubt is None and self.wire.has_news():
            if (answer := self._read(self.distrust)) is not None:
                self._early = answer
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    self.loop.call_soon_threadsafe(weakly(self._readable))

    def _read(self, give_up: Callable[[str], None]) -> Answer | None:
        self._reading = True
        try:
            if self.wire.expects:
                answer = self.wire.receive()
                if answer is not None:
                    self.pulse.confirm(self._asked)
                return answer
            if self.wire.hung_up():
                give_up(self.wire.reason())
        except psycopg.Error as error:
            give_up(self.wire.reason(error))
        finally:
            self._reading = False
        return None

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
            self._recovery.add_done_callback(self._recovered)
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

    def _recovered(self, task: asyncio.Task[None]) -> None:
        # A callback: a task that is cancelled before it has begun runs nothing of its own.
        if task.cancelled():
            self.end("cancelled before it was known what a refused request had done")

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

    def distrust(self, why: str) -> None:
        """Stop believing, for good; the session ends as soon as the loop runs."""
        if self._doubt is None:
            self._doubt = why
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(self.end, why)

    def _look_in(self, seconds: float) -> None:
        """See to the heartbeats in so many seconds."""
        raise NotImplementedError

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
