"""How our sessions sign: the one line about a session that every role of the server may read.

`advlock:NAME HOST:PID @SINCE` for a session that carries one lock, `advlock HOST:PID` for one
that carries many. `SINCE` is the second at which the lock was granted, in base 36. PostgreSQL
keeps 63 bytes of `application_name`, ASCII only, so the name is shortened first.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Final, NamedTuple

_LIMIT: Final = 63
_HOST_LIMIT: Final = 24
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class Label(NamedTuple):
    """What a session signed with."""

    name: str
    host: str
    pid: int
    since: datetime | None


def make(name: str = "", *, since: float | None = None) -> str:
    """Sign for this process: with the lock's `name` and, once granted, `since` (Unix seconds)."""
    host = _ascii(os.uname().nodename.split(".")[0])[:_HOST_LIMIT] or "localhost"
    tail = f" {host}:{os.getpid()}"
    if since is not None:
        tail += f" @{_base36(int(since))}"
    head = f"advlock:{_ascii(name)}" if name else "advlock"
    return head[: _LIMIT - len(tail)] + tail


def parse(application_name: str) -> Label | None:
    """Read a signature back; None where it is not one of ours."""
    head, _, tail = application_name.rpartition(" ")
    since = None
    if tail.startswith("@"):
        try:
            since = moment(int(tail[1:], 36))
        except (ValueError, OverflowError, OSError):
            return None
        head, _, tail = head.rpartition(" ")
    host, colon, pid = tail.rpartition(":")
    if not colon or not (pid.isascii() and pid.isdigit()):
        return None
    if head != "advlock" and not head.startswith("advlock:"):
        return None
    return Label(head[len("advlock:") :], host, int(pid), since)


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
