"""Whoever may hold a lock of the memory server, and what pg_stat_activity would show of him."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from advlock.testing._protocol import BOOL, FLOAT8, INT4, TEXT

if TYPE_CHECKING:
    from advlock.testing._protocol import Value

# pid, name, user, address, port, state, four times, query, whether it holds back VACUUM.
ACTIVITY: Final = (INT4, *(TEXT,) * 3, INT4, TEXT, *(FLOAT8,) * 4, TEXT, BOOL)


class Somebody:
    """A session, seen from outside."""

    def __init__(self, pid: int, application: str = "", database: str = "") -> None:
        self.pid = pid
        self.user = "advlock"
        self.database = database
        self.began: float | None = None  # when its transaction did
        self._application = application
        self._connected = self._since = time.time()
        self._asked: float | None = None
        self._state = "idle"
        self._query = ""

    @property
    def application(self) -> str:
        """What it calls itself."""
        return self._application

    def does(self, state: str) -> None:
        """Note what it does now."""
        self._state, self._since = state, time.time()
        if state.startswith("idle in"):
            self.began = self.began or self._since
        elif state == "idle":
            self.began = None

    def asks(self, query: str) -> None:
        """Note what it has asked for."""
        self._query, self._asked = query, time.time()

    def granted(self) -> None:
        """Be told that what was waited for is there; who does not wait is not."""

    def terminate(self, sqlstate: str, why: str) -> None:
        """Be ended by somebody else."""
        raise NotImplementedError

    def activity(self) -> tuple[Value, ...]:
        """Return the columns that are described by `ACTIVITY`."""
        times = (self._since, self._connected, self.began, self._asked)
        who = (self.pid, self.application, self.user, None, -1, self._state)
        return (*who, *times, self._query[:1000], False)
