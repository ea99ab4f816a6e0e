"""Stop a migration whose lock is lost: somebody else may be migrating by then.

Three ways: its next statement is refused, its COMMIT is refused, and the statement that runs is
cancelled, where the driver can do that from another thread (psycopg and psycopg2 can).
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from advlock.errors import LockLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from advlock._held import Held

# A cancellation that comes between two statements does nothing, so it is sent again; in seconds.
_AGAIN: Final = 0.5


@contextlib.contextmanager
def stopped_when_lost(held: Held, target: Connection | Engine) -> Iterator[None]:
    """Run the block while `held` is held, and no longer.

    Args:
        held: The lock.
        target: What the migrations run on.

    Raises:
        LockLost: it was lost, and the block did not succeed.
    """
    guard = _Guard(held)
    event.listen(target, "before_cursor_execute", guard.before_statement)
    event.listen(target, "commit", guard.before_commit)
    try:
        held.on_lost(guard.lost)
        yield
    except LockLost:
        raise
    except Exception as error:
        if not held.lost:
            raise
        raise held._client._lost(held._ticket) from error
    finally:
        guard.end()
        event.remove(target, "before_cursor_execute", guard.before_statement)
        event.remove(target, "commit", guard.before_commit)


class _Guard:
    def __init__(self, held: Held) -> None:
        self._held = held
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._driver_s: Any = None  # the connection that the last statement went to

    def before_statement(self, connection: Connection, *_: object) -> None:
        self._driver_s = connection.connection.driver_connection
        self._held.check()

    def before_commit(self, _: Connection) -> None:
        self._held.check()

    def lost(self, _: Held) -> None:
        # In a thread of its own: it lasts until the block ends, which may be waiting for us (a lock
        # that was lost before `on_lost` is told by that), and others wait to be told.
        threading.Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        while not self._over.is_set():
            with self._mutex, contextlib.suppress(Exception):
                if not self._over.is_set():
                    self._driver_s.cancel()
            self._over.wait(_AGAIN)

    def end(self) -> None:
        with self._mutex:  # or a cancellation could meet what comes after the block
            self._over.set()
