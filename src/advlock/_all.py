"""Several locks or none, in both worlds.

The rules of this file:

1. One canonical order, that of the keys. Who waits holds nothing that comes after what it waits
   for, so nobody waits in a circle; what was granted out of order is given back before the wait.
2. One request where all are free; where one is not, one more after each wait.
3. Whatever ends it early, a timeout, a cancellation or a signal, none of the locks is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock import _observe
from advlock._aheld import AsyncHeld
from advlock._aloop import by
from advlock._client import names_of
from advlock._connect import ended_at_once
from advlock._contend import acontend, contend
from advlock._grace import GRACE
from advlock._held import Held
from advlock._ledger import HELD, NEW, RELEASING, Ticket
from advlock._plan import Expired, SessionLost
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from advlock._acore import AsyncCore
    from advlock._core import Core
    from advlock._key import Key, Name
    from advlock._ledger import Op
    from advlock._session import Session

    Asked = Sequence[tuple[Ticket, int | None]]

_TRIES: Final = 2  # on the session that is there, and on a new one if that turns out to be gone


class Several(NamedTuple):
    """What `hold_all` takes: alone, and shared with others that share it."""

    alone: tuple[Name, ...]
    shared: tuple[Name, ...] = ()


def several(names: Iterable[Name], shared: Iterable[Name]) -> Several:
    """Read the names of `hold_all`.

    Raises:
        ConfigError: it is one name.
    """
    return Several(names_of(names), names_of(shared, "hold_all([], shared={})"))


class Every:
    """The tickets for all locks, and which of them are still to be had."""

    def __init__(self, keys: Sequence[Key], wanted: Several, owner: object) -> None:
        names: dict[Key, Name] = dict(zip(keys, (*wanted.alone, *wanted.shared), strict=True))
        self.keys = tuple(dict.fromkeys(keys))
        self._owner = owner
        alone = set(keys[: len(wanted.alone)])  # who wants a lock both ways wants it alone
        self._tickets = {
            key: Ticket(key, names[key], shared=key not in alone, owner=owner)
            for key in sorted(names)
        }
        self._given_up: list[Ticket] = []

    def __getitem__(self, key: Key) -> Ticket:
        """Return the ticket for `key`."""
        return self._tickets[key]

    @property
    def left(self) -> list[Ticket]:
        """Those that were not granted yet, in the canonical order."""
        return [ticket for ticket in self._tickets.values() if not ticket.session]

    def ever(self) -> list[Ticket]:
        """Everything that was ever asked for, the latest in the order first."""
        return [*self._given_up, *self._tickets.values()][::-1]

    def busy(self) -> Name:
        """Say which lock it was that nobody got in time."""
        left = self.left or list(self._tickets.values())
        return left[0].name  # type: ignore[return-value]

    def out_of_order(self, asked: list[Ticket]) -> list[Ticket]:
        """Of what was asked for together, list what is to be given up for now.

        It comes after the first that was not granted, and will be asked for anew.
        """
        granted = [ticket.session is not None for ticket in asked]
        if all(granted):
            return []
        old = asked[granted.index(False) + 1 :]
        for one in old:
            self._given_up.append(one)
            fresh = Ticket(one.key, one.name, shared=one.shared, owner=self._owner)
            self._tickets[one.key] = fresh
        return old


def _ops(client: Core | AsyncCore, asked: Asked, session: object) -> list[Op]:
    ops = []
    for ticket, code in asked:
        op = client._ledger.try_op(ticket, session)
        if code is not None:
            op.code = code
        ops.append(op)
    return ops


def _give_up(client: Core | AsyncCore, asked: Asked, attempt: int, error: SessionLost) -> None:
    client._pooler_may_differ = True
    if attempt == _TRIES - 1 or any(ticket.session for ticket, _ in asked):
        raise ended_at_once(error) from None


# -- sync ------------------------------------------------------------------------------------------


@_observe.asks
def hold_all(client: Core, wanted: Several, *, wait: float | None) -> list[Held]:
    """Hold all locks that are `wanted`.

    Raises:
        LockTimeout: one of them was not free in time.
    """
    client._check_open()
    deadline = None if wait is None else time.monotonic() + wait
    names = (*wanted.alone, *wanted.shared)
    try:
        keys = [client._key(name, deadline) for name in names]
    except Expired:
        raise client._timed_out(", ".join(map(str, names)), wait or 0.0) from None
    every = Every(keys, wanted, threading.current_thread())
    try:
        with contextlib.suppress(Expired):
            if _take_each(client, every, wait, deadline):
                return [Held(client, every[key]) for key in every.keys]
        busy = every.busy()
        abandon_all(client, every.ever())
    except BaseException:
        try:
            abandon_all(client, every.ever())
        finally:  # it may have been interrupted before it began
            abandon_all(client, every.ever())
        raise
    raise client._timed_out(busy, wait or 0.0)


def _take_each(client: Core, every: Every, wait: float | None, deadline: float | None) -> bool:
    while left := every.left:
        _take_free(client, every, left, deadline)
        if (left := every.left) and not take(client, left[0], wait, deadline):
            return False
    return True


def _take_free(client: Core, every: Every, left: list[Ticket], deadline: float | None) -> None:
    """Take those that are free, as far as none before them is not."""
    asked = []
    with client._mutex:
        for ticket in left:
            if not client._ledger.enter(ticket, queue=False):
                break
            asked.append(ticket)
    ask_all(client, [(one, None) for one in asked], deadline)
    for ticket in asked:
        if ticket.state is HELD:
            client._believed(ticket)
    abandon_all(client, every.out_of_order(asked))


def ask_all(client: Core, asked: Asked, deadline: float | None) -> None:
    """Try for several locks in one request; each ticket says afterwards whether it is held.

    Args:
        client: Whose shared session it goes over.
        asked: The tickets, whose turn it is; each with the code of what is asked, if special.
        deadline: When to stop waiting for the answer; there is always time for a round trip.

    Raises:
        Expired: `deadline` passed; the request goes on.
    """
    for attempt in range(_TRIES if asked else 0):
        session = client._sessions.shared or client._sessions.connect(deadline)
        soon = client._at_least(deadline, time.monotonic())
        try:
            return session.ask_all(_ops(client, asked, session), soon)
        except SessionLost as error:
            _give_up(client, asked, attempt, error)
    return None


def take(client: Core, ticket: Ticket, wait: float | None, deadline: float | None) -> bool:
    """Take one lock, waiting for it; False when time is up.

    Raises:
        Expired: `deadline` passed while the server was being asked.
    """
    free = ticket.state is NEW and client._enter(ticket, wait)
    if (free and client._try(ticket, deadline)) or contend(client, ticket, deadline):
        client._believed(ticket)
        return True
    return False


def abandon_all(client: Core, tickets: Iterable[Ticket]) -> None:
    """Give up tickets in whatever state they are; called again, it goes on where it was."""
    left = list(tickets)
    try:
        while left:
            client._abandon(left[0])
            del left[0]
    except BaseException:  # interrupted, perhaps in the middle of the first of these
        for ticket in left:
            client._abandon(ticket)
        raise


def release_all(client: Core, held: list[Held]) -> list[LockError]:
    """Release several locks in one request; return what went wrong."""
    errors = []
    asked: dict[Session, list[Held]] = {}
    try:
        for one in held:
            try:
                if (op := client._leave(one)) is not None:
                    asked.setdefault(op.session, []).append(one)
            except LockError as error:
                errors += [error] if one.tells else []
        for session, some in asked.items():
            errors += _release_on(client, session, some)
        for one in held:
            _observe.let_go(client, one._ticket)
    except BaseException:
        # The traceback keeps them alive, so no finalizer would free them.
        for one in held:
            op = one._ticket.release_op
            if one._open and one._ticket.state is HELD:
                one._open = False
                client._drop(one._ticket)
            elif one._ticket.state is RELEASING and op is not None and not op.done:
                client._see_through(op)
        raise
    return errors


def _release_on(client: Core, session: Session, held: list[Held]) -> list[LockError]:
    ops = [client._ledger.release_op(one._ticket) for one in held]
    try:
        session.ask_all(ops, None)
        client._sessions.retire(session)
    except SessionLost:
        pass  # the same to the caller: somebody else may hold a lock by now
    return [
        client._lost(one._ticket)
        for one, op in zip(held, ops, strict=True)
        if one.tells and not (op.done and op.result)
    ]


# -- async -----------------------------------------------------------------------------------------


@_observe.asks
async def ahold_all(client: AsyncCore, wanted: Several, *, wait: float | None) -> list[AsyncHeld]:
    """Hold all locks that are `wanted`; raises what `hold_all` does."""
    client._check_open()
    loop = client._bind().loop
    deadline = None if wait is None else loop.time() + wait
    names = (*wanted.alone, *wanted.shared)
    try:
        keys = [await client._key(name, deadline) for name in names]
    except Expired:
        raise await client._timed_out(", ".join(map(str, names)), wait or 0.0) from None
    every = Every(keys, wanted, asyncio.current_task())
    try:
        while left := every.left:
            await _atake_free(client, every, left, deadline)
            if (left := every.left) and not await atake(client, left[0], wait, deadline):
                raise Expired  # noqa: TRY301 - the same as while the server is asked
        return [AsyncHeld(client, every[key]) for key in every.keys]
    except BaseException as error:
        busy = every.busy()
        for ticket in every.ever():
            client._abandon(ticket)
        if not isinstance(error, Expired):
            raise
    raise await client._timed_out(busy, wait or 0.0)


async def _atake_free(
    client: AsyncCore, every: Every, left: list[Ticket], deadline: float | None
) -> None:
    now = client._bind().loop.time()
    asked = []
    for ticket in left:
        if deadline is not None and deadline < now + GRACE:
            await client._let_leave(ticket.key)
        if not client._ledger.enter(ticket, queue=False):
            break
        asked.append(ticket)
    await aask_all(client, [(one, None) for one in asked], deadline)
    for ticket in asked:
        if ticket.state is HELD:
            client._believed(ticket)
    for ticket in every.out_of_order(asked):
        client._abandon(ticket)


async def aask_all(client: AsyncCore, asked: Asked, deadline: float | None) -> None:
    """Try for several locks in one request; as `ask_all`."""
    for attempt in range(_TRIES if asked else 0):
        sessions = client._bind()
        session = sessions.shared or await sessions.connect(deadline)
        session._alone = False  # they go together
        futures = [session.ask(op) for op in _ops(client, asked, session)]
        soon = client._at_least(deadline, sessions.loop.time())
        try:
            for future in futures:
                await (future if soon is None else by(soon, future))
        except SessionLost as error:
            _give_up(client, asked, attempt, error)
        else:
            return
        finally:
            for future in futures:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen


async def atake(
    client: AsyncCore, ticket: Ticket, wait: float | None, deadline: float | None
) -> bool:
    """Take one lock, waiting for it; as `take`."""
    free = ticket.state is NEW and client._enter(ticket, wait)
    if (free and await client._try(ticket, deadline)) or await acontend(client, ticket, deadline):
        client._believed(ticket)
        return True
    return False
