"""The sessions of the async client: one that is shared, and a few that wait for one lock each."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any

from advlock import _plan
from advlock._aconnecting import connect
from advlock._aloop import by
from advlock._asession import AsyncSession
from advlock._backoff import Backoff
from advlock._client import POOL_STAYS_FULL
from advlock._plan import Expired, Refused, SessionLost
from advlock._recording import Recorder
from advlock.errors import DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Sequence

    from advlock._acore import AsyncCore
    from advlock._ledger import Op
    from advlock._wire import Wire


class AsyncSessions:
    """Opens, lends and closes a client's sessions, within its budget."""

    def __init__(
        self,
        client: AsyncCore,
        loop: AbstractEventLoop,
        settle: Callable[[Op, AsyncSession, bool | Exception], Any],
        when_lost: Callable[[AsyncSession, list[Op]], Any],
        carried: Callable[[AsyncSession], Sequence[object]],
    ) -> None:
        self.loop = loop
        self.shared: AsyncSession | None = None
        self._client = client
        self._settle = settle
        self._when_lost = when_lost
        self._carried = carried
        self._connecting: Task[AsyncSession] | None = None
        self._backoff = Backoff()
        self._dedicated: set[AsyncSession | Task[AsyncSession]] = set()
        self._spares: list[AsyncSession] = []
        self._contenders = 0
        self.recorder = Recorder(client, self)

    @property
    def open(self) -> bool:
        """Whether any session is."""
        return self.shared is not None or bool(self._dedicated)

    # -- the shared session ----------------------------------------------------------------------

    async def connect(self, deadline: float | None) -> AsyncSession:
        """Return the shared session; everybody who needs it waits for one attempt.

        Raises:
            Expired: `deadline` passed first; there is always time for a server that is near.
            DatabaseUnavailable, UnsafeServer: the attempt failed.
        """
        deadline = self._client._at_least(deadline, self.loop.time())
        while self.shared is None:
            self._client._check_open()
            if self._connecting is None:
                pause = self._backoff.pause(self.loop.time())
                if pause:
                    await by(deadline, asyncio.sleep(pause))
                    continue
                self._connecting = self.loop.create_task(self._connect_shared())
                self._connecting.add_done_callback(_seen)
            await self._outcome(self._connecting, deadline)
        return self.shared

    async def _outcome(self, attempt: Task[AsyncSession], deadline: float | None) -> AsyncSession:
        try:
            return await by(deadline, asyncio.shield(attempt))
        except LockError as error:
            raise copy.copy(error) from None
        except asyncio.CancelledError:
            self._client._check_open()
            raise

    async def _connect_shared(self) -> AsyncSession:
        # Booked in the task itself: a callback would come a turn of the loop later, and whoever
        # asks in between would find neither a session nor an attempt to wait for.
        try:
            self.shared = await self._connect()
        except LockError:
            self._backoff.note(self.loop.time(), failed=True)
            raise
        finally:
            self._connecting = None
        self._backoff.note(self.loop.time(), failed=False)
        return self.shared

    async def _connect(self) -> AsyncSession:
        """Connect and set up; the session is then safe to lock on."""
        client = self._client
        pooler = client._pooler_still(connected=self.shared is not None)
        session, made = await connect(client._conninfo(), client._dsn, self._session, pooler)
        try:
            client._check_open()
            if client._meet(made, session.pulse):
                self.end("the database moved to another server")
        except BaseException:
            session.end("the client does not want it")
            raise
        session.when_lost(self._lost)
        return session

    def _session(self, wire: Wire) -> AsyncSession:
        return AsyncSession(wire, self.loop, self._client._bounds, self._settle, self._carried)

    # -- sessions that wait ----------------------------------------------------------------------

    async def lease(self, deadline: float | None) -> AsyncSession | None:
        """Lend a session to wait on; None where the budget, or the server, has none left.

        Raises:
            Expired: `deadline` passed first.
            UnsafeServer: the server is not what it was.
        """
        if self._spares:
            return self._spares.pop()
        full = self.loop.time() < self._client._full_until
        if full or len(self._dedicated) + 1 >= self._client.max_connections:
            return None
        attempt = self.loop.create_task(self._connect_dedicated())
        self._dedicated.add(attempt)
        soon = self._client._soon(self.loop.time(), deadline)
        try:
            session = await self._outcome(attempt, deadline if soon is None else soon)
        except DatabaseUnavailable:
            return None
        except BaseException as error:
            attempt.add_done_callback(_close_unwanted)
            attempt.cancel()
            if soon is None or not isinstance(error, Expired):
                raise
            self._client._full_until = self.loop.time() + POOL_STAYS_FULL
            return None
        finally:
            self._dedicated.discard(attempt)
        return session

    async def _connect_dedicated(self) -> AsyncSession:
        # Booked in the task itself, as the shared one is: whoever closes the client finds it.
        session = await self._connect()
        if session.wire.pinned:
            session.end("nobody waits on one of those")
            raise DatabaseUnavailable(session.why)
        self._dedicated.add(session)
        return session

    def retire(self, session: AsyncSession) -> None:
        """Take a session back: kept while somebody here may wait on it, else closed."""
        if session is self.shared or session.lost is not None:
            return
        if self._contenders > 0:
            self._spares.append(session)
        else:
            session.end("nobody waits any more")

    def enlist(self) -> None:
        """Count one more caller that contends for a lock."""
        self._contenders += 1

    def dismiss(self) -> None:
        """Count one less; with the last one the spare sessions go."""
        self._contenders -= 1
        if not self._contenders:
            for session in list(self._spares):
                session.end("nobody waits any more")

    # -- the end ---------------------------------------------------------------------------------

    def _lost(self, session: AsyncSession, unanswered: list[Op]) -> None:
        if self.shared is session:
            self.shared = None
        self._dedicated.discard(session)
        if session in self._spares:
            self._spares.remove(session)
        self._when_lost(session, unanswered)

    def _all(self) -> list[AsyncSession]:
        return [s for s in (self.shared, *self._dedicated) if isinstance(s, AsyncSession)]

    async def close(self, holds: Callable[[AsyncSession], Sequence[object]]) -> None:
        """Close every session; those that `holds` names release their locks for certain first."""
        for attempt in (self._connecting, *self._dedicated):
            if isinstance(attempt, asyncio.Task):
                attempt.cancel()
        goodbyes = [self._say_goodbye(session) for session in self._all() if holds(session)]
        try:
            await asyncio.gather(*goodbyes)
        finally:
            self.end("the client was closed")  # also if nobody waits for the goodbyes
        await self.recorder.stop()

    async def _say_goodbye(self, session: AsyncSession) -> None:
        with contextlib.suppress(SessionLost, Expired, Refused):
            await by(self.loop.time() + 1.0, session.fetch(_plan.unlock_all()))

    def end(self, reason: str) -> None:
        """Close every session now; those that are being made go on."""
        for session in self._all():
            session.end(reason)

    def disown(self) -> None:
        """In a forked child: let go of the parent's sessions without a word to the server."""
        for session in self._all():
            session.disown()


def _seen(attempt: Task[AsyncSession]) -> None:
    # Everybody who waited for it may have given up meanwhile: that is nothing to warn about.
    if not attempt.cancelled():
        attempt.exception()


def _close_unwanted(attempt: Task[AsyncSession]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().end("its caller stopped waiting")
