"""One session as `pg_stat_activity` shows it, and what of it goes into a `Holder`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from advlock import _label
from advlock._holder import Holder, Waiter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from advlock._label import Label

# How a wait of ours begins (`_sql.WAIT`). It is cut into slices, so that when the server says that
# it waits is at most half a second ago; the statement is as old as the wait.
_OUR_WAIT: Final = "DO LANGUAGE plpgsql $advlock$"
_HIDDEN: Final = "<insufficient privilege>"
_TRUE: Final = (True, "t", "True")


@dataclass(slots=True)
class SessionRow:
    """A session; times are seconds since 1970, and None is what this role may not see.

    Attributes:
        pid: Its process; 0 for a transaction that was prepared and has none: `application` is the
            name that it was given.

        snapshot: Whether it holds back VACUUM.

        single: Whether it holds and waits for one lock in all; None where nobody counted.

        hidden: Whether this role may see little of it.

        label: What it signed with, if it is one of ours.
    """

    pid: int
    application: str = ""
    user: str = ""
    client: str | None = None
    state: str | None = None
    state_since: float | None = None
    connected: float | None = None
    transaction: float | None = None
    query_since: float | None = None
    query: str | None = None
    snapshot: bool = False
    single: bool | None = None
    hidden: bool = False
    label: Label | None = field(init=False)

    def __post_init__(self) -> None:
        # A transaction that was prepared may be called anything; no process has signed it.
        self.label = _label.parse(self.application) if self.pid else None

    def since_of_wait(self, waitstart: float | None) -> datetime | None:
        """Since when it waits: what it signed, or else what the server can tell."""
        if self.label is not None and self.label.waiting_since is not None:
            return self.label.waiting_since
        if self.query is not None and self.query.lstrip().startswith(_OUR_WAIT):
            return moment(self.query_since)
        return None if self.label is not None and self.hidden else moment(waitstart)

    def holder(
        self, *, shared: bool, since: datetime | None, flags: tuple[str, ...] = ()
    ) -> Holder:
        """Make what people see of it as a holder."""
        return Holder(**self._seen(shared=shared, since=since, flags=flags))

    def waiter(
        self,
        *,
        shared: bool,
        since: datetime | None,
        flags: tuple[str, ...] = (),
        blocked_by: tuple[int, ...] = (),
    ) -> Waiter:
        """Make what people see of it as a waiter."""
        seen = self._seen(shared=shared, since=since, flags=flags)
        return Waiter(**seen, waiting=True, blocked_by=blocked_by)

    def _seen(self, **more: Any) -> dict[str, Any]:
        label = self.label
        return more | {
            "pid": self.pid,
            "application": self.application,
            "user": self.user,
            "client": self.client,
            "host": label.host if label else None,
            "process": label.pid if label else None,
            "state": self.state,
            "state_since": moment(self.state_since),
            "connected": moment(self.connected),
            "transaction": moment(self.transaction),
            "query": self.query,
        }


def of_row(row: Sequence[Any], *, single: bool | None = None) -> SessionRow:
    """Read a row: of `_inspect._sql.LOOK`, or of `_sql.HOLDERS`, where all is text.

    Args:
        row: The columns from `pid` to whether it holds back VACUUM.
        single: See `SessionRow`.
    """
    pid, application, user, address, port, state, *times, query, snapshot = row
    state_since, connected, transaction, query_since = (
        None if time is None else float(time) for time in times
    )
    return SessionRow(
        int(pid or 0),
        application or "",
        user or "",
        _client(address, port),
        state,
        state_since,
        connected,
        transaction,
        query_since,
        None if query == _HIDDEN else query,
        snapshot in _TRUE,
        single,
        query == _HIDDEN,
    )


def moment(seconds: float | None) -> datetime | None:
    """A time of the server's."""
    return None if seconds is None else _label.moment(seconds)


def _client(address: str | None, port: int | str | None) -> str | None:
    if address is None:
        return None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
