"""Is the lock held, in the belief of this process? Asked of the clients' own books."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from advlock._in_use import clients
from advlock._ledger import HELD, RELEASING
from advlock.errors import LockNotHeld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._key import Name
    from advlock._ledger import Ticket


def assert_held(name: Name, *, shared: bool | None = None, anywhere: bool = False) -> None:
    """Raise unless the caller holds the lock `name`, and may still believe in it.

    For the first line of what must not run without its lock: that a lock is taken somewhere above
    is easily lost when code moves. Never waits, and asks no server: like `Held.lost` it looks at
    the sockets and at the clock. Costs those who lock nothing.

    Afterwards the caller may believe what `Held.lost` being false means, for this one moment.

    It sees what a `Locks` or `AsyncLocks` of this process holds by `hold`, `attempt`, `hold_all`,
    `lock`, `semaphore` or `leader`; `lock` objects and slots belong to no thread or task, so
    anybody in the process counts as their holder. It does not see `xact_lock`, nor the lock of an
    `advlock run` around the process.

    Args:
        name: What the client was asked for: without its namespace.
        shared: Whether it has to be held shared (True) or by nobody else (False); None for either.
        anywhere: Whether any thread or task of the process may be who holds it; for code that
            hands its work to others while it holds the lock.

    Raises:
        LockNotHeld: the caller does not hold it, or it was lost; it says what is the case.
    """
    seen = "nothing in this process holds it"
    for client, ticket in _tickets(name):
        why = _why_not(client, ticket, shared=shared, anywhere=anywhere)
        if why is None:
            return
        seen = why
    raise LockNotHeld(
        f"{name!r} is not held here: {seen}. Call this inside `with locks.hold({name!r}):`, or "
        f"decorate it with @locks.hold({name!r})",
        name=name,
    )


assert_held.__module__ = "advlock"


def _why_not(client: Any, ticket: Ticket, *, shared: bool | None, anywhere: bool) -> str | None:
    """Say why this is no hold of the caller's; None where it is."""
    if ticket.state is RELEASING:
        return "it is being released"
    if not _believes(client, ticket):
        return f"it was lost: {ticket.session.why}"
    if shared is not None and ticket.shared is not shared:
        return f"it is held, but {'shared' if ticket.shared else 'not shared'}"
    if anywhere or ticket.owner in (None, threading.current_thread(), _task()):
        return None
    return f"it is held by {_who(ticket.owner)}; pass anywhere=True if that will do"


def _tickets(name: Name) -> Iterator[tuple[Any, Ticket]]:
    for client in clients():
        ledger = client._ledger
        for slot in list(ledger._slots.values()):
            for ticket in list(slot.active):
                # Below 0: what goes with a semaphore's slot (`Key.agreed`).
                ours = ticket.name == name and isinstance(name, str) is isinstance(ticket.name, str)
                if ours and ticket.key.seed >= 0 and ticket.state in (HELD, RELEASING):
                    yield client, ticket


def _believes(client: Any, ticket: Ticket) -> bool:
    session = ticket.session
    return (
        not client._closed and not ticket.withdrawn and session.vouches() and session.looks_alive()
    )


def _task() -> object:
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:  # no loop runs here
        return threading.current_thread()


def _who(owner: Any) -> str:
    kind = "thread" if isinstance(owner, threading.Thread) else "task"
    name = owner.name if kind == "thread" else owner.get_name()
    return f"another {kind}, {name!r}"
