"""What a candidate's probes tell: alive, ready, leading.

Ready never depends on who leads: a rolling update waits until the new pod is ready, and the new pod
would wait for the old one's lead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(slots=True)
class Status:
    """What the probes tell. Each field is changed by one thread, at once.

    Attributes:
        name: What is led.

        connected: Whether there is a session with the database.

        term: Since when we lead, and the term's fencing token; None while somebody else may lead.
    """

    name: str
    connected: bool = False
    term: tuple[datetime, int] | None = None

    def elected(self, token: int) -> None:
        """We lead from now on."""
        self.term = (datetime.now(UTC), token)

    def lost(self) -> None:
        """Neither do we lead, nor is there a session."""
        self.term, self.connected = None, False

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        term = self.term
        match path.partition("?")[0]:
            case "/livez":
                return 200, {"alive": True}
            case "/readyz":
                return _ok(good=self.connected), {"connected": self.connected}
            case "/leader":
                told = {"name": self.name, "leading": term is not None, **_here()}
                if term is not None:
                    told |= {"since": term[0].isoformat(timespec="seconds"), "token": term[1]}
                return _ok(good=term is not None), told
        return 404, {"paths": ["/livez", "/readyz", "/leader"]}


def _ok(*, good: bool) -> int:
    return 200 if good else 503


def _here() -> dict[str, Any]:
    return {"host": os.uname().nodename, "pid": os.getpid()}
