"""Connecting, for the sync client."""

from __future__ import annotations

import _thread
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

from advlock import _plan
from advlock._connect import PATIENCE, forks, unavailable
from advlock._liveness import Pulse
from advlock._plan import Expired, SessionLost
from advlock._session import Session
from advlock._waiter import new_waiter, wait_until, wake
from advlock._wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._dsn import Dsn
    from advlock._liveness import Bounds
    from advlock._plan import Identity

_A_MOMENT: Final = 0.001  # seconds, about what a fork takes


def connect(conninfo: str, dsn: Dsn, pulse: Pulse) -> tuple[Wire, Identity]:
    """Connect and set up; the session is then safe to lock on. Returns also which server it is.

    Raises:
        DatabaseUnavailable: no connection; the message says why and what to check.
        UnsafeServer: mutual exclusion cannot hold there.
    """
    while True:
        while (before := forks()) % 2:
            time.sleep(_A_MOMENT)
        try:
            wire = Wire(psycopg.Connection.connect(conninfo, autocommit=True))
        except (psycopg.Error, OSError) as error:
            raise unavailable(error, dsn) from None
        identity = _set_up(wire, dsn, pulse)
        if forks() == before:
            return wire, identity
        # A child has a copy of the socket, so that only a goodbye ends the session there: it
        # would keep the locks of a parent that is killed.
        wire.close()


def _set_up(wire: Wire, dsn: Dsn, pulse: Pulse) -> Identity:
    try:
        plan = _plan.set_up(wire.pgconn.backend_pid, pulse.bounds)
        return Session(wire, pulse).fetch(plan, time.monotonic() + PATIENCE)
    except (SessionLost, Expired) as error:
        wire.close()
        raise unavailable(error, dsn) from None
    except BaseException:
        wire.close()
        raise


class Connecting:
    """A connection attempt that belongs to the client: callers come and go, it goes on.

    So a caller's own deadline holds whatever libpq is busy with: looking up a name, a host that
    swallows packets, or a slow handshake.
    """

    def __init__(
        self, conninfo: str, dsn: Dsn, bounds: Bounds, done: Callable[[Connecting], Any]
    ) -> None:
        self.wire: Wire | None = None
        self.identity: Identity | None = None
        self.pulse = Pulse(bounds)
        self.error: BaseException | None = None
        self.session: Session | None = None
        self._done = done
        self._finished = False
        self._waiters: list[Any] = []
        # Not a `threading.Thread`: its start() waits in ways that an interruption breaks.
        _thread.start_new_thread(self._connect, (conninfo, dsn))

    def _connect(self, conninfo: str, dsn: Dsn) -> None:
        try:
            self.wire, self.identity = connect(conninfo, dsn, self.pulse)
        except BaseException as error:  # noqa: BLE001 - it is raised again in every caller
            self.error = self.error or error
        try:
            self._done(self)
        except BaseException as error:  # noqa: BLE001
            # No descriptor or no thread to be had for looking after it.
            self.error = unavailable(error, dsn)
            if self.wire is not None:
                self.wire.close()
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
