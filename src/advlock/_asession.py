"""A session of the async client: the loop that drives plans, and combined requests.

Everything happens in callbacks of the event loop, none of it in the caller's task: a request
belongs to the session, so a cancelled caller changes nothing about it. What is asked while a
request is under way is sent as one request when its answer is in.
"""

from __future__ import annotations

import _thread
import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from advlock import _observe
from advlock._aengine import AsyncEngine
from advlock._aloop import weakly
from advlock._clock import now
from advlock._plan import Refused, SessionLost
from advlock._wire import HUNG_UP

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable

    from advlock import _plan
    from advlock._ledger import Op
    from advlock._wire import Answer

R = TypeVar("R")


class AsyncSession(AsyncEngine):
    """One server session, and the queue of what it is asked."""

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

    def looks_alive(self) -> bool:
        """Look at the socket, without waiting: False once the server has hung up."""
        if self.lost is None:
            sends = self._busy and not self.wire.expects and self._early is None
            if self._reading or sends or _thread.get_ident() != self._thread:
                # Not ours to read now; but the reader may come after somebody has believed.
                if self.wire.is_cut():
                    self.distrust(HUNG_UP)
            else:
                self._read_ahead()
        return self.lost is None and self._doubt is None

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
        if blocked := self._blocked():
            facts, message = {"event": "loop.blocked"}, blocked.removeprefix("; ")
            _observe.tell(_observe.WARNING, facts, "%s", message)
        if self.lost is not None:
            return
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
