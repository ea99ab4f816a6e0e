"""The sync client. Its twin is `_alocks.py`: the same verbs, the same parameters."""

from __future__ import annotations

import _thread
import warnings
from typing import TYPE_CHECKING, Any

from advlock._all import several
from advlock._client import names_of, wait_seconds
from advlock._core import Core
from advlock._held import Attempt, Hold, HoldAll
from advlock._lock import Lock
from advlock._waiter import wake

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from advlock._client import Seconds
    from advlock._holder import Holder
    from advlock._inspect._tree import Snapshot
    from advlock._key import Name
    from advlock._leader._leader import Leader
    from advlock._once._entry import Once
    from advlock._rate._limit import RateLimit
    from advlock._semaphore._semaphore import Semaphore
    from advlock._xact import Connection


class Locks(Core):
    """A client for threads: owns its server sessions, and any number of locks on them.

    Thread-safe. Connects on first use. After a fork the child starts without locks.

    Args:
        dsn: `postgresql://…` or libpq's `host=… dbname=…`. Without it: `ADVLOCK_DSN`,
            `advlock.toml` or `[tool.advlock]`, `DATABASE_URL`, then libpq's own variables.
        namespace: Put before every string name, with a colon; by default that of `registry`, or
            none.
        keys: How strings become keys: `hashtextextended` (64 bits) or `hashtext` (32 bits, what
            existing deployments may use); by default what `registry` says, or 64 bits.
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
        registry: The names that there are: a `Registry`, the path of its file, or True for the
            nearest `advlock.toml` or `pyproject.toml`. A fixed key or a key scheme that it has for
            a name is used, and of two names with one key the second is refused, on use, with
            `KeyCollision`.
        strict: Refuse, on use and with `ConfigError`, every name that `registry` does not have,
            and every number or pair that is no fixed key there.

    Raises:
        ConfigError: a setting cannot be right, or there is no address.
        KeyCollision: two names of `registry` have one key.
    """

    __module__ = "advlock"

    @classmethod
    def from_engine(
        cls,
        engine: Engine | AsyncEngine,
        *,
        libpq: Mapping[str, object] | None = None,
        **settings: Any,
    ) -> Self:
        """Make a client for the database of a SQLAlchemy engine; its sessions are its own.

        Where the engine connects to, as whom and with which TLS settings is taken over, once;
        what `do_connect` listeners change (a token instead of a password), at each connection.
        No connection of the engine's pool is used, and none of its other events.

        Args:
            engine: An `Engine` or an `AsyncEngine`, on any driver for PostgreSQL that can be
                translated: psycopg, psycopg2, asyncpg, pg8000.
            libpq: Parameters of libpq's that come before those of the engine, such as
                `{"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"}` for what cannot be
                translated (an `SSLContext`). `sslmode` replaces all that the engine says of TLS.
            settings: Those of the client itself: `namespace`, `liveness` …

        Raises:
            ConfigError: the engine is not PostgreSQL's, or nobody can tell its address: it was
                made with `creator=`, or has a setting that libpq does not know.
        """
        from advlock._sqlalchemy._address import client_of  # noqa: PLC0415 - for those who have one

        return client_of(cls, engine, libpq, settings)

    # -- the verbs -------------------------------------------------------------------------------

    def hold(
        self, name: Name, *, wait: Seconds = None, shared: bool = False, reentrant: bool = False
    ) -> Hold:
        """Hold a lock: a context manager that enters when granted, and a decorator.

        Args:
            name: A string, a 64-bit integer, or a pair of 32-bit integers.
            wait: How long to wait, in seconds or as `"30s"`; None for ever. Covers everything:
                connecting, our own threads ahead in the queue, and the server. Once connected,
                there is time for a round trip however small it is; `attempt` connects, too.
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

    def hold_all(
        self, names: Iterable[Name], *, wait: Seconds = None, shared: Iterable[Name] = ()
    ) -> HoldAll:
        """Hold several locks or none; enters with a list of `Held`: those of `names`, then shared.

        One request to the server where all are free. They are waited for in one canonical order
        whatever the order of `names`, so that two callers cannot wait for each other.

        Args:
            names: What to hold alone. Of a name twice there is one hold.
            wait: How long to wait for all of them together, in seconds or as `"30s"`; None for
                ever.
            shared: What to share with other shared holders; not what is in `names`, too.

        Raises:
            LockTimeout: on entering, when not all were free in time; it names the first in the
                order that was not, and none is held.
        """
        return HoldAll(self, several(names, shared), wait=wait_seconds(wait))

    def semaphore(self, name: str, slots: int) -> Semaphore:
        """Return a semaphore: at most `slots` holders at a time, in all processes together.

        Slot n is the lock `hashtextextended(name, n)`, so slot 0 is the plain lock of that name.

        Args:
            name: A string.
            slots: From 1 to 1 000. Who holds a slot, and who wants one, must say the same.

        Raises:
            ConfigError: it cannot be a name, or a number of slots.
        """
        from advlock._semaphore._semaphore import Semaphore  # noqa: PLC0415 - few clients do

        return Semaphore(self, name, slots)

    def lock(self, name: Name, *, shared: bool = False) -> Lock:
        """Return a drop-in for `threading.Lock` whose other holders may be on other machines."""
        return Lock(self, name, shared=shared)

    def leader(self, name: Name, *, pause: Seconds = 1.0) -> Leader:
        """Stand for the lead of `name`: of all candidates one leads at a time, term by term.

        Args:
            name: The lock that whoever leads holds.
            pause: How long others come first, in seconds, after a term that we ended ourselves.
        """
        from advlock._leader._leader import Leader  # noqa: PLC0415 - most clients only lock

        return Leader(self, name, pause=pause)

    def once(
        self,
        name: str,
        *,
        per: Seconds = None,
        wait: Seconds = None,
        connection: Connection | None = None,
    ) -> Once:
        """Do something once, ever: exactly one does it, the others wait until it is done.

        A context manager: it enters with a `Todo`, which is true, where it is yours to do, or else
        with a `Done`, which is false. It is recorded as done when the block ends without an
        exception; otherwise whoever comes next does it. A decorator, too: a call that finds it done
        returns None.

        Args:
            name: A string. The lock is `once:` and this.
            per: At most once in a window of this length, in seconds or as `"24h"`, counted from
                the beginning of what was done last, by the server's clock; None for ever.
            wait: How long to wait for somebody else to do it; None for ever.
            connection: A psycopg connection in a transaction of yours: work and record commit
                together there, and others wait until that has ended.

        Raises:
            LockTimeout: on entering, when somebody else was not through in time.
            LockLost: on leaving, when the lock was lost: it is not recorded as done, or that is in
                doubt; the message says which.
            ConfigError: the table for it is not there and this role may not make it; or
                `connection` is in no transaction.
        """
        from advlock._once import _entry, _plan  # noqa: PLC0415 - most clients only lock

        wanted = _plan.want(name, per)
        return _entry.Once(self, wanted, wait=wait_seconds(wait), connection=connection)

    def rate_limit(
        self, name: str, limit: int | str, per: Seconds = None, *, smooth: bool = False
    ) -> RateLimit:
        """Limit a rate: never more than `limit` permits in any stretch of `per`, for all together.

        Everybody who uses the name says the same limit; each goes by what he says.

        Args:
            name: What is limited.
            limit: How many permits there are; or all in one text, `"100/60s"` or `"100/minute"`.
            per: In how long, in seconds or as `"60s"`.
            smooth: Whether to spread them evenly; otherwise they may be used up all at once.

        Raises:
            ConfigError: it is no rate.
        """
        from advlock._rate._limit import RateLimit  # noqa: PLC0415 - most clients only lock
        from advlock._rate._rate import rate  # noqa: PLC0415 - as well

        return RateLimit(self, name, rate(limit, per, smooth=smooth))

    def holders(self, name: Name) -> list[Holder]:
        """Ask the server who holds a lock, and who waits for it in the order of the queue."""
        self._check_open()
        return self._ask_holders(self._key(name, None), None)

    def inspect(self, names: Iterable[Name] = (), *, all_databases: bool = False) -> Snapshot:
        """Look at all locks of the database: what each is called, who holds it, and who waits.

        It is one question on the client's session, which waits for nothing: where the tables of
        advlock are locked, the answer does without the names in them.

        Args:
            names: Only these; all without it. A name means the slots of its semaphore, too.
            all_databases: Those of all databases on the server.

        Raises:
            DatabaseUnavailable: there is no session, or it gave no answer.
            ConfigError: something in `names` cannot be a name.
        """
        self._check_open()
        return self._inspect(names_of(names), all_databases=all_databases)

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
