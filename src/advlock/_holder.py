"""Who holds a lock and who waits for it, as the server sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """One session that holds a lock, or (a `Waiter`) waits for it.

    What this role may not see of other roles' sessions is None.

    Attributes:
        pid: The server process of the session (what `pg_terminate_backend` takes).

        waiting: False for a holder, True for one that stands in the queue.

        shared: True when the lock is held, or asked for, in shared mode.

        application: The session's `application_name`; every role may read it.

        user: The role of the session.

        client: The client's address, where this role may see it; None on a Unix socket.

        host: The host of the process that holds the lock, where advlock put it down.

        process: The process id on that host, where advlock put it down.

        since: When the lock was granted (for a waiter: since when it waits), where it can be known.

        state: `active`, `idle`, `idle in transaction`, …: what the session does.

        state_since: Since when it does that.

        connected: Since when the session exists; with `pid` it names one session for good.

        transaction: Since when its transaction lasts, if there is one.

        query: What it does, or did last.

        flags: What is odd about it. A holder may be `idle-in-transaction`; `pinned`, one of ours
            behind a pooler, where a transaction is what keeps the lock; `idle-pooled`, a stranger
            that has done nothing for ten minutes; or `prepared`, a transaction that waits for its
            COMMIT PREPARED, and has no process: its `pid` is 0. A waiter may be a `ghost`: for
            five minutes it has waited in one go, and nobody knows whether its client is there.
            `holds-back-vacuum` comes with `idle-in-transaction` or `ghost`.
    """

    __module__ = "advlock"

    pid: int
    waiting: bool = False
    shared: bool = False
    application: str = ""
    user: str = ""
    client: str | None = None
    host: str | None = None
    process: int | None = None
    since: datetime | None = None
    state: str | None = None
    state_since: datetime | None = None
    connected: datetime | None = None
    transaction: datetime | None = None
    query: str | None = None
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it as one would at three in the morning: `web-2 pid 4242 since 03:00:01`."""
        if not self.pid:
            return "a prepared transaction"
        # A role may be called anything: nothing of that may steer a terminal.
        name = "".join(c if c.isprintable() else "?" for c in self.application or self.user)
        who = f"{self.host} pid {self.process}" if self.host else name
        where = "" if self.host else f" (server pid {self.pid})"
        since = f" since {self.since.astimezone():%H:%M:%S}" if self.since else ""
        return f"{who or 'somebody'}{where}{since}"


@dataclass(frozen=True, slots=True)
class Waiter(Holder):
    """One session that waits for a lock.

    Attributes:
        blocked_by: The server processes it waits for, `pg_blocking_pids` says: holders, and those
            ahead of it in the queue. Empty where nobody looked.
    """

    waiting: bool = True
    blocked_by: tuple[int, ...] = ()

    # dataclasses with slots make the class anew, so what is inherited is named.
    __str__ = Holder.__str__


# Not in its body: `dataclass` looks for the module that a class names.
Waiter.__module__ = "advlock.inspect"
