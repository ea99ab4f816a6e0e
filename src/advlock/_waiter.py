"""The smallest thing a thread can wait on: a lock that its waker releases."""

from __future__ import annotations

import _thread
import contextlib
import time
from typing import TYPE_CHECKING, Any

from advlock._plan import Expired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from advlock._ledger import Ticket


def wake(waiter: Any) -> None:
    """Wake the thread that waits on this lock; a second call does nothing."""
    with contextlib.suppress(RuntimeError):
        waiter.release()


def wake_all(tickets: Iterable[Ticket]) -> None:
    """Wake those of these that wait."""
    for ticket in tickets:
        if ticket.waker is not None:
            wake(ticket.waker)


def wait(waiter: Any, deadline: float | None) -> bool:
    """Wait until `wake` is called; False if `deadline` passed first."""
    if deadline is None:
        return bool(waiter.acquire())
    return bool(waiter.acquire(timeout=max(0.0, deadline - time.monotonic())))


def new_waiter() -> Any:
    """Make a waiter: a lock that its waker releases."""
    waiter = _thread.allocate_lock()
    waiter.acquire()
    return waiter


def wait_until(waiter: Any, deadline: float | None) -> None:
    """Wait until `wake` is called.

    Raises:
        Expired: `deadline` passed first.
    """
    if not wait(waiter, deadline):
        raise Expired


def milliseconds(deadline: float) -> float:
    """Return what `poll` takes for a moment."""
    return max(0.0, deadline - time.monotonic()) * 1000 + 0.5


def apart(function: Callable[..., object], *args: object, **options: object) -> None:
    """Call `function` in a thread of its own; here, where there is no thread to be had."""
    try:
        _thread.start_new_thread(function, args, options)
    except RuntimeError:
        function(*args, **options)
