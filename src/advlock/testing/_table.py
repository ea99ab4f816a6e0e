"""The lock table of the memory server: PostgreSQL's rules for advisory locks. Pure.

They are those of PostgreSQL 17 and later (`LockAcquireExtended`, `JoinWaitQueue` and
`ProcLockWakeup` of its lock manager); tests/ecosystem/test_pytest_plugin_table.py compares every
outcome with a real server's.

1. Whoever holds a lock in one mode gets it in the same mode again, whoever waits.
2. Nobody else passes those who wait and whom he would be in the way of.
3. Who holds a lock and asks for its other mode stands in the queue before the first who waits for
   him; where nothing else is in the way he gets it at once, and where both wait for each other he
   is refused.
4. The queue is served in its order; who is not in the way of those before him is served with them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    Session = Hashable

# On whose account a lock is held: the session's, or its transaction's; then its savepoints'.
SESSION: Final = -1
TRANSACTION: Final = 0


class Tag(NamedTuple):
    """What is locked: a key of a database."""

    database: str
    value: int
    pair: bool


class Outcome(Enum):
    """What becomes of a request."""

    GRANTED = "granted"
    BUSY = "busy"  # and nobody wants to wait
    QUEUED = "queued"
    DEADLOCK = "deadlock"


@dataclass(eq=False, slots=True)
class Wait:
    """A request in the queue.

    Attributes:
        session: Who waits.

        tag: For what.

        shared: In which mode.

        level: On whose account.

        since: When it came, in whatever the caller counts in.
    """

    session: Session
    tag: Tag
    shared: bool
    level: int
    since: float


class Row(NamedTuple):
    """One row of pg_locks; `since` is when the wait began, and None for a lock that is held."""

    session: Session
    tag: Tag
    shared: bool
    since: float | None

    @property
    def granted(self) -> bool:
        """Whether it is held."""
        return self.since is None


def _conflict(one_is_shared: bool, other_is_shared: bool) -> bool:  # noqa: FBT001
    return not (one_is_shared and other_is_shared)


@dataclass(slots=True)
class _Lock:
    held: dict[tuple[Session, bool], Counter[int]] = field(default_factory=dict)
    queue: list[Wait] = field(default_factory=list)

    def modes(self, session: Session) -> list[bool]:
        """In which modes `session` holds it."""
        return [mode for mode in (True, False) if (session, mode) in self.held]

    def is_in_the_way(self, session: Session, shared: bool) -> bool:  # noqa: FBT001
        """Whether anybody else holds it in a mode that conflicts."""
        return any(other != session and _conflict(shared, mode) for other, mode in self.held)

    def grant(self, session: Session, shared: bool, level: int) -> None:  # noqa: FBT001
        self.held.setdefault((session, shared), Counter())[level] += 1

    def place(self, session: Session, shared: bool) -> int | Outcome:  # noqa: FBT001
        """Find the place in the queue for one who has to wait, if so (rule 3)."""
        mine = self.modes(session)
        ahead: list[bool] = []
        for place, wait in enumerate(self.queue if mine else ()):
            if any(_conflict(wait.shared, mode) for mode in mine):
                if any(_conflict(shared, mode) for mode in self.modes(wait.session)):
                    return Outcome.DEADLOCK
                passes = not any(_conflict(shared, mode) for mode in ahead)
                if passes and not self.is_in_the_way(session, shared):
                    return Outcome.GRANTED
                return place
            ahead.append(wait.shared)
        return len(self.queue)

    def serve(self) -> list[Wait]:
        """Grant what can be granted, in the order of the queue (rule 4)."""
        served: list[Wait] = []
        left: list[Wait] = []
        for wait in self.queue:
            blocked = any(_conflict(wait.shared, other.shared) for other in left)
            if blocked or self.is_in_the_way(wait.session, wait.shared):
                left.append(wait)
            else:
                self.grant(wait.session, wait.shared, wait.level)
                served.append(wait)
        self.queue = left
        return served


class Table:
    """All locks of all databases of one server.

    Args:
        served: Is called with each session that has waited and got its lock.
    """

    def __init__(self, served: Callable[[Session], object]) -> None:
        self._served = served
        self._locks: dict[Tag, _Lock] = {}
        self._waits: dict[Session, Wait] = {}
        self._in_transactions: dict[Session, set[Tag]] = {}

    # -- asking ----------------------------------------------------------------------------------

    def acquire(  # noqa: PLR0913
        self,
        session: Session,
        tag: Tag,
        *,
        shared: bool = False,
        level: int = SESSION,
        wait: bool = False,
        now: float = 0.0,
    ) -> Outcome:
        """Ask for a lock, and stand in its queue if that is wanted and has to be.

        Args:
            session: Who asks; one that waits already asks for nothing.
            tag: For what.
            shared: In which mode.
            level: On whose account: `SESSION`, `TRANSACTION`, or a savepoint, counted from 1.
            wait: Whether to wait.
            now: The time, for who looks.
        """
        lock = self._locks.setdefault(tag, _Lock())
        if (session, shared) not in lock.held:
            passes = not any(_conflict(shared, other.shared) for other in lock.queue)
            if not passes or lock.is_in_the_way(session, shared):
                place = lock.place(session, shared)
                if place is not Outcome.GRANTED:
                    return self._enqueue(place, Wait(session, tag, shared, level, now), wait=wait)
        lock.grant(session, shared, level)
        self._note(session, tag, level)
        return Outcome.GRANTED

    def _enqueue(self, place: int | Outcome, request: Wait, *, wait: bool) -> Outcome:
        if not wait:
            return Outcome.BUSY
        if isinstance(place, Outcome):
            return place
        self._locks[request.tag].queue.insert(place, request)
        self._waits[request.session] = request
        return Outcome.QUEUED

    def _note(self, session: Session, tag: Tag, level: int) -> None:
        if level != SESSION:
            self._in_transactions.setdefault(session, set()).add(tag)

    # -- letting go ------------------------------------------------------------------------------

    def release(self, session: Session, tag: Tag, *, shared: bool = False) -> bool:
        """Let go, once, of what the session holds on its own account; False: it does not."""
        lock = self._locks.get(tag)
        count = lock.held.get((session, shared)) if lock else None
        if lock is None or count is None or not count[SESSION]:
            return False
        count[SESSION] -= 1
        self._settle(lock, tag)
        return True

    def release_all(self, session: Session) -> None:
        """Let go of all that the session holds on its own account."""
        for tag, lock in list(self._locks.items()):
            for (holder, _), count in lock.held.items():
                if holder == session:
                    del count[SESSION]
            self._settle(lock, tag)

    def roll_back(self, session: Session, level: int = TRANSACTION) -> None:
        """Let go of what is held on account of a savepoint and those after it, or all of them."""
        for tag in list(self._in_transactions.get(session, ())):
            if (lock := self._locks.get(tag)) is None:
                continue  # a savepoint that was rolled back has given it back
            for mode in lock.modes(session):
                count = lock.held[session, mode]
                for each in [each for each in count if each >= level]:
                    del count[each]
            self._settle(lock, tag)
        if level == TRANSACTION:
            self._in_transactions.pop(session, None)

    def merge(self, session: Session, level: int) -> None:
        """Put what is held on account of a savepoint, and those after it, on that before it."""
        for tag in self._in_transactions.get(session, ()):
            lock = self._locks.get(tag) or _Lock()
            for mode in lock.modes(session):
                count = lock.held[session, mode]
                for each in [each for each in count if each >= level]:
                    count[level - 1] += count.pop(each)

    def withdraw(self, session: Session) -> None:
        """Wait no more."""
        wait = self._waits.pop(session, None)
        if wait is not None:
            lock = self._locks[wait.tag]
            lock.queue.remove(wait)
            self._settle(lock, wait.tag)

    def end(self, session: Session) -> None:
        """End a session."""
        self.withdraw(session)
        self.roll_back(session)
        self.release_all(session)

    def _settle(self, lock: _Lock, tag: Tag) -> None:
        for who, count in list(lock.held.items()):
            if not +count:
                del lock.held[who]
        for wait in lock.serve():
            del self._waits[wait.session]
            self._note(wait.session, tag, wait.level)
            self._served(wait.session)
        if not lock.held and not lock.queue:
            self._locks.pop(tag, None)

    # -- looking ---------------------------------------------------------------------------------

    def rows(self, database: str | None = None) -> Iterator[Row]:
        """List the locks of a database, or of all, as pg_locks does: the queues in their order."""
        for tag in self._locks:
            if database in (None, tag.database):
                yield from self.rows_of(tag)

    def rows_of(self, tag: Tag) -> Iterator[Row]:
        """List who holds one lock, and then its queue."""
        if (lock := self._locks.get(tag)) is not None:
            for session, shared in lock.held:
                yield Row(session, tag, shared, None)
            for wait in lock.queue:
                yield Row(wait.session, tag, wait.shared, wait.since)

    def waits(self, session: Session) -> bool:
        """Whether the session stands in a queue."""
        return session in self._waits

    def blockers(self, session: Session) -> list[Session]:
        """List whom a session waits for: holders, and those ahead of it in the queue."""
        wait = self._waits.get(session)
        if wait is None:
            return []
        lock = self._locks[wait.tag]
        found = [
            other for other, mode in lock.held if other != session and _conflict(wait.shared, mode)
        ]
        ahead = lock.queue[: lock.queue.index(wait)]
        found += [one.session for one in ahead if _conflict(wait.shared, one.shared)]
        return list(dict.fromkeys(found))

    def waits_for_itself(self, session: Session) -> bool:
        """Whether a session waits, in the end, for itself."""
        seen: set[Session] = set()
        left = self.blockers(session)
        while left:
            one = left.pop()
            if one == session:
                return True
            if one not in seen:
                seen.add(one)
                left += self.blockers(one)
        return False
