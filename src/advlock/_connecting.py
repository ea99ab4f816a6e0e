"""Connecting, for the sync client."""

from __future__ import annotations

import _thread
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg

from advlock._clock import now
from advlock._connect import PATIENCE, forks, unavailable
from advlock._lent import LentWire
from advlock._liveness import Pulse
from advlock._pinned import NO_CONNECTION, PinnedWire
from advlock._plan import Expired, SessionLost
from advlock._pooling import probe
from advlock._session import Session
from advlock._set_up import looks_direct, set_up
from advlock._waiter import new_waiter, wait_until, wake
from advlock._wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._dsn import Dsn
    from advlock._liveness import Bounds
    from advlock._plan import SessionPlan
    from advlock._pooling import Verdict
    from advlock._set_up import Greeting, Identity

_A_MOMENT: Final = 0.001  # seconds, about what a fork takes


class Connected(NamedTuple):
    """A session that is safe to lock on, as far as its wire takes care of it.

    Attributes:
        wire: The connection.

        server: Which server it is.

        pooler: What stands in between; None for nothing.
    """

    wire: Wire
    server: Identity
    pooler: Verdict | None = None


def connect(conninfo: str, dsn: Dsn, pulse: Pulse, pooler: Verdict | None = None) -> Connected:
    """Connect and set up.

    Args:
        conninfo: Where to, for libpq.
        dsn: The same, for messages.
        pulse: Of the session that is made; gets the bounds that hold there.
        pooler: What was found of the pooler that may stand in between.

    Raises:
        DatabaseUnavailable: no connection; the message says why and what to check.
        UnsafeServer: mutual exclusion cannot hold there.
    """
    while True:
        while (before := forks()) % 2:
            time.sleep(_A_MOMENT)
        try:
            began = now()
            wire = Wire(psycopg.Connection.connect(conninfo, autocommit=True))
        except (psycopg.Error, OSError) as error:
            raise unavailable(error, dsn) from None
        took = now() - began
        connected = _set_up(wire, conninfo, dsn, pulse, pooler)
        if connected.pooler is None:  # else it may have ended at the pooler
            pulse.measure(took)
        if forks() == before:
            return connected
        # A child has a copy of the socket, so that only a goodbye ends the session there: it
        # would keep the locks of a parent that is killed.
        connected.wire.close()


def _set_up(wire: Wire, conninfo: str, dsn: Dsn, pulse: Pulse, pooler: Verdict | None) -> Connected:
    session = Session(wire, pulse)
    startup_pid = wire.pgconn.backend_pid
    if not looks_direct(startup_pid):
        wire.silence = NO_CONNECTION
    try:
        greeting = _greet(session, set_up(startup_pid, pulse.bounds))
        pulse.measure(now() - pulse.confirmed)
        if greeting.backend_pid == startup_pid:
            return Connected(wire, greeting.server)
        pulse.bounds = pulse.bounds.behind_a_pooler()
        pooler = pooler or probe(conninfo).checked(conninfo)
        if not pooler.pins:
            plan = set_up(greeting.backend_pid, pulse.bounds)
            if _greet(session, plan) == greeting:
                pulse.measure(now() - pulse.confirmed)
                wire = LentWire(wire.connection, greeting.backend_pid)
                return Connected(wire, greeting.server, pooler)
        wire = PinnedWire(wire.connection, pulse.bounds, greeting.server)
        return Connected(wire, greeting.server, pooler)
    except (SessionLost, Expired, psycopg.Error, OSError) as error:
        wire.close()
        raise unavailable(error, dsn) from None
    except BaseException:
        wire.close()
        raise


def _greet(session: Session, plan: SessionPlan[Greeting]) -> Greeting:
    return session.fetch(plan, time.monotonic() + PATIENCE)


class Connecting:
    """A connection attempt that belongs to the client: callers come and go, it goes on.

    So a caller's own deadline holds whatever libpq is busy with: looking up a name, a host that
    swallows packets, or a slow handshake.
    """

    def __init__(
        self,
        conninfo: str | Callable[[], str],
        dsn: Dsn,
        bounds: Bounds,
        done: Callable[[Connecting], Any],
        pooler: Verdict | None = None,
    ) -> None:
        self.connected: Connected | None = None
        self.pulse = Pulse(bounds)
        self.error: BaseException | None = None
        self.session: Session | None = None
        self._done = done
        self._finished = False
        self._waiters: list[Any] = []
        # Not a `threading.Thread`: its start() waits in ways that an interruption breaks.
        _thread.start_new_thread(self._connect, (conninfo, dsn, pooler))

    def _connect(self, conninfo: str | Callable[[], str], dsn: Dsn, pooler: Verdict | None) -> None:
        try:
            if not isinstance(conninfo, str):
                conninfo = conninfo()  # here: it may take its time, and the caller has a deadline
            self.connected = connect(conninfo, dsn, self.pulse, pooler)
        except BaseException as error:  # noqa: BLE001 - it is raised again in every caller
            self.error = self.error or error
        try:
            self._done(self)
        except BaseException as error:  # noqa: BLE001
            # No descriptor or no thread to be had for looking after it.
            self.error = unavailable(error, dsn)
            if self.connected is not None:
                self.connected.wire.close()
        finally:
            self._finish()

    def give_up(self, error: Exception) -> None:
        """Tell everybody who waits that nothing will come of it."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        for waiter in self._waiters:
            wake(waiter)

    def wait(self, deadline: float | None) -> None:
        """Wait for the outcome.

        Raises:
            Expired: `deadline` passed first.
        """
        waiter = new_waiter()
        self._waiters.append(waiter)
        if not self._finished:
            wait_until(waiter, deadline)
