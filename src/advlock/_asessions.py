"""The sessions of the async client: one that is shared, and a few that wait for one lock each."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any

import psycopg

from advlock import _plan
from advlock._aloop import by
from advlock._asession import AsyncSession
from advlock._backoff import Backoff
from advlock._connect import PATIENCE, forks, unavailable
from advlock._plan import Expired, Refused, SessionLost
from advlock._wire import Wire
from advlock.errors import DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable

    from advlock._client import Client
    from advlock._ledger import Op


class AsyncSessions:
    """Opens, lends and closes a client's sessions, within its budget."""

    def __init__(
        self,
        client: Client,
        loop: AbstractEventLoop,
        settle: Callable[[Op, AsyncSession, bool | Exception], Any],
        when_lost: Callable[[AsyncSession, list[Op]], Any],
        carries: Callable[[AsyncSession], bool],
    ) -> None:
        self.loop = loop
        self.shared: AsyncSession | None = None
        self._client = client
        self._settle = settle
        self._when_lost = when_lost
        self._carries = carries
        self._connecting: Task[AsyncSession] | None = None
        self._backoff = Backoff()
        self._dedicated: set[AsyncSession | Task[AsyncSession]] = set()
        self._spares: list[AsyncSession] = []
        self._contenders = 0

    @property
    def open(self) -> bool:
        """Whether any session is."""
        return self.shared is not None or bool(self._dedicated)

    # -- the shared session ----------------------------------------------------------------------

    async def connect(self, deadline: float | None) -> AsyncSession:
        """Return the shared session; everybody who needs it waits for one attempt.

        Raises:
            Expired: `deadline` passed first.
            DatabaseUnavailable, UnsafeServer: the attempt failed.
        """
        while self.shared is None:
            self._client._check_open()
            if self._connecting is None:
                pause = self._backoff.pause(self.loop.time())
                if pause:
                    await by(deadline, asyncio.sleep(pause))
                    continue
                self._connecting = self.loop.create_task(self._connect_shared())
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
        while True:
            while (before := forks()) % 2:  # noqa: ASYNC110 - it is over in a thousandth
                await asyncio.sleep(0.001)
            session = await self._open()
            if forks() == before:
                session.when_lost(self._lost)
                return session
            # A child has a copy of the socket: see `_connecting.connect`.
            session.end("the process forked meanwhile")

    async def _open(self) -> AsyncSession:
        client = self._client
        try:
            connection = await psycopg.AsyncConnection.connect(
                client._conninfo(),
                autocommit=True,
            )
        except (psycopg.Error, OSError) as error:
            raise unavailable(error, client._dsn) from None
        wire = Wire(connection)
        session = AsyncSession(wire, self.loop, client._bounds, self._settle, self._carries)
        try:
            plan = _plan.set_up(wire.pgconn.backend_pid, client._bounds)
            server = await by(self.loop.time() + PATIENCE, session.fetch(plan))
            client._check_open()
            if client._meet(server):
                self.end("the database moved to another server")
        except (SessionLost, Expired) as error:
            session.end("the set-up failed")
            raise unavailable(error, client._dsn) from None
        except BaseException:
            session.end("the set-up failed")
            raise
        client._learn_encoding(wire.parameter("server_encoding"))
        return session

    # -- sessions that wait ----------------------------------------------------------------------

    async def lease(self, deadline: float | None) -> AsyncSession | None:
        """Lend a session to wait on; None where the budget, or the server, has none left.

        Raises:
            Expired: `deadline` passed first.
            UnsafeServer: the server is not what it was.
        """
        if self._spares:
            return self._spares.pop()
        if len(self._dedicated) + 1 >= self._client.max_connections:
            return None
        attempt = self.loop.create_task(self._connect_dedicated())
        self._dedicated.add(attempt)
        try:
            session = await self._outcome(attempt, deadline)
        except DatabaseUnavailable:
            return None
        except BaseException:
            attempt.add_done_callback(_close_unwanted)
            attempt.cancel()
            raise
        finally:
            self._dedicated.discard(attempt)
        return session

    async def _connect_dedicated(self) -> AsyncSession:
        # Booked in the task itself, as the shared one is: whoever closes the client finds it.
        session = await self._connect()
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

    async def close(self, holds: Callable[[AsyncSession], bool]) -> None:
        """Close every session; those that `holds` names release their locks for certain first."""
        for attempt in (self._connecting, *self._dedicated):
            if isinstance(attempt, asyncio.Task):
                attempt.cancel()
        goodbyes = [self._say_goodbye(session) for session in self._all() if holds(session)]
        await asyncio.gather(*goodbyes)
        self.end("the client was closed")

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


def _close_unwanted(attempt: Task[AsyncSession]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().end("its caller stopped waiting")
