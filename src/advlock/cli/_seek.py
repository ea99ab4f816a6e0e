"""Get the lock, and go on waiting for it if the server goes away meanwhile."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock import _label
from advlock._backoff import Backoff
from advlock.cli._acquire import Grant, Want, acquire
from advlock.errors import DatabaseUnavailable, UnsafeServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._solo import SoloSession

# A session that did not last so long, in seconds, belongs to the outage before it.
_STEADY: Final = 2.0


class Found(NamedTuple):
    """What was locked, on which session, with which fencing token."""

    session: SoloSession
    grant: Grant
    token: int


class Seeker:
    """Connects, waits, and begins anew on a new connection when one ends.

    A new session holds nothing, so there is nothing of the old server's to be believed or feared:
    wherever the connection leads to now, the lock is asked for there.
    """

    def __init__(
        self,
        connect: Callable[[], SoloSession],
        want: Want,
        until: float | None,
        tell: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """Seek what is wanted.

        Args:
            connect: Opens a session; it gives up at `until`.
            want: What to lock, and whether to wait at all.
            until: When to give up (in `time.monotonic` seconds); None for never.
            tell: Takes the lines that say who is in the way.
            warn: Takes the line that says that the database is away.
        """
        self._connect = connect
        self._want = want
        self._until = until
        self._tell = tell
        self._warn = warn
        self._session: SoloSession | None = None
        self._since = -math.inf  # when the session was opened
        self._warned = False
        self._backoff = Backoff()

    def seek(self) -> Found | None:
        """Return the lock; None when somebody else had it for too long.

        Raises:
            DatabaseUnavailable: no connection at first, or one that ended and we do not wait.
            UnsafeServer: the first connection led to where locks would not be safe.
        """
        self._open()
        while True:
            try:
                return self._once()
            except DatabaseUnavailable:
                if not self._want.patient:
                    raise
            if not self._reopen():
                name = self._want.name
                self._tell(f"skipped {name!r}: the database did not come back in time")
                return None

    def discard(self) -> None:
        """Close our end of the session at once; the server frees what it held or waited for."""
        if self._session is not None:
            self._session.discard()

    def _once(self) -> Found | None:
        session, name = self._session, self._want.name
        assert session is not None
        grant = acquire(session, self._want, self._until, self._tell)
        if grant is None:
            session.close()
            return None
        session.set_application_name(_label.make(name, since=time.time()))
        return Found(session, grant, session.token())

    def _open(self) -> None:
        self._session = self._connect()
        self._since = time.monotonic()

    def _reopen(self) -> bool:
        """Connect anew, as soon as that works; False when time is up."""
        self.discard()
        if not self._warned or time.monotonic() - self._since > _STEADY:
            self._warned = True
            self._backoff.note(time.monotonic(), failed=False)
            self._warn(f"lost the database while waiting for {self._want.name!r}; trying again")
        while True:
            self._backoff.note(time.monotonic(), failed=True)
            if not self._pause():
                return False
            try:
                self._open()
            except (DatabaseUnavailable, UnsafeServer):
                # A former primary may come back first, as somebody's replica.
                continue
            return True

    def _pause(self) -> bool:
        now = time.monotonic()
        left = math.inf if self._until is None else self._until - now
        time.sleep(max(0.0, min(self._backoff.pause(now), left)))
        return self._until is None or time.monotonic() < self._until
