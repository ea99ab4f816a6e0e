"""A process full of threads, or of tasks, that fight for a few locks until it is killed.

usage: worker.py sync|async DSN DIRECTORY SEED [unlocked]

Every critical section leaves two independent traces in DIRECTORY: an *occupancy marker* that must
not be there yet, and a step of a *counter* that is read, slept upon, and written back plus one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
import threading
import time
from pathlib import Path

import advlock

KEYS = ("red", "green")
_numbers = itertools.count()
CROWD = 4  # threads, or tasks, of one client
PF_EXITING = 0x4  # include/linux/sched.h


class Section:
    """The critical section of one key."""

    def __init__(self, directory: Path, key: str) -> None:
        self.marker = directory / f"{key}.occupied"
        self.counter = directory / f"{key}.counter"
        self.log = directory / f"{key}.{os.getpid()}-{threading.get_ident()}.log"

    def enter(self) -> int:
        """Put the marker down and read the counter."""
        mine = self.log.with_suffix(f".{next(_numbers)}")
        mine.write_text(str(os.getpid()))
        try:
            os.link(mine, self.marker)  # there at once, and signed
        except FileExistsError:
            if _is_alive(self.marker):
                self._write("overlap")
            mine.replace(self.marker)
        mine.unlink(missing_ok=True)
        return int(self.counter.read_text()) if self.counter.exists() else 0

    def leave(self, read: int) -> None:
        """Write the counter back plus one, take the marker away."""
        scratch = self.log.with_suffix(".new")
        scratch.write_text(str(read + 1))
        scratch.replace(self.counter)
        self._write(f"step {read}")
        self.marker.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(line + "\n")


def _is_alive(marker: Path) -> bool:
    """Tell whether whoever put the marker down still runs.

    The kernel closes the sockets of a killed process, and so frees its locks, before it shows the
    process as dead; but it has said before that the process is exiting.
    """
    try:
        stat = Path(f"/proc/{marker.read_text()}/stat").read_text()
        state, *_, flags = stat.rpartition(")")[2].split()[:7]
        return state not in "ZX" and not int(flags) & PF_EXITING
    except (FileNotFoundError, ProcessLookupError):
        # The process has gone, or, if it was the marker, its owner is alive and took it away.
        return not marker.exists()


def sync_life(locks: advlock.Locks, directory: Path, dice: random.Random, locked: bool) -> None:
    """Lock, work, unlock, for ever; now and then with too little patience."""
    while True:
        key = dice.choice(KEYS)
        wait = dice.choice((None, None, dice.uniform(0.0, 0.02)))
        hold = locks.hold(key, wait=wait) if locked else contextlib.nullcontext()
        with contextlib.suppress(advlock.LockTimeout), hold:
            section = Section(directory, key)
            read = section.enter()
            time.sleep(dice.uniform(0, 0.002))
            section.leave(read)


async def async_life(
    locks: advlock.AsyncLocks,
    directory: Path,
    dice: random.Random,
    locked: bool,
) -> None:
    """The same, with cancellation for impatience now and then."""
    while True:
        key = dice.choice(KEYS)
        wait = dice.choice((None, None, dice.uniform(0.0, 0.02)))
        hold = locks.hold(key, wait=wait) if locked else contextlib.nullcontext()
        patience = dice.choice((None, dice.uniform(0.0, 0.05)))
        with contextlib.suppress(advlock.LockTimeout, TimeoutError):
            async with asyncio.timeout(patience) as limit, hold:
                limit.reschedule(None)  # only the acquire is cut short
                section = Section(directory, key)
                read = section.enter()
                await asyncio.sleep(dice.uniform(0, 0.002))
                section.leave(read)


async def crowd(dsn: str, directory: Path, seed: int, locked: bool) -> None:
    """Run the tasks of one async client."""
    async with advlock.AsyncLocks(dsn) as locks:
        dice = [random.Random(seed + n) for n in range(CROWD)]  # noqa: S311
        await asyncio.gather(*(async_life(locks, directory, one, locked) for one in dice))


def main() -> None:
    """Be a worker."""
    world, dsn, directory, seed, *rest = sys.argv[1:]
    locked = rest != ["unlocked"]
    if world == "async":
        asyncio.run(crowd(dsn, Path(directory), int(seed), locked))
        return
    locks = advlock.Locks(dsn)
    threads = [
        threading.Thread(
            target=sync_life,
            args=(locks, Path(directory), random.Random(int(seed) + n), locked),  # noqa: S311
        )
        for n in range(CROWD)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
