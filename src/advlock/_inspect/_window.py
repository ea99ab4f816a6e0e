"""A session that looks at locks, and comes back when the server does.

It sets up nothing and locks nothing, so it works where no client would: on a read replica, behind
any pooler, on a server whose locks are stubs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import psycopg

from advlock import _connect
from advlock._inspect import _sql
from advlock._inspect._asked import asked
from advlock._inspect._look import Access, look, namer, settled
from advlock._key import pg_encoding
from advlock._liveness import Bounds, Pulse
from advlock._plan import Expired, Refused, SessionLost, server_error
from advlock._session import Session
from advlock._wire import Wire
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from advlock._dsn import Dsn
    from advlock._inspect._naming import Namer
    from advlock._inspect._tree import Snapshot
    from advlock._key import Key, Name
    from advlock._plan import SessionPlan
    from advlock._registry._registry import Registry

R = TypeVar("R")

# How long an answer may take, in seconds; a little more than the server's statement_timeout.
_PATIENCE: Final = 25.0
# How long the catalogue of a database counts, in seconds: tables come and go.
_CATALOGUE_LASTS: Final = 60.0


class Window:
    """Looks at the locks of a server, again and again.

    Connects on first use, and anew on the next use after the connection has ended. For one
    thread at a time.

    Args:
        dsn: Which database.
        registry: The project's registry, if there is one.
        all_databases: Whether to look at the locks of all databases.
        application_name: How the session signs.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        registry: Registry | None = None,
        all_databases: bool = False,
        application_name: str = "advlock ps",
    ) -> None:
        self._dsn = dsn
        self._registry = registry
        self._all = all_databases
        self._bounds = Bounds()
        self._conninfo = _connect.conninfo(dsn.conninfo, application_name, self._bounds)
        self._session: Session | None = None
        self._encoding = "utf-8"
        self._startup_pid = 0
        self._access = Access()
        self._namer: Namer | None = None
        self._named_at = 0.0

    @property
    def pid(self) -> int:
        """The server process that answered last; 0 before the first answer."""
        return self._access.pid

    def look(self, names: Iterable[Name] = ()) -> Snapshot:
        """Look at the locks, or at those of these names: their slots, too.

        Raises:
            DatabaseUnavailable: there is no session, or it ended; the next call tries again.
            ConfigError: a name cannot be one.
        """
        self._open()
        wanted = asked(names, encoding=self._encoding, registry=self._registry)
        if self._namer is None or time.monotonic() - self._named_at > _CATALOGUE_LASTS:
            self._namer = self.ask(namer(self._registry))
            self._named_at = time.monotonic()
        plan = look(wanted, all_databases=self._all, namer=self._namer, access=self._access)
        return self.ask(plan)

    def keys(self, name: Name) -> tuple[Key, ...]:
        """Return the keys that a name may stand for; see `_asked`."""
        self._open()
        return tuple(asked([name], encoding=self._encoding, registry=self._registry))

    def ask(self, plan: SessionPlan[R]) -> R:
        """Drive any plan on the same session.

        Raises:
            DatabaseUnavailable: there is no session, or it ended, or gave no answer in time.
            LockError: the server refused what the plan asked.
        """
        session = self._open()
        plan = settled(plan, self._access, self._startup_pid, _sql.SETTINGS)
        try:
            return session.fetch(plan, time.monotonic() + _PATIENCE)
        except Refused as refusal:
            raise server_error(refusal) from None
        except Expired:
            self.close()
            msg = f"the server did not answer within {_PATIENCE:g} s; try again"
            raise DatabaseUnavailable(msg) from None
        except SessionLost as lost:
            self.close()
            raise DatabaseUnavailable(f"the session ended: {lost}; try again") from None

    def close(self) -> None:
        """End the session. The next use opens another one."""
        session, self._session = self._session, None
        if session is not None:
            if session.wire.expects:
                session.wire.cancel()
            session.close("done")

    def __enter__(self) -> Self:
        """Return the window; it connects on first use."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End the session."""
        self.close()

    # -- the session -----------------------------------------------------------------------------

    def _open(self) -> Session:
        session = self._session
        if session is not None and session.looks_alive():
            return session
        self.close()
        try:
            wire = Wire(psycopg.Connection.connect(self._conninfo, autocommit=True))
        except (psycopg.Error, OSError) as error:
            raise _connect.unavailable(error, self._dsn) from None
        self._startup_pid = wire.pgconn.backend_pid
        self._encoding = pg_encoding(wire.parameter("server_encoding"))
        self._access = Access()
        self._namer = None
        self._session = session = Session(wire, Pulse(_Patient()))
        return session


class _Patient(Bounds):
    """Bounds of a session that carries no lock: an answer may take its time."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.trust = _PATIENCE
