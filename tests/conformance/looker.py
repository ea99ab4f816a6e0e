"""A process whose signal handler asks whether a lock is lost: `looker.py WORLD DSN NAME SECONDS`.

The handler comes between any two instructions of the main thread, which is in the midst of using
the same session. It prints how many locks it took meanwhile, how often it asked, how often it was
told "lost", and, in milliseconds, how long the longest answer took, and the longest hold.
"""

from __future__ import annotations

import asyncio
import faulthandler
import random
import signal
import sys
import threading
import time
from typing import Any

from advlock import AsyncLocks, Locks

PATIENCE = 25.0
CROWD = 3
PAUSE = 0.001  # seconds between two looks, about
# Heartbeats come so rarely then that none helps out where a look has left somebody waiting.
LIVENESS = 120.0


class Looker:
    """Asks again and again, from a signal handler."""

    def __init__(self, held: Any) -> None:
        self._held = held
        self.asked = self.lost = self.taken = 0
        self.longest = self.stall = 0.0
        signal.signal(signal.SIGALRM, self._look)

    def arm(self) -> None:
        """Ask once more."""
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.1, 2) * PAUSE)  # noqa: S311 - jitter

    def stop(self) -> None:
        """Ask no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def note(self, start: float) -> None:
        """Note that a lock was taken and released since then."""
        self.taken += 1
        self.stall = max(self.stall, time.monotonic() - start)

    def _look(self, *_: object) -> None:
        start = time.monotonic()
        self.asked += 1
        self.lost += self._held.lost
        self.longest = max(self.longest, time.monotonic() - start)
        self.arm()


def threads(dsn: str, name: str, end: float) -> Looker:
    """Hold locks in several threads, the main one among them."""

    def use(number: int) -> None:
        while (start := time.monotonic()) < end:
            with client.hold(f"{name}-{number % 2}"):
                pass
            looker.note(start)

    with Locks(dsn, liveness=LIVENESS) as client, client.hold(name) as kept:
        looker = Looker(kept)
        crowd = [threading.Thread(target=use, args=(number,)) for number in range(1, CROWD)]
        for one in crowd:
            one.start()
        looker.arm()
        use(0)
        looker.stop()
        for one in crowd:
            one.join()
    return looker


async def tasks(dsn: str, name: str, end: float) -> Looker:
    """Do the same in several tasks."""

    async def use(number: int) -> None:
        while (start := time.monotonic()) < end:
            async with client.hold(f"{name}-{number % 2}"):
                pass
            looker.note(start)

    async with AsyncLocks(dsn, liveness=LIVENESS) as client, client.hold(name) as kept:
        looker = Looker(kept)
        looker.arm()
        try:
            await asyncio.gather(*map(use, range(CROWD)))
        finally:
            looker.stop()
    return looker


def main(world: str, dsn: str, name: str, seconds: str) -> None:
    """Look, and tell."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # a hang should tell where
    end = time.monotonic() + float(seconds)
    looker = threads(dsn, name, end) if world == "sync" else asyncio.run(tasks(dsn, name, end))
    times = [round(1000 * seconds) for seconds in (looker.longest, looker.stall)]
    print(looker.taken, looker.asked, looker.lost, *times, flush=True)  # noqa: T201 - it is read


if __name__ == "__main__":
    main(*sys.argv[1:])
