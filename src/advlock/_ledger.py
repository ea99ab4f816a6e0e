"""What this client holds, who waits for it locally, and what the server still has to answer.

The rules of this file:

1. It is pure state. No driver, no clock, no loop, no thread: the shells call it, one call at a
   time (the sync shell under its mutex, the async shell on its loop), and wake whom it names.
2. A ticket occupies its key from `enter` until the server can no longer be holding it for us.
   So two tickets of one client exclude each other before the server is asked at all.
3. The order of tickets for one key is the order of arrival. Nobody overtakes, except an
   `attempt`, which never queues.
4. Every change may be made again after it was interrupted half-way (a signal handler that
   raises), and then completes: nothing is taken out before it is where it belongs.
5. A ticket that its owner gave up (`withdraw`) while the server was being asked is not forgotten:
   if the server grants it, `settle` asks for the lock to be undone.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from advlock import _sql
from advlock.errors import TooManyLocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from advlock._key import Key

    Index = int | tuple[int]


class State(Enum):
    """The life of a ticket, in order."""

    NEW = "new"
    QUEUED = "queued"  # behind another ticket of this client
    ASKING = "asking"  # its turn: the server is, or may be, asked
    HELD = "held"
    RELEASING = "releasing"
    GONE = "gone"  # released, or given up
    LOST = "lost"  # its session ended while it was held
    FORKED = "forked"  # the parent process's affair; this is the child


NEW, QUEUED, ASKING, HELD, RELEASING, GONE, LOST, FORKED = State


class Ticket:
    """One request for one lock, and the hold that may come of it."""

    __slots__ = (
        "asked",
        "depth",
        "index",
        "key",
        "name",
        "on_lost",
        "op",
        "owner",
        "release_op",
        "session",
        "shared",
        "since",
        "state",
        "token",
        "waker",
        "watched",
        "withdrawn",
    )

    def __init__(self, key: Key, name: object, *, shared: bool, owner: object) -> None:
        self.key = key
        self.index = index(key)
        self.name = name
        self.shared = shared
        self.owner = owner
        self.state = NEW
        self.depth = 1
        self.withdrawn = False
        self.op: Op | None = None  # the try that the server has not answered yet
        self.session: Any = None
        self.asked = 0.0  # since when the server's queue is waited in
        self.since = 0.0
        self.waker: Any = None
        self.release_op: Op | None = None
        self.on_lost: list[Callable[[], object]] | None = None
        self.token: int | None = None
        self.watched: tuple[float, int | None] | None = None  # what `_observe` notes of the hold

    def __repr__(self) -> str:
        """Show what one looks for in a debugger."""
        mode = "shared" if self.shared else "exclusive"
        return f"<Ticket {self.name!r} {mode} {self.state.value}>"


def index(key: Key) -> Index:
    """Return what the books find `key` by: unlike a `Key`, Python hashes it without calling us."""
    return (key.value,) if key.pair else key.value


class Op:
    """One thing asked of the server about one ticket: a try, or its release."""

    __slots__ = (
        "asker",
        "code",
        "deserted",
        "done",
        "error",
        "releases",
        "result",
        "session",
        "taken",
        "ticket",
        "value",
        "waiter",
    )

    def __init__(self, ticket: Ticket, code: int, session: Any) -> None:
        self.ticket = ticket
        self.session = session
        self.code = code
        self.asker = 0  # the thread that waits for it
        self.releases = code & 3 >= _sql.UNLOCK  # tells an unlock from a try
        self.value = ticket.key.value
        self.taken = False
        self.deserted = False
        self.done = False
        self.result = False
        self.error: BaseException | None = None
        self.waiter: Any = None


class _Slot:
    """Everything this client has to do with one key."""

    __slots__ = ("active", "queue")

    def __init__(self, first: Ticket) -> None:
        self.active = [first]
        self.queue: deque[Ticket] = deque()

    def admits(self, ticket: Ticket) -> bool:
        """Whether `ticket` may be active beside those that already are."""
        return not self.active or (ticket.shared and all(other.shared for other in self.active))


NOBODY: Final[tuple[Ticket, ...]] = ()


class Ledger:
    """The client's books. See the rules at the top of the file."""

    def __init__(self, max_locks: int) -> None:
        self._slots: dict[Index, _Slot] = {}
        self.max_locks = max_locks

    def __len__(self) -> int:
        """Count the keys that this client holds or asks for."""
        return len(self._slots)

    # -- asking ----------------------------------------------------------------------------------

    def enter(self, ticket: Ticket, *, queue: bool) -> bool:
        """Give `ticket` its turn, or, if it may not have it yet, queue it (where `queue` says so).

        Raises:
            TooManyLocks: a further key would pass `max_locks`.
        """
        slot = self._slots.get(ticket.index)
        if slot is None:
            if len(self._slots) >= self.max_locks:
                raise _too_many(self.max_locks)
            ticket.state = ASKING
            self._slots[ticket.index] = _Slot(ticket)
            return True
        if not slot.queue and slot.admits(ticket):
            ticket.state = ASKING
            slot.active.append(ticket)
            return True
        if queue:
            ticket.state = QUEUED
            slot.queue.append(ticket)
        return False

    def try_op(self, ticket: Ticket, session: object) -> Op:
        """Make the request that tries for `ticket` on `session`, without waiting."""
        code = _sql.TRY
        if ticket.shared:
            sharers = self._slots[ticket.index].active
            code = _sql.JOIN if any(t.state is HELD for t in sharers) else _sql.TRY_SHARED
        op = ticket.op = Op(ticket, code + _sql.PAIR if ticket.key.pair else code, session)
        return op

    def release_op(self, ticket: Ticket) -> Op:
        """Make the one request that releases `ticket`; a second call returns the same one."""
        if ticket.release_op is None:
            code = _sql.UNLOCK_SHARED if ticket.shared else _sql.UNLOCK
            code += _sql.PAIR if ticket.key.pair else 0
            ticket.release_op = Op(ticket, code, ticket.session)
        return ticket.release_op

    def leaving(self, key: Key) -> Op | None:
        """Return the request whose answer is all that stands between a newcomer and `key`, if so.

        It is a release, or a try that was given up: its answer decides what is left of it.
        """
        slot = self._slots.get(index(key))
        if slot is None or slot.queue:
            return None
        ops = [
            t.release_op if t.state is RELEASING else t.op
            for t in slot.active
            if t.withdrawn or t.state is RELEASING
        ]
        return ops[-1] if ops and len(ops) == len(slot.active) else None

    def knows(self, key: Key) -> bool:
        """Whether this client holds `key`, asks for it or is releasing it."""
        return index(key) in self._slots

    def find_held(self, key: Key, owner: object) -> Ticket | None:
        """Return the ticket by which `owner` holds `key`, if it does."""
        slot = self._slots.get(index(key))
        if slot is not None:
            for ticket in slot.active:
                if ticket.owner is owner and ticket.state is HELD and not ticket.withdrawn:
                    return ticket
        return None

    # -- answers ---------------------------------------------------------------------------------

    def settle(self, op: Op, session: object, *, answer: bool) -> Iterable[Ticket]:
        """Book the server's answer to `op`; return the tickets whose turn it is now.

        A grant that nobody wants any more leaves its ticket HELD and `withdrawn`: the caller has
        to release it.
        """
        ticket = op.ticket
        if not op.releases and answer:
            ticket.session = session
            ticket.state = HELD
        ticket.op = None
        if op.releases or (ticket.withdrawn and not answer):
            return self._leave(ticket, GONE)
        return NOBODY

    def grant(self, ticket: Ticket, session: object) -> None:
        """Book a lock that was granted by waiting on a session of its own."""
        ticket.session = session
        ticket.state = HELD

    def unanswered(self, op: Op) -> Iterable[Ticket]:
        """Book that `op` will never be answered: its session is gone, and the lock with it."""
        ticket = op.ticket
        if op.releases:
            return self._leave(ticket, LOST)
        if ticket.op is not None and ticket.op is not op:
            return NOBODY  # this is booked late, and its owner asks again already
        ticket.op = None
        left = ticket.withdrawn and ticket.state in (ASKING, GONE)
        return self._leave(ticket, GONE) if left else NOBODY

    # -- leaving ---------------------------------------------------------------------------------

    def withdraw(self, ticket: Ticket) -> Iterable[Ticket]:
        """Give up asking. A ticket that is already held stays so: its caller must release it.

        Called again, it says again whose turn it is now.
        """
        ticket.withdrawn = True
        left = ticket.state is QUEUED or ticket.state is GONE
        if left or (ticket.state is ASKING and ticket.op is None):
            return self._leave(ticket, GONE)
        return NOBODY

    def lose(self, lost: Iterable[Ticket]) -> list[Ticket]:
        """Book these as lost; return those to wake. Called again, it says so again."""
        return [woken for ticket in lost for woken in self._leave(ticket, LOST)]

    def carried(self, session: object) -> list[Ticket]:
        """List the tickets that `session` holds, or may hold."""
        return [
            ticket
            for slot in self._slots.values()
            for ticket in slot.active
            if ticket.session is session and ticket.state in (HELD, RELEASING)
        ]

    def tickets(self) -> list[Ticket]:
        """List every ticket that has not left yet."""
        return [t for slot in self._slots.values() for t in (*slot.active, *slot.queue)]

    def _leave(self, ticket: Ticket, state: State) -> Iterable[Ticket]:
        slot = self._slots.get(ticket.index)
        if slot is not None:
            if ticket in slot.active:
                slot.active.remove(ticket)
            if slot.queue and ticket in slot.queue:
                slot.queue.remove(ticket)
        if ticket.state is not GONE and ticket.state is not LOST:
            ticket.state = state
        if state is GONE:
            ticket.on_lost = None  # nobody will be told, and it may lead in a circle
        return NOBODY if slot is None else self._promote(ticket.index, slot)

    def _promote(self, place: Index, slot: _Slot) -> Iterable[Ticket]:
        if not slot.queue:
            if not slot.active:
                self._slots.pop(place, None)
                return NOBODY
        else:
            while slot.queue:
                ticket = slot.queue[0]
                if ticket not in slot.active:  # or an interrupted call has put it there
                    if not slot.admits(ticket):
                        break
                    ticket.state = ASKING
                    slot.active.append(ticket)
                slot.queue.popleft()
        # Whoever asks now, also those promoted by a call that was interrupted before it said so.
        return [ticket for ticket in slot.active if ticket.state is ASKING]


def _too_many(limit: int) -> TooManyLocks:
    return TooManyLocks(
        f"this client already holds or asks for {limit} locks, its max_locks. "
        f"Pass Locks(max_locks=…) for more; every session of the server shares its lock table, "
        f"about max_locks_per_transaction × max_connections entries, so raise "
        f"max_locks_per_transaction there first",
        limit=limit,
    )
