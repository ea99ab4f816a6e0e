"""A process whose signal handler uses the client, at every moment of a request of its thread.

`ask_at_each_moment.py DSN NAME DEED`: it ends, prints how many moments there were, how often the
handler was refused, and what went wrong when: a lock that stays, or a client that nobody can use
any more. What would wait for its own thread ends it with a traceback.
"""

from __future__ import annotations

import faulthandler
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

sys.path.insert(0, str(Path(__file__).parent.parent))

from interrupting import Interrupter
from servers import locks_in_db
from waiting import eventually

from advlock import LockError, Locks

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0
FILES = ("_core.py", "_books.py", "_ledger.py", "_sessions.py", "_session.py", "_engine.py")
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"


class Round:
    """A client that keeps one lock, and a handler that does one thing."""

    def __init__(self, dsn: str, name: str, deed: str) -> None:
        self.client = Locks(dsn, application_name=name)
        self.name, self.deed = name, deed
        if deed != "connect":
            self.kept = self.client._hold(f"{name}-kept", owned=False)

    def use(self) -> None:
        """Be interrupted in the midst of this."""
        with suppress(LockError), self.client.hold(self.name):
            self.client.holders(self.name)

    def attempt(self) -> None:
        """Take another lock, and give it back."""
        with self.client.attempt(f"{self.name}-2"):
            pass

    connect = attempt  # where the thread that is interrupted is about to connect

    def token(self) -> None:
        """Draw one."""
        assert self.kept.token() > 0

    def release(self) -> None:
        """Give back what is kept."""
        self.client._let_go(self.kept)

    def close(self) -> None:
        """Close the client."""
        self.client.close()

    def ends_well(self, admin: Any) -> str:
        """Say what is wrong afterwards."""
        left = [self.kept.key] if self.deed in ("attempt", "token") else []
        if self.deed == "release" and self.kept._open:
            return "what is given back is held"
        try:
            eventually(lambda: [t.key for t in self.client._ledger.tickets()] == left)
            eventually(lambda: len(locks_in_db(admin)) == len(left))
        except AssertionError as error:
            return str(error)
        if self.deed != "close":
            with self.client.hold(f"{self.name}-3", wait=PATIENCE):
                pass
        self.client.close()
        with suppress(AssertionError):
            eventually(lambda: admin.execute(SESSIONS, [self.name]).fetchone() == (0,))
            return ""
        return "its session stays"


def main(dsn: str, name: str, deed: str) -> None:
    """Ask at every moment, and tell."""
    moments, refused, wrong = 0, 0, []
    do: Callable[[], object] = list
    admin = psycopg.connect(dsn, autocommit=True)

    def handler() -> None:
        nonlocal refused
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            do()
        except LockError as error:
            if "signal handler" not in str(error):
                wrong.append(f"{interrupter.where}: {error}")
            refused += 1
        faulthandler.cancel_dump_traceback_later()

    interrupter = Interrupter(*FILES, handler=handler)
    while True:
        one = Round(dsn, name, deed)
        do = getattr(one, deed)
        if not interrupter._interrupts(one.use, moments + 1):
            one.client.close()
            break
        if why := one.ends_well(admin):
            wrong.append(f"{interrupter.where}: {why}")
        moments += 1
    print(moments, refused, "; ".join(wrong), flush=True)  # noqa: T201 - it is read


if __name__ == "__main__":
    main(*sys.argv[1:])
