"""What keys are called, put down in the database, where any host can read it. Pure.

The rules:

1. A name is recorded once for each process and key. What is there already is not written again.
2. Nobody waits for it: names are noted where they become keys for the first time, and recorded
   later, by nobody who asks for a lock (`_recording.py`).
3. It fails nobody. Where there is no table, or no right to it, nothing is recorded.
4. Everything is bounded: what waits here, what is sent at a time, how often, and the table.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock import _names_sql as _sql
from advlock._plan import Script, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._key import Key
    from advlock._plan import SessionPlan

# An entry of a B-tree holds at most 2 704 bytes (tests/names/test_names.py).
LONGEST_NAME: Final = 1000  # bytes of UTF-8
MOST_ROWS: Final = 100_000
_MOST_NOTED: Final = 5_000
_MOST_AT_ONCE: Final = 500
_LONGEST_AT_ONCE: Final = 32_000  # characters: heartbeats go over the same line, which may be slow
_MOST_DONE: Final = 20_000

# Seconds: from the first name to the first flush, so that those of the same moment come along, and
# no program that lives for less pays for it; until a flush that nobody heard the end of is over.
SOON: Final = 1.0
_UNDER_WAY: Final = 15.0
_AGAIN: Final = 2.0
_BUSY: Final = 15.0
_ABSENT: Final = 120.0
DAY: Final = 86_400.0

_YES: Final = "yes"
_ABSENCE: Final = ("3F", "42", "25", "0A")  # no such thing, not allowed, read-only
_UNFIT: Final = ("22", "23", "54")  # what was sent will not do, now or later


class Entry(NamedTuple):
    """One row: a key, and what it is called."""

    key: int
    name: str
    scheme: str
    seed: int


class Done:
    """What this process has recorded in one database, and when."""

    def __init__(self) -> None:
        self._when: dict[Entry, float] = {}

    def has(self, entry: Entry, now: float) -> bool:
        """Whether it was recorded within a day."""
        return now - self._when.get(entry, -math.inf) < DAY

    def add(self, entries: Iterable[Entry], now: float) -> None:
        """Note that these were recorded."""
        if len(self._when) > _MOST_DONE:
            self._when.clear()  # they are asked for once more, and found to be there
        for entry in entries:
            self._when[entry] = now


class Names:
    """The names that a client has used, until they are recorded. Times are seconds of `_clock`.

    Any thread may note names; one at a time has them recorded.

    Attributes:
        done: What this process has recorded where the client is connected; not only for this one.
    """

    def __init__(self) -> None:
        self.done = Done()
        self._noted: dict[Entry, None] = {}
        self._next: float | None = None  # not to be recorded before
        self._last = -math.inf  # when we asked the server last
        self._fresh_until: float | None = None  # then everything in use is noted once more

    def note(self, key: Key) -> bool:
        """Note what `key` is called; tell whether that was news."""
        if key.name is None or key.pair or len(self._noted) >= _MOST_NOTED:
            return False
        entry = Entry(key.value, key.name, key.scheme, key.seed)
        if entry in self._noted or len(key.name.encode("utf-8", "replace")) > LONGEST_NAME:
            return False
        self._noted[entry] = None
        return True

    def due(self, now: float, used: float) -> bool:
        """Whether to record now.

        Args:
            now: The time.
            used: When the client's session was used last. A client that is idle stays silent: it
                may be all that keeps a server awake.
        """
        return self.pause(now) <= 0 and used > self._last

    def stale(self, now: float) -> bool:
        """Whether a day has passed, so that names in use are to be noted anew; once a day."""
        if self._fresh_until is None:
            self._fresh_until = now + DAY
        if now < self._fresh_until:
            return False
        self._fresh_until = now + DAY
        return True

    def rest(self, until: float) -> None:
        """Record nothing before then."""
        self._next = max(self._next or until, until)

    def pause(self, now: float) -> float:
        """How long until there is something to do again."""
        if not self._noted:
            return DAY
        if self._next is None:
            self._next = now + SOON
        return max(0.0, self._next - now)

    def take(self, now: float) -> list[Entry]:
        """Take what is to be recorded next; `settle` ends it."""
        self._next = now + _UNDER_WAY
        taken: list[Entry] = []
        length = 0
        while self._noted and len(taken) < _MOST_AT_ONCE and length < _LONGEST_AT_ONCE:
            entry, _ = self._noted.popitem()
            if not self.done.has(entry, now):
                taken.append(entry)
                length += len(entry.name)
        return taken

    def settle(self, taken: list[Entry], verdict: str | None, now: float) -> None:
        """Book what came of it.

        Args:
            taken: What `take` returned.
            verdict: What `write` returned; None where there is no table for us, and the empty
                string where nobody knows.
            now: The time.
        """
        state = (verdict or "")[:2]
        self._last = now
        if verdict == _YES or state in _UNFIT:
            self.done.add(taken, now)
            self._next = now + _AGAIN
            # What came meanwhile, or was too much for once, needs no further use of the client.
            if self._noted:
                self._last = -math.inf
            return
        self._next = now + (_ABSENT if verdict is None or state in _ABSENCE else _BUSY)
        for entry in taken[: _MOST_NOTED - len(self._noted)]:
            self._noted[entry] = None


# -- session plans ---------------------------------------------------------------------------------


def look() -> SessionPlan[str | None]:
    """Ask whether names may be recorded; the server's encoding if so, else None."""
    answer = yield Script((Step(_sql.BRIEFLY), Step(_sql.LOOK)))
    return answer[-1][0][0] if answer[-1] else None


def write(entries: list[Entry], encoding: str, *, most: int = MOST_ROWS) -> SessionPlan[str]:
    """Record `entries`; return `yes`, or the SQLSTATE of what was in the way.

    Args:
        entries: The rows.
        encoding: The server's; without one of its own it takes bytes as they are.
        most: So many rows may stay in the table.
    """
    rows = [entry._asdict() for entry in entries]
    names = json.dumps(rows, ensure_ascii=encoding != "SQL_ASCII")
    settings = Step(_sql.SETTINGS, (names, str(most)))
    steps = (Step(_sql.BRIEFLY), settings, Step(_sql.RECORD), Step(_sql.RECORDED))
    answer = yield Script(steps)
    return answer[-1][0][0] or ""
