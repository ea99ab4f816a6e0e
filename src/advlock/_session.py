"""A session of the sync client: the loop that drives plans, and combined requests.

Many threads share one session. Whoever gets the *turn* runs everything that is queued as one
request; the others find their answer there. A request belongs to the session, not to the thread
that sent it: if that thread runs out of time or is interrupted, a rescuer thread sees the request
through, so that no grant is ever lost sight of and no other thread's lock suffers.
"""

from __future__ import annotations

import _thread
import contextlib
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from advlock import _watch
from advlock._clock import now
from advlock._connect import PATIENCE
from advlock._engine import INTERRUPTED, Caller, Engine
from advlock._plan import Expired, SessionLost
from advlock._waiter import new_waiter, wait_until, wake
from advlock._wire import HUNG_UP
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock import _plan
    from advlock._ledger import Op
    from advlock._liveness import Pulse
    from advlock._wire import Wire

R = TypeVar("R")

_MOMENT: Final = 0.1  # seconds


class Session(Engine):
    """One server session, and the queue of what it is asked.

    A signal handler may raise between any two instructions of the main thread. So the turn is not
    a lock but an entry that names its owner, and leaving can be done twice: `_leave` is called
    again when its first call was interrupted.
    """

    def __init__(
        self,
        wire: Wire,
        pulse: Pulse,
        settle: Callable[[Op, Any, bool | Exception], Any] | None = None,
        on_lost: Callable[[Any, list[Op]], Any] | None = None,
        carried: Callable[[Any], Sequence[object]] | None = None,
    ) -> None:
        super().__init__(wire, pulse, settle, on_lost, carried)
        self._heart = Caller(0)  # in whose name heartbeats take the turn: no thread's
        self._reader: dict[str, object] = {}  # who takes the answer to one
        self._callers: deque[Any] = deque()  # who waits for the turn without an op
        self._claims: dict[object, object] = {}  # which rescuer it is
        self.errand: Callable[[Session], object] | None = None  # of whoever looks after it

    # -- combined requests -----------------------------------------------------------------------

    def ask(self, op: Op, deadline: float | None) -> bool:
        """Ask `op`, together with whatever else is queued, and wait for its answer.

        Raises:
            Expired: `deadline` passed; the request goes on.
            SessionLost: the session ended before it answered.
        """
        self._guarded(op, self._ask, op, deadline)
        if op.error is not None:
            raise op.error
        return op.result

    def ask_all(self, ops: Sequence[Op], deadline: float | None) -> None:
        """Ask several ops together, in one request unless they are very many.

        Raises:
            Expired: `deadline` passed; the request goes on.
            SessionLost: the session ended before it answered all of them.
        """
        try:
            self._pending.extend(ops)
            for op in ops:
                self._guarded(op, self._ask, op, deadline, queued=True)
        except BaseException:
            for op in ops:
                op.deserted = True
            if not self._turn:
                self._wake_next()
            raise
        for op in ops:
            if op.error is not None:
                raise op.error

    def _ask(self, op: Op, deadline: float | None, *, queued: bool = False) -> None:
        try:
            op.asker = _thread.get_ident()
            if not queued:
                self._pending.append(op)
            while not op.done:
                if self._turn.setdefault("owner", op) is op:
                    self._run_batch(deadline)
                elif op.waiter is None:
                    # And try once more: whoever had the turn may just have looked whom to wake.
                    op.waiter = new_waiter()
                else:
                    wait_until(op.waiter, deadline)
        except BaseException:
            op.deserted = True
            raise

    def put(self, op: Op) -> None:
        """Have `op` asked by somebody else: by whoever has the turn, or by a thread of its own."""
        op.deserted = True
        self._pending.append(op)
        if not self._turn:
            self._wake_next()

    def fetch(self, plan: _plan.SessionPlan[R], deadline: float | None) -> R:
        """Drive `plan` on this session.

        Raises:
            Expired: `deadline` passed before it was through.
            SessionLost: the session ended.
        """
        me = Caller()
        verdict: R = self._guarded(me, self._fetch, me, plan, deadline)
        return verdict

    def _fetch(self, me: Caller, plan: _plan.SessionPlan[R], deadline: float | None) -> R:
        if self.nests():
            raise LockError(INTERRUPTED)
        self._take_turn(me, deadline)
        self._ops, self._verdicts = [], None
        return self._drive(plan, deadline)

    def looks_alive(self) -> bool:
        """Look at the socket, without waiting: False once the server has hung up."""
        # With the turn only if there is something to take: who asks again and again must not keep
        # the heartbeats from it.
        if self.lost is None and (self.wire.has_news() or self._reader or self._taking):
            self._let_it_be_heard()
            me = Caller()
            self._guarded(me, self._look, me)
        return self.lost is None and not self._distrusted

    def _let_it_be_heard(self) -> None:
        """Wait a moment for the watcher, or another thread, who is about to take an answer.

        After a stop of the whole process that may come with a goodbye (tests/chaos/test_frozen.py).
        """
        if self.listening:
            _watch.prod()
        limit = time.monotonic() + _MOMENT
        while self._somebody_reads() and time.monotonic() < limit:
            select.select([], [], [], 0.0002)  # not `sleep`, which faketime breaks

    def _somebody_reads(self) -> bool:
        if self.lost is not None:
            return False
        if self.listening or self._reader:
            return True
        if self._taker == _thread.get_ident():
            return False  # we are a signal handler's, and it cannot go on before us
        return self._taking or (bool(self._turn) and self.wire.has_news())

    def _look(self, me: Caller) -> None:
        if self._turn.setdefault("owner", me) is not me:
            # Somebody talks to the server, and will find out; but perhaps not before we believe.
            if self.wire.is_cut():
                self.distrust(HUNG_UP)
            return
        self._taker, self._taking = _thread.get_ident(), True
        try:
            # What a dying server says and its hanging up are two things to read.
            while self.lost is None and self._ears.poll(0):
                if self.wire.hung_up():
                    self._end(self.wire.reason())
        finally:
            self._taker, self._taking = 0, False

    # -- heartbeats ------------------------------------------------------------------------------

    def tend(self) -> float:
        """Do what is due, without ever waiting; tell after how many seconds to come again.

        For one thread only: the watcher's.
        """
        if self.listening:
            self._listen()
        elif self._doomed is None:
            self.looks_alive()
        heartbeat = self.pulse.bounds.heartbeat
        matters = self.listening or bool(self.carried())
        if self._doomed is not None or (matters and not self.vouches()):
            self._give_up()
        elif not self.listening and self._wants_a_beat(matters):
            self._beat()
        elif self.errand is not None and self.lost is None:
            self.errand(self)
        return min(heartbeat, max(0.0, self.pulse.left(now()))) if matters else heartbeat

    def _wants_a_beat(self, matters: bool) -> bool:  # noqa: FBT001
        if self.wire.pinned and not matters:
            return self.wire.restless
        # With a lease the server would end it for idling, and say so in its log.
        return (matters or self.pulse.bounds.lease is not None) and self.pulse.due(now())

    @property
    def listening(self) -> bool:
        """Whether a heartbeat is under way."""
        return self._turn.get("owner") is self._heart

    def hear_out(self) -> None:
        """Wait for the answer to a heartbeat; for a thread that is its own watcher."""
        while self.listening:
            self._ears.poll(max(0.0, self.pulse.left(now())) * 1000)
            self._listen()
            if self.listening and not self.vouches():
                self._give_up()

    def _beat(self) -> None:
        if self._turn.setdefault("owner", self._heart) is not self._heart:
            return  # somebody talks to the server: that is as good
        try:
            self._check()
            self._ops, self._verdicts = [], None
            self._asked = now()
            self._busy = True
            self._prepare_to_send()
            self._send(lambda _: self.wire.send_heartbeat(), None)
        except SessionLost:
            self._leave(self._heart)

    def _listen(self) -> None:
        me = object()
        if self._reader.setdefault("who", me) is not me:
            return  # a client that is being dropped has somebody else hear it out
        try:
            if self.wire.receive() is None:
                return
            self.pulse.confirm(self._asked)
        except psycopg.Error as error:
            self._end(self.wire.reason(error))
        finally:
            self._reader.clear()
        self._busy = False
        self._leave(self._heart)

    def _give_up(self) -> None:
        if self._turn.setdefault("owner", self._heart) is self._heart:
            self._end(self.why)
            self._leave(self._heart)
        elif self._on_lost is not None and self._distrusted:
            # Whoever talks to the server is told when his own patience ends, the holders now.
            self._on_lost(self, [])

    # -- turns -----------------------------------------------------------------------------------

    def _guarded(self, me: Caller | Op, work: Callable[..., Any], *args: Any, **how: Any) -> Any:
        left = False
        try:
            try:
                return work(*args, **how)
            finally:
                self._leave(me)
                left = True
        except BaseException:
            if not left:
                self._leave(me)
            raise

    def _take_turn(self, me: Caller, deadline: float | None) -> None:
        while self._turn.setdefault("owner", me) is not me:
            waiter = new_waiter()
            self._callers.append(waiter)
            if self._turn.setdefault("owner", me) is me:
                return
            wait_until(waiter, deadline)

    def _leave(self, me: Caller | Op) -> None:
        """Pass the turn on, if it is ours. May be called again, and by those who never had it.

        If a request is still under way, a rescuer gets the turn until that is through.
        """
        if self._turn.get("owner") is not me:
            if not self._turn:
                self._wake_next()
            return
        if self._rescued is not me:
            if self._sending:
                self._unsend()
            if self._fragile:
                self._end("interrupted in the middle of a request")
            elif self._patient and self._busy:
                self.wire.stop()
                self._end("its caller stopped waiting")
        if self._rescued is me or (self._busy and self.lost is None):
            self._rescued = me
            try:
                _thread.start_new_thread(self._rescue, (me,))
            except RuntimeError:  # no thread to be had
                self._rescue(me)
        else:
            self._pass_turn()

    def _pass_turn(self) -> None:
        if self._doomed is not None:
            self._end(self._doomed)
        elif self.lost is not None:
            self._bury()
        self._patient = False
        self._rescued = None
        self._turn.pop("owner", None)
        self._wake_next()
        if self.wire.pinned and self.wire.restless and not self.carried():
            _watch.prod()  # its transaction need not go on

    def _rescue(self, me: Caller | Op) -> None:
        """See a request through that its sender left; the turn came with it."""
        claim = object()
        if self._claims.setdefault(me, claim) is not claim:
            return  # an interrupted `_leave` has called for a rescuer twice
        if self._turn.get("owner") is not me:
            del self._claims[me]  # …and the first is through already
            return
        try:
            self._finish(None, again=True)
        except SessionLost:
            pass
        except BaseException as error:
            self._end(f"a request could not be finished: {error!r}")
            raise
        finally:
            self._busy = False
            self._pass_turn()
            del self._claims[me]

    def _run_pending(self) -> None:
        me = Caller()
        try:
            while self._pending and self._turn.setdefault("owner", me) is me:
                self._run_batch(None)
        except SessionLost:
            pass
        finally:
            self._leave(me)

    def _wake_next(self) -> None:
        """Without the turn: see to it that somebody takes it while anything is queued."""
        while self._callers:
            with contextlib.suppress(IndexError):
                wake(self._callers.popleft())
        if not self._pending:
            return
        unasked = [op for op in tuple(self._pending) if not (op.taken or op.done)]
        for op in unasked:
            if op.waiter is not None and not op.deserted:
                wake(op.waiter)
                return
        if any(op.deserted for op in unasked):
            _thread.start_new_thread(self._run_pending, ())

    # -- the end ----------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """End the session, after what is in flight; a wait on the server is cut short."""
        self.doom(reason)
        if self.nests():  # then whom we interrupt does it
            if self._patient:
                self.wire.cancel()
            return
        if self.listening:
            _watch.prod()  # it need not wait for the answer to its heartbeat
        me = Caller()
        with contextlib.suppress(Expired):
            self._guarded(me, self._close, me, time.monotonic() + PATIENCE)

    def _close(self, me: Caller, limit: float) -> None:
        while True:
            if self._patient:
                # Again and again: a cancel that comes before the wait has begun cancels nothing.
                self.wire.cancel()
            try:
                self._take_turn(me, min(limit, time.monotonic() + 0.1))
            except Expired:
                if time.monotonic() >= limit:
                    raise
            else:
                return  # leaving ends it

    def disown(self) -> None:
        """In a forked child: drop our copy of the parent's socket, and touch nothing else."""
        self.lost = "the process forked; a child starts without locks"
        self.wire.disown()
