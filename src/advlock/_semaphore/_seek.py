"""What the plan `_plan.seek` yields, done in both worlds."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from advlock import _observe, _sql
from advlock._all import aask_all, abandon_all, ask_all, atake, take
from advlock._aloop import by
from advlock._contend import _anap, _nap
from advlock._grace import for_holders
from advlock._ledger import HELD, Ticket
from advlock._plan import Expired, Refused, SessionLost, server_error
from advlock._semaphore import _plan
from advlock._semaphore._keys import disagreement
from advlock._semaphore._plan import Look, Nap, Queue, Refuse, Take, View
from advlock._semaphore._slot import AsyncSlot, Slot
from advlock.errors import DatabaseUnavailable, LockError, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._acore import AsyncCore
    from advlock._client import Client
    from advlock._core import Core
    from advlock._holder import Holder
    from advlock._semaphore._keys import Keys
    from advlock._semaphore._semaphore import BaseSemaphore

C = TypeVar("C", bound="Client")


class _Seeking(Generic[C]):
    """One request for a slot: what it has asked for so far."""

    def __init__(self, semaphore: BaseSemaphore, keys: Keys, deadline: float | None) -> None:
        self.client: C = semaphore._client
        self.keys = keys
        self.deadline = deadline
        self.slot = self.agreed = self.first = self._ticket(keys.queue)  # none of them is used yet
        self._name = semaphore.name

    def _ticket(self, key: Any, *, shared: bool = False) -> Ticket:
        # Without an owner: a slot is no plain lock that somebody might hold again.
        return Ticket(key, key.name, shared=shared, owner=None)

    def new(self, slot: int) -> tuple[Ticket, Ticket]:
        """Make the tickets for a slot."""
        self.agreed = self._ticket(self.keys.agreed, shared=True)
        self.slot = self._ticket(self.keys.slots[slot])
        self.slot.name = self.agreed.name = self._name
        return self.slot, self.agreed

    def codes(self, step: Take) -> list[tuple[Ticket, int | None]]:
        """Say what to ask for, in this order."""
        declare = _sql.DECLARE_FIRST if step.first else _sql.DECLARE
        return [(self.agreed, declare), (self.slot, None)]

    @property
    def tickets(self) -> tuple[Ticket, Ticket, Ticket]:
        """Everything that is asked for now."""
        return self.slot, self.agreed, self.first

    @property
    def is_first(self) -> bool:
        """Whether we have the queue."""
        return self.first.state is HELD and self.first.session.vouches()

    @property
    def got(self) -> bool:
        """Whether we have the slot."""
        if not (self.slot.state is HELD and self.agreed.state is HELD):
            return False
        self.client._believed(self.slot)
        for key in (self.slot.key, self.agreed.key):
            if key not in self.keys.noted:
                self.client._note(key)
                self.keys.noted.add(key)
        return True

    def busy(self, view: View) -> View:
        """Add what our own client is busy with, of which the server need not know."""
        books = self.client._ledger
        ours = {n for n, key in enumerate(self.keys.slots) if books.knows(key)}
        return view._replace(taken=view.taken | ours)


def _timeout(name: str, keys: Keys, wait: float, holders: Sequence[Holder]) -> LockTimeout:
    holding = "; ".join(str(holder) for holder in holders if not holder.waiting)
    unknown = "the server could not say in time who holds them"
    return LockTimeout(
        f"no slot of {name!r} was free within {wait:g} s, of {len(keys.slots)}: "
        + (f"held by {holding}" if holding else unknown),
        name=name,
        key=keys.slots[0],
        wait=wait,
        holders=tuple(holders),
    )


# -- sync ------------------------------------------------------------------------------------------


@_observe.asks
def acquire(semaphore: BaseSemaphore, wait: float | None, *, patient: bool) -> Slot | None:
    """Get a slot; None where none was free, or not within `wait` seconds."""
    client: Core = semaphore._client
    client._check_open()
    deadline = None if wait is None else time.monotonic() + wait
    keys = None
    with contextlib.suppress(Expired):
        client._key(semaphore.name, deadline)
        keys = semaphore._keys()
    if keys is None:
        return None
    seeking: _Seeking[Core] = _Seeking(semaphore, keys, deadline)
    try:
        slot = _slot(seeking, semaphore._guess(), patient=patient)
        # In here: nothing else would let go of the queue if a signal handler raised meanwhile.
        if seeking.first.state is HELD:
            with contextlib.suppress(LockError):
                client._release(seeking.first)
        if slot is None:
            abandon_all(client, seeking.tickets)
    except BaseException:
        try:
            abandon_all(client, seeking.tickets)
        finally:  # it may have been interrupted before it began
            abandon_all(client, seeking.tickets)
        raise
    return slot


def _slot(seeking: _Seeking[Core], guess: int, *, patient: bool) -> Slot | None:
    with contextlib.suppress(Expired):
        if _drive(seeking, guess, patient=patient):
            return Slot(seeking.client, seeking.slot, seeking.agreed)
    return None


def _drive(seeking: _Seeking[Core], guess: int, *, patient: bool) -> bool:
    plan = _plan.seek(len(seeking.keys.slots), guess, patient=patient)
    try:
        step = next(plan)
        while True:
            try:
                answer = _do(seeking, step)
            except DatabaseUnavailable as error:
                step = plan.throw(error)
            else:
                step = plan.send(answer)
            seeking.client._check_open()
    except StopIteration as stop:
        return bool(stop.value)


def _do(seeking: _Seeking[Core], step: _plan.SlotStep) -> Any:
    client, keys = seeking.client, seeking.keys
    soon = client._at_least(seeking.deadline, time.monotonic())
    match step:
        case Take():
            return _take(seeking, step, soon)
        case Look():
            return seeking.busy(_fetch(client, keys, soon))
        case Queue():
            return seeking.is_first or _queue(seeking)
        case Nap(seconds):
            return _nap(seeking.first, seconds, seeking.deadline)
        case Refuse(others):
            for each in others:
                holders = client._ask_holders(keys.agreed_by(each), soon)
                if error := disagreement(keys, each, holders):
                    raise error
            return None


def _take(seeking: _Seeking[Core], step: Take, soon: float | None) -> bool:
    client = seeking.client
    slot, agreed = seeking.new(step.slot)
    if not client._enter_soon(slot):
        return False
    with client._mutex:
        client._ledger.enter(agreed, queue=False)
    ask_all(client, seeking.codes(step), soon)
    if seeking.got:
        return True
    abandon_all(client, (slot, agreed))
    return False


def _fetch(client: Core, keys: Keys, soon: float | None) -> View:
    session = client._sessions.shared or client._sessions.connect(soon)
    try:
        return session.fetch(_plan.look(keys), client._at_least(soon, time.monotonic()))
    except Refused as refusal:
        raise server_error(refusal) from None
    except SessionLost as error:
        msg = f"the session ended while it was asked: {error}; try again"
        raise DatabaseUnavailable(msg) from None


def _queue(seeking: _Seeking[Core]) -> bool:
    client, deadline = seeking.client, seeking.deadline
    _observe.waits(client, seeking.slot)
    abandon_all(client, [seeking.first])
    seeking.first = seeking._ticket(seeking.keys.queue)
    return take(client, seeking.first, None, deadline)


def timed_out(semaphore: BaseSemaphore, wait: float) -> LockTimeout:
    """Make the error of a wait that was not long enough; it says who has the slots."""
    client: Core = semaphore._client
    limit = time.monotonic() + for_holders(wait, client._grace)
    holders: list[Holder] = []
    with contextlib.suppress(Expired, LockError):
        for key in semaphore._keys().slots:
            holders += client._ask_holders(key, limit)
    late = _timeout(semaphore.name, semaphore._keys(), wait, holders)
    return _observe.timed_out(client, late)


# -- async -----------------------------------------------------------------------------------------


@_observe.asks
async def aacquire(
    semaphore: BaseSemaphore, wait: float | None, *, patient: bool
) -> AsyncSlot | None:
    """Get a slot; None where none was free, or not within `wait` seconds."""
    client: AsyncCore = semaphore._client
    client._check_open()
    loop = client._bind().loop
    deadline = None if wait is None else loop.time() + wait
    keys = None
    with contextlib.suppress(Expired):
        await client._key(semaphore.name, deadline)
        keys = semaphore._keys()
    if keys is None:
        return None
    seeking: _Seeking[AsyncCore] = _Seeking(semaphore, keys, deadline)
    try:
        if await _adrive(seeking, semaphore._guess(), patient=patient):
            slot = AsyncSlot(client, seeking.slot, seeking.agreed)
            client._abandon(seeking.first)
            return slot
    except Expired:
        pass
    except BaseException:
        _abandon(seeking)
        raise
    _abandon(seeking)
    return None


def _abandon(seeking: _Seeking[AsyncCore]) -> None:
    for ticket in seeking.tickets:
        with contextlib.suppress(LockError):
            seeking.client._abandon(ticket)


async def _adrive(seeking: _Seeking[AsyncCore], guess: int, *, patient: bool) -> bool:
    plan = _plan.seek(len(seeking.keys.slots), guess, patient=patient)
    try:
        step = next(plan)
        while True:
            try:
                answer = await _ado(seeking, step)
            except DatabaseUnavailable as error:
                step = plan.throw(error)
            else:
                step = plan.send(answer)
            seeking.client._check_open()
    except StopIteration as stop:
        return bool(stop.value)


async def _ado(seeking: _Seeking[AsyncCore], step: _plan.SlotStep) -> Any:
    client, keys = seeking.client, seeking.keys
    soon = client._at_least(seeking.deadline, client._bind().loop.time())
    match step:
        case Take():
            return await _atake(seeking, step, soon)
        case Look():
            return seeking.busy(await _afetch(client, keys, soon))
        case Queue():
            return seeking.is_first or await _aqueue(seeking)
        case Nap(seconds):
            return await _anap(client, seeking.first, seconds, seeking.deadline)
        case Refuse(others):
            for each in others:
                holders = await client._ask_holders(keys.agreed_by(each), soon)
                if error := disagreement(keys, each, holders):
                    raise error
            return None


async def _atake(seeking: _Seeking[AsyncCore], step: Take, soon: float | None) -> bool:
    client = seeking.client
    slot, agreed = seeking.new(step.slot)
    await client._let_leave(slot.key)
    if not client._ledger.enter(slot, queue=False):
        return False
    client._ledger.enter(agreed, queue=False)
    await aask_all(client, seeking.codes(step), soon)
    if seeking.got:
        return True
    client._abandon(slot)
    client._abandon(agreed)
    return False


async def _afetch(client: AsyncCore, keys: Keys, soon: float | None) -> View:
    sessions = client._bind()
    session = sessions.shared or await sessions.connect(soon)
    try:
        soon = client._at_least(soon, sessions.loop.time())
        return await by(soon, session.fetch(_plan.look(keys)))
    except Refused as refusal:
        raise server_error(refusal) from None
    except SessionLost as error:
        msg = f"the session ended while it was asked: {error}; try again"
        raise DatabaseUnavailable(msg) from None


async def _aqueue(seeking: _Seeking[AsyncCore]) -> bool:
    client, deadline = seeking.client, seeking.deadline
    _observe.waits(client, seeking.slot)
    client._abandon(seeking.first)
    seeking.first = seeking._ticket(seeking.keys.queue)
    return await atake(client, seeking.first, None, deadline)


async def atimed_out(semaphore: BaseSemaphore, wait: float) -> LockTimeout:
    """Make the error of a wait that was not long enough; it says who has the slots."""
    client: AsyncCore = semaphore._client
    limit = client._bind().loop.time() + for_holders(wait, client._grace)
    holders: list[Holder] = []
    with contextlib.suppress(Expired, LockError):
        for key in semaphore._keys().slots:
            holders += await client._ask_holders(key, limit)
    late = _timeout(semaphore.name, semaphore._keys(), wait, holders)
    return _observe.timed_out(client, late)
