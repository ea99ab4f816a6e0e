"""A server of locks inside the test's own process, and what a test may do to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from advlock._inspect import _one
from advlock._key import Key
from advlock.errors import LockNotHeld
from advlock.testing._answers import holders
from advlock.testing._clients import Clients
from advlock.testing._server import PORT, Server
from advlock.testing._somebody import Somebody
from advlock.testing._table import Outcome, Tag

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from advlock._holder import Holder, Waiter
    from advlock._key import Name

_DATABASE = "memory"
_KILLED = "terminating connection due to administrator command"
_FULL = "sorry, too many clients already"


class Rival(Somebody):
    """Somebody else who holds a lock; a context manager, whose end is `release()`."""

    __module__ = "advlock.testing"

    def __init__(self, server: Server, key: Key) -> None:
        super().__init__(server.next_pid(), "somebody else", _DATABASE)
        self._server = server
        self.key = key

    def __repr__(self) -> str:
        return f"<Rival {self.key}>"

    def release(self) -> None:
        """Let go; whoever waits gets the lock. A second call does nothing."""
        self._server.do(self._end)

    def terminate(self, sqlstate: str, why: str) -> None:
        """Let go, because a test ends the session of whoever holds the lock."""
        del sqlstate, why
        self._end()

    def _end(self) -> None:
        self._server.table.end(self)

    def __enter__(self) -> Self:
        """Return it; the lock is held already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Let go."""
        self.release()


class MemoryServer(Clients):
    """A server that has advisory locks and nothing else, for tests without a PostgreSQL.

    The client is the real one, and talks to it over a Unix socket as it does to PostgreSQL:
    queues, timeouts, heartbeats and leases are what they are there, and so are several clients,
    threads, tasks and processes, `advlock run` too. What needs tables is refused: `once`,
    `rate_limit`, the cron, recorded names; and so is every statement that is not about locks.
    A context manager; leaving it is `close()`.

    Names are what a client without a namespace calls them: with `namespace="billing"` the lock
    `nightly` is `billing:nightly` here.
    """

    __module__ = "advlock.testing"

    def __init__(self) -> None:
        self._server = server = Server()
        where = quote(str(server.folder), safe="/")
        super().__init__(f"postgresql://advlock@/{_DATABASE}?host={where}&port={PORT}")

    def __repr__(self) -> str:
        return f"<MemoryServer {self.dsn}>"

    # -- others ----------------------------------------------------------------------------------

    def hold(self, name: Name, *, shared: bool = False) -> Rival:
        """Have somebody else hold a lock, from now on until `release()` of what is returned.

        Args:
            name: The lock.
            shared: Whether others may share it.

        Raises:
            LockTimeout: it is not free; it says who holds it.
        """
        key = Key.of(name)
        rival = Rival(self._server, key)
        outcome = self._server.do(
            lambda: self._server.table.acquire(rival, _tag(key), shared=shared)
        )
        if outcome is not Outcome.GRANTED:
            from advlock._client import timeout  # noqa: PLC0415 - for errors only

            raise timeout(name, key, 0.0, self._seen(key))
        return rival

    def holders(self, name: Name) -> list[Holder]:
        """List who holds a lock."""
        return [one for one in self._seen(Key.of(name)) if not one.waiting]

    def waiters(self, name: Name) -> list[Waiter]:
        """List who waits for a lock at the server, in the order in which they will get it."""
        seen: list[Any] = self._seen(Key.of(name))
        return [one for one in seen if one.waiting]

    def _seen(self, key: Key) -> list[Holder]:
        rows = self._server.do(lambda: holders(self._server.table.rows_of(_tag(key))))
        texts = [tuple(None if one is None else str(one) for one in row) for row in rows]
        return _one.read(key, texts)

    # -- faults ----------------------------------------------------------------------------------

    def lose(self, name: Name) -> int:
        """End the session of whoever holds a lock, as `pg_terminate_backend` does.

        Everything that session holds is lost with it, and the lock goes to whoever waits. The
        client can know when this returns: `lost` of its `Held` is true.

        Returns:
            How many sessions were ended; several may share a lock.

        Raises:
            LockNotHeld: nobody holds it.
        """
        key = Key.of(name)

        def end() -> int:
            rows = list(self._server.table.rows_of(_tag(key)))
            losers: set[Any] = {row.session for row in rows if row.granted}
            for one in losers:
                one.terminate("57P01", _KILLED)
            return len(losers)

        ended = self._server.do(end)
        if not ended:
            msg = f"nobody holds {name!r}, so nobody can lose it"
            raise LockNotHeld(msg)
        return ended

    def freeze(self) -> None:
        """Answer nobody any more, as behind a network that is down; nobody is told.

        Clients stop believing in their locks after about two thirds of their `liveness`.
        """
        self._server.freeze(True)  # noqa: FBT003

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._server.freeze(False)  # noqa: FBT003

    def refuse(self) -> None:
        """Let no new connection in; those that are there go on."""
        self._server.refuses = _FULL

    def accept(self) -> None:
        """Let new connections in again, after `refuse`."""
        self._server.refuses = ""

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End all sessions, and the server. A second call does nothing."""
        if self._server.alive:
            self.thaw()
            self.close_clients()
            self._server.stop()

    def __enter__(self) -> Self:
        """Return the server, which runs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _tag(key: Key) -> Tag:
    return Tag(_DATABASE, key.value, key.pair)
