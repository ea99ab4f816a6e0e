"""A model of the server's advisory locks, for tests that enumerate what can go wrong."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from advlock import _sql

if TYPE_CHECKING:
    from advlock._ledger import Op


class ModelServer:
    """Session-level advisory locks as PostgreSQL has them: stacked per session, shared or not."""

    def __init__(self) -> None:
        self.held: Counter[tuple[object, object, bool]] = Counter()  # session, key, shared

    def perform(self, session: object, op: Op) -> bool:
        """Do what one row of a combined request asks."""
        code, key = op.code, op.ticket.key
        shared = code & 1 == 1 or code >= _sql.JOIN
        if op.releases:
            return self.unlock(session, key, shared=shared)
        return self.try_lock(session, key, shared=shared)

    def try_lock(self, session: object, key: object, *, shared: bool) -> bool:
        """Take the lock if no other session is in the way; a session never is in its own."""
        for (other, its_key, its_shared), count in self.held.items():
            if count and other != session and its_key == key and not (shared and its_shared):
                return False
        self.held[session, key, shared] += 1
        return True

    def unlock(self, session: object, key: object, *, shared: bool) -> bool:
        """Take one off the stack; false where there is none."""
        if not self.held[session, key, shared]:
            return False
        self.held[session, key, shared] -= 1
        return True

    def end(self, session: object) -> None:
        """End the session; its locks go with it."""
        for entry in [entry for entry in self.held if entry[0] == session]:
            del self.held[entry]

    def count(self, session: object, key: object | None = None) -> int:
        """Count what a session holds, stacked ones as often as they are."""
        return sum(
            count
            for (its_session, its_key, _), count in self.held.items()
            if its_session == session and key in (None, its_key)
        )
