"""A process whose signal handler finds, at every moment of a hold, that the session is dead.

`look_at_each_moment.py DSN SERVER_DSN NAME`: it ends, prints how many moments there were, and what
went wrong at which: a look that did not see the end, a holder that was not told, or told twice, a
lock that nobody gets any more. A look that waits for its own thread ends it with a traceback.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parent.parent))

from interrupting import Interrupter
from waiting import eventually

from advlock import DatabaseUnavailable, Held, LockError, LockLost, Locks, LockTimeout
from advlock._session import Session

PATIENCE = 10.0
ENOUGH = 3.0
END = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND pid <> %s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Round:
    """A client that keeps one lock, and a thread that waits for it.

    What is taken besides is free, or busy elsewhere, or behind that very lock.
    """

    def __init__(self, dsn: str, name: str, case: str) -> None:
        self.client = Locks(dsn)
        self.name, self.case = name, case
        self.looked = time.monotonic() + ENOUGH  # not yet
        self.unbooked = False  # so that others of this client would get it, too
        self.waited: float | None = None  # how long after the look, in vain
        self.kept: Held = self.client._hold(f"{name}-kept", owned=False)
        self.told: list[Held] = []
        self.kept.on_lost(self.told.append)
        self.another = threading.Thread(target=self._wait, daemon=True)
        self.another.start()

    def _wait(self) -> None:
        if self.case == "behind":
            return  # it is this one who waits, alone: then nothing is left when the lock is lost
        with suppress(LockError), self.client.hold(f"{self.name}-kept", wait=PATIENCE):
            pass

    def use(self) -> None:
        """Take a lock, and give it back."""
        name = f"{self.name}-kept" if self.case == "behind" else self.name
        wait = 0.0 if self.case == "busy" else ENOUGH
        try:
            with suppress(LockLost, DatabaseUnavailable), self.client.hold(name, wait=wait) as held:
                self.unbooked = not (self.client._ledger.knows(held.key) or held.lost)
        except LockTimeout:
            self.waited = time.monotonic() - self.looked

    def ends_well(self) -> str:
        """Say what is wrong afterwards."""
        with suppress(LockLost):
            self.client._let_go(self.kept)
        self.another.join(PATIENCE)
        if self.another.is_alive() or (self.waited or 0) > ENOUGH / 2:
            return "somebody waits for ever"
        with suppress(AssertionError):
            eventually(lambda: self.told)
        if self.unbooked:
            return "held, and not in the books"
        if self.told != [self.kept]:
            return f"told {self.told}"
        if len(self.client._ledger):
            return f"left {self.client._ledger.tickets()}"
        self.client.close()
        return ""


def main(dsn: str, server: str, name: str) -> None:
    """Look at every moment, and tell."""
    Session.tend = lambda _: 60.0  # type: ignore[method-assign] # or the watcher finds it first
    moments, wrong = 0, []
    one: Any = None
    admin = psycopg.connect(server, autocommit=True)
    rival = psycopg.connect(server, autocommit=True)

    def look() -> None:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        one.looked = time.monotonic()
        admin.execute(END, [rival.info.backend_pid])
        eventually(one.kept._ticket.session.wire.has_news)
        if not one.kept.lost:
            wrong.append(f"{interrupter.where}: not seen")
        faulthandler.cancel_dump_traceback_later()

    interrupter = Interrupter("_core.py", "_books.py", "_ledger.py", "_sessions.py", handler=look)
    for case in ("free", "busy", "behind"):
        at = 1
        while True:
            if case == "busy":
                rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
            one = Round(dsn, name, case)
            met = interrupter._interrupts(one.use, at)
            if not met or (case == "behind" and (one.waited or ENOUGH) < ENOUGH / 2):
                one.client.close()
                break
            if why := one.ends_well():
                wrong.append(f"{interrupter.where}: {why}")
            at += 1
            moments += 1
    print(moments, "; ".join(wrong), flush=True)  # noqa: T201 - it is read


if __name__ == "__main__":
    main(*sys.argv[1:])
