"""What is known of something that is done once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_FARTHEST = 62_000_000_000.0  # seconds; from the year 5 to the year 3934
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Done:
    """It was done already, so there is nothing to do: an object that is false.

    Attributes:
        name: What was done, with the client's namespace.

        done_at: When that was recorded, by the server's clock, in UTC.

        started_at: When whoever did it had begun; a window is counted from here.

        host: Who did it.

        pid: Its process.

        token: Its fencing token.
    """

    __module__ = "advlock"

    name: str
    done_at: datetime
    started_at: datetime
    host: str
    pid: int
    token: int

    def __bool__(self) -> Literal[False]:
        """Nothing is to be done."""
        return False

    def __str__(self) -> str:
        """Say when, and by whom, as messages do."""
        at = self.done_at.strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{self.name!r} was done at {at} by {self.host} pid {self.pid}"


@dataclass(frozen=True, slots=True)
class Run:
    """Somebody's turn to do it: what the row must still say when it is recorded as done."""

    name: str
    token: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row, for people; times as in `Done`.

    Attributes:
        busy: Whether somebody holds the lock.

        begun_at: When somebody began last; `token`, `host`, `pid` and `run_id` are theirs.

        per: The window in seconds; None for ever.

        done: Who did it last; None for nobody yet.
    """

    name: str
    busy: bool
    begun_at: datetime
    token: int
    host: str
    pid: int
    run_id: str
    per: float | None
    done: Done | None

    @property
    def state(self) -> str:
        """`running`, `done`, or `unfinished`: begun last by somebody who came to no end."""
        if self.busy:
            return "running"
        finished = self.done is not None and self.done.token == self.token
        return "done" if finished else "unfinished"


def read_done(name: str, row: Sequence[str | None]) -> Done | None:
    """Read `done_at, started_at, host, pid, token`."""
    done_at, started_at, host, pid, token = row
    if done_at is None or started_at is None:
        return None
    return Done(
        name, moment(done_at), moment(started_at), host or "", int(pid or 0), int(token or 0)
    )


def moment(epoch: str | None) -> datetime:
    """Read a time; what no datetime can be, as `infinity` set by hand, is the farthest."""
    seconds = float(epoch or 0)
    if abs(seconds) < _FARTHEST:
        return datetime.fromtimestamp(seconds, UTC)
    return _LAST if seconds > 0 else _FIRST
