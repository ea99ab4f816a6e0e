"""Who holds a lock and who waits for it, as the server sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """One session that holds a lock, or waits for it.

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

    def __str__(self) -> str:
        """Say it as one would at three in the morning: `web-2 pid 4242 since 03:00:01`."""
        who = f"{self.host} pid {self.process}" if self.host else self.application or self.user
        where = "" if self.host else f" (server pid {self.pid})"
        since = f" since {self.since.astimezone():%H:%M:%S}" if self.since else ""
        return f"{who or 'somebody'}{where}{since}"
