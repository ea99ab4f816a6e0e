"""The sync client. Its twin is `_alocks.py`: the same verbs, the same parameters."""

from __future__ import annotations

import _thread
import warnings
from typing import TYPE_CHECKING

from advlock._client import names_of, wait_seconds
from advlock._core import Core
from advlock._held import Attempt, Hold, HoldAll
from advlock._lock import Lock
from advlock._waiter import wake

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._key import Name


class Locks(Core):
    """A client for threads: owns its server sessions, and any number of locks on them.

    Thread-safe. Connects on first use. After a fork the child starts without locks.

    Args:
        dsn: `postgresql://…` or libpq's `host=… dbname=…`. Without it: `ADVLOCK_DSN`,
            `advlock.toml` or `[tool.advlock]`, `DATABASE_URL`, then libpq's own variables.
        namespace: Put before every string name, with a colon.
        keys: How strings become keys: `hashtextextended` (64 bits) or `hashtext` (32 bits, what
            existing deployments may use).
        max_connections: The most server sessions at a time. The first carries every lock that
            was free when asked for; the others wait for one lock each, and carry it when granted.
        max_locks: The most locks at a time; it protects the server's lock table, which all its
            sessions share.
        application_name: What `pg_stat_activity` shows; by default `advlock HOST:PID`.
        liveness: Within how long, in seconds or as `"10s"`, the server lets go of the locks of a
            host that vanished; at least 3. We stop believing in them earlier, after about two
            thirds of it without a word from the server. Smaller is quicker, and loses locks to
            shorter disturbances of the network.
        lease: Within how long the server lets go of the locks of a *frozen* process (SIGSTOP, a
            paused VM, a blocked event loop), whose host still answers; at least 2. None: never,
            but for `liveness` behind a connection pooler.

    Raises:
        ConfigError: a setting cannot be right, or there is no address.
    """

    __module__ = "advlock"

    # -- the verbs -------------------------------------------------------------------------------

    def hold(
        self, name: Name, *, wait: Seconds = None, shared: bool = False, reentrant: bool = False
    ) -> Hold:
        """Hold a lock: a context manager that enters when granted, and a decorator.

        Args:
            name: A string, a 64-bit integer, or a pair of 32-bit integers.
            wait: How long to wait, in seconds or as `"30s"`; None for ever. Covers everything:
                connecting, our own threads ahead in the queue, and the server.
            shared: Share it with other shared holders.
            reentrant: Enter at once where this thread already holds it.

        Raises:
            LockTimeout: on entering, when it was not free in time; it says who holds it.
            LockLost: on leaving, when the lock was lost meanwhile.
            DatabaseUnavailable: on entering, when there is no session.
            UnsafeServer: on entering, when mutual exclusion cannot hold there.
        """
        return Hold(self, name, wait=wait_seconds(wait), shared=shared, reentrant=reentrant)

    def attempt(self, name: Name, *, shared: bool = False, reentrant: bool = False) -> Attempt:
        """Take a lock only if it is free now: enters at once, with a `Held` or None.

        As a decorator it skips the call, which then returns None, when the lock is not free.
        Parameters and errors are those of `hold`.
        """
        return Attempt(self, name, shared=shared, reentrant=reentrant)

    def hold_all(self, names: Iterable[Name], *, wait: Seconds = None) -> HoldAll:
        """Hold several locks or none; enters with a list of `Held`, in the order of `names`.

        They are taken in one canonical order whatever the order of `names`, so that two callers
        cannot wait for each other. Parameters and errors are those of `hold`.
        """
        return HoldAll(self, names_of(names), wait=wait_seconds(wait))

    def lock(self, name: Name, *, shared: bool = False) -> Lock:
        """Return a drop-in for `threading.Lock` whose other holders may be on other machines."""
        return Lock(self, name, shared=shared)

    def holders(self, name: Name) -> list[Holder]:
        """Ask the server who holds a lock, and who waits for it in the order of the queue."""
        self._check_open()
        return self._ask_holders(self._key(name, None), None)

    def close(self) -> None:
        """Release every lock and close every session. Idempotent."""
        with self._mutex:
            self._closed = True
            waiting = [t.waker for t in self._ledger.tickets() if t.waker is not None]
        self._sessions.close(self._carried)
        for waker in waiting:
            wake(waker)

    def __enter__(self) -> Self:
        """Return the client; it connects on first use."""
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._sessions.open:
            self._close_elsewhere()
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)

    def _close_elsewhere(self) -> None:
        # A finalizer runs in whatever thread, under whatever lock, and must not wait there.
        try:
            _thread.start_new_thread(self._close_unwatched, ())
        except RuntimeError:  # the interpreter is shutting down: the sockets close with it
            self._sessions.disown()

    def _close_unwatched(self) -> None:
        self._sessions.hear_out()
        self.close()
