"""How our sessions sign: the one line about a session that every role of the server may read.

`advlock:NAME HOST:PID @SINCE` for a session that carries one lock, `… ~SINCE` while it still waits
for it, `advlock HOST:PID` for one that carries many. `SINCE` is the second at which the lock was
granted, or the wait began, in base 36. PostgreSQL keeps 63 bytes of `application_name`, ASCII only,
so the name is shortened first.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from advlock._key import Key

_LIMIT: Final = 63
_HOST_LIMIT: Final = 24
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_GRANTED, _WAITS = "@~"
# Seconds from 1970 to the last day of 9999, of which not every time zone has the end.
_MOMENTS: Final = range(253_402_214_400)


class Label(NamedTuple):
    """What a session signed with.

    Attributes:
        name: The lock's name, as far as it fits; for a key without one its numbers. Empty for a
            session that carries many locks.

        host: The host of the process, without its domain.

        pid: The process id there.

        since: When the lock was granted, by that host's clock; None where it does not say so.

        waiting_since: Since when it waits for the lock; None where it does not say so.

        complete: False where the name may have been cut, or had characters that cannot be shown.
    """

    name: str
    host: str
    pid: int
    since: datetime | None = None
    waiting_since: datetime | None = None
    complete: bool = True


def make(name: str = "", *, since: float | None = None, waiting_since: float | None = None) -> str:
    """Sign for this process.

    Args:
        name: The lock's name; empty for a session that carries many.
        since: When the lock was granted, in Unix seconds.
        waiting_since: Since when it is waited for, where it is not granted yet.
    """
    host = _ascii(os.uname().nodename.split(".")[0])[:_HOST_LIMIT] or "localhost"
    tail = f" {host}:{os.getpid()}"
    if since is not None:
        tail += f" {_GRANTED}{_base36(int(since))}"
    elif waiting_since is not None:
        tail += f" {_WAITS}{_base36(int(waiting_since))}"
    head = f"advlock:{_ascii(name)}" if name else "advlock"
    return head[: _LIMIT - len(tail)] + tail


def name_of(key: Key) -> str:
    """Say which lock it is: by its name if it has one, else by its numbers."""
    return str(key.parts) if key.name is None else key.name


def parse(application_name: str) -> Label | None:
    """Read a signature back; None where it is not one of ours."""
    head, _, tail = application_name.rpartition(" ")
    moments: dict[str, datetime] = {}
    if (mark := tail[:1]) in (_GRANTED, _WAITS):
        try:
            seconds = int(tail[1:], 36)
        except ValueError:
            return None
        if seconds not in _MOMENTS:
            return None
        moments[mark] = moment(seconds)
        head, _, tail = head.rpartition(" ")
    host, colon, pid = tail.rpartition(":")
    if not colon or not (pid.isascii() and pid.isdigit()):
        return None
    if head != "advlock" and not head.startswith("advlock:"):
        return None
    name = head[len("advlock:") :]
    return Label(
        name,
        host,
        int(pid),
        moments.get(_GRANTED),
        moments.get(_WAITS),
        complete=len(application_name) < _LIMIT and "?" not in name,
    )


def moment(seconds: float) -> datetime:
    """Return the moment that Unix time `seconds` names."""
    return datetime.fromtimestamp(seconds, UTC)


def _ascii(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
