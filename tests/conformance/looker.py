"""A process whose signal handler asks whether a lock is lost: `looker.py WORLD DSN NAME SECONDS`.

The handler comes between any two instructions of the main thread, which is in the midst of using
the same session. It prints how many locks it took meanwhile, how often it asked, how often it was
told "lost", and how long the longest answer took, in milliseconds.
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


class Looker:
    """Asks again and again, from a signal handler."""

    def __init__(self, held: Any) -> None:
        self._held = held
        self.asked = self.lost = 0
        self.longest = 0.0
        signal.signal(signal.SIGALRM, self._look)

    def arm(self) -> None:
        """Ask once more."""
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.1, 2) * PAUSE)  # noqa: S311 - jitter

    def stop(self) -> None:
        """Ask no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def _look(self, *_: object) -> None:
        start = time.monotonic()
        self.asked += 1
        self.lost += self._held.lost
        self.longest = max(self.longest, time.monotonic() - start)
        self.arm()


def threads(dsn: str, name: str, end: float) -> tuple[int, Looker]:
    """Hold locks in several threads, the main one among them."""
    taken = [0] * CROWD

    def use(number: int) -> None:
        while time.monotonic() < end:
            with client.hold(f"{name}-{number % 2}"):
                taken[number] += 1

    with Locks(dsn) as client, client.hold(name) as kept:
        looker = Looker(kept)
        crowd = [threading.Thread(target=use, args=(number,)) for number in range(1, CROWD)]
        for one in crowd:
            one.start()
        looker.arm()
        use(0)
        looker.stop()
        for one in crowd:
            one.join()
    return sum(taken), looker


async def tasks(dsn: str, name: str, end: float) -> tuple[int, Looker]:
    """Do the same in several tasks."""
    taken = [0] * CROWD

    async def use(number: int) -> None:
        while time.monotonic() < end:
            async with client.hold(f"{name}-{number % 2}"):
                taken[number] += 1

    async with AsyncLocks(dsn) as client, client.hold(name) as kept:
        looker = Looker(kept)
        looker.arm()
        try:
            await asyncio.gather(*map(use, range(CROWD)))
        finally:
            looker.stop()
    return sum(taken), looker


def main(world: str, dsn: str, name: str, seconds: str) -> None:
    """Look, and tell."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # a hang should tell where
    end = time.monotonic() + float(seconds)
    if world == "sync":
        taken, looker = threads(dsn, name, end)
    else:
        taken, looker = asyncio.run(tasks(dsn, name, end))
    longest = round(1000 * looker.longest)
    print(taken, looker.asked, looker.lost, longest, flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
