"""What a session of the memory server has to do with locks: its own, and its transaction's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock.testing._protocol import Refusal
from advlock.testing._settings import Transaction
from advlock.testing._somebody import Somebody
from advlock.testing._table import SESSION, Outcome, Tag

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeAlias

    from advlock.testing._server import Server

    Waiting: TypeAlias = Generator["Patience", bool, Any]

DEADLOCK: Final = Refusal("40P01", "deadlock detected")
_LATE: Final = {
    "lock_timeout": Refusal("55P03", "canceling statement due to lock timeout"),
    "statement_timeout": Refusal("57014", "canceling statement due to statement timeout"),
}


class Patience(NamedTuple):
    """How a statement waits for its lock. It gets True with the lock, and False when time is up.

    Attributes:
        seconds: How long; None for ever.

        circles: Whether one who waits for himself, in the end, is refused.
    """

    seconds: float | None
    circles: bool = False


class Locking(Somebody):
    """A session, its settings and its locks; `Backend` adds the connection."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.next_pid())
        self.server = server
        self.table = server.table
        self.at = Transaction({})

    def finish(self, *, well: bool) -> None:
        """End the transaction; the locks that are its own are free."""
        self.table.roll_back(self)
        self.at.end(well=well)

    def set(self, name: str, value: str, *, local: bool = False) -> str:
        """Change a setting."""
        return self.at.set(name, value, local=local)

    @property
    def application(self) -> str:
        """What the session calls itself."""
        return self.at.get("application_name")

    # -- locks -----------------------------------------------------------------------------------

    def tag(self, value: int, *, pair: bool = False) -> Tag:
        """Return what a key of this database locks."""
        return Tag(self.database, value, pair)

    def try_lock(self, tag: Tag, *, shared: bool = False, level: int = SESSION) -> bool:
        """Take a lock, if it is free."""
        outcome = self.table.acquire(self, tag, shared=shared, level=level)
        return outcome is Outcome.GRANTED

    def lock(self, tag: Tag, *, shared: bool, level: int = SESSION) -> Waiting:
        """Wait for a lock, as long as the settings of the session allow."""
        limits = {name: self.at.seconds(name) for name in _LATE}
        set_ones = {name: limit for name, limit in limits.items() if limit is not None}
        soonest = min(set_ones, key=set_ones.__getitem__, default=None)
        seconds = None if soonest is None else set_ones[soonest]
        if not (
            yield from self.wait_for(
                tag, Patience(seconds, circles=True), shared=shared, level=level
            )
        ):
            assert soonest is not None
            raise _LATE[soonest]

    def wait_for(
        self, tag: Tag, patience: Patience, *, shared: bool, level: int = SESSION
    ) -> Generator[Patience, bool, bool]:
        """Wait for a lock; tell whether it was granted."""
        outcome = self.table.acquire(
            self, tag, shared=shared, level=level, wait=True, now=time.time()
        )
        if outcome is Outcome.DEADLOCK:
            raise DEADLOCK
        return outcome is Outcome.GRANTED or (yield patience)
