"""A process that takes what it is told to, again and again, and has the server write down when.

What it writes is no word of the lock's: both ends of a row are the server's clock, and each is
written only after the session that carries the lock has answered once more.

usage: worker.py HOW SECONDS ARGUMENT…, with the database in ADVLOCK_DSN

    slots NAME SLOTS [WAIT]     a semaphore
    unprotected NAME SLOTS      the same without it
    all NAME…                   several locks, in any order; `async-all` with `AsyncLocks`
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import psycopg

import advlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DICE = random.SystemRandom()
DSN = os.environ["ADVLOCK_DSN"]
NOW = "SELECT clock_timestamp()"
WRITE = """
INSERT INTO held (who, name, shared, said, asked, since, until)
VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id
"""
SEEN = "UPDATE held SET until = %s WHERE id = %s"
START = "SELECT pg_advisory_lock_shared(7, 7), pg_advisory_unlock_shared(7, 7)"
AT_LEAST = 8  # turns, however slow the machine
TROUBLE = (advlock.LockLost, advlock.LockTimeout, advlock.DatabaseUnavailable, psycopg.Error)


class Book:
    """The server's record."""

    def __init__(self) -> None:
        self._connection = psycopg.connect(DSN, autocommit=True, application_name="book")
        self._connection.execute(START)  # waits for the others

    def now(self) -> Any:
        """The server's time."""
        return self._connection.execute(NOW).fetchone()[0]  # type: ignore[index]

    def write(self, name: str, *, asked: Any, at: Any, shared: bool = False, said: int = 0) -> int:
        """Write down that something is held since a moment at which it certainly was."""
        row = (os.getpid(), name, shared, said, asked, at, at)
        return int(self._connection.execute(WRITE, row).fetchone()[0])  # type: ignore[index]

    def still(self, rows: list[int], at: Any) -> None:
        """Write down that it was held at that moment, too."""
        for row in rows:
            self._connection.execute(SEEN, (at, row))


def say(*words: object) -> None:
    """Tell the test."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def work(seconds: float, turn: Callable[[], None]) -> None:
    """Take turns until time is up, whatever happens to sessions."""
    until = time.monotonic() + seconds
    say("ready")
    turns = 0
    while time.monotonic() < until or turns < AT_LEAST:
        turns += 1
        try:
            turn()
        except advlock.ConfigError as error:
            say("refused", error)
            time.sleep(0.02)
        except TROUBLE as error:
            say("trouble", type(error).__name__)


@contextlib.contextmanager
def no_slot(number: int) -> Iterator[Any]:
    """Protect nothing."""
    yield type("Nothing", (), {"slot": number, "check": lambda _: None})()


def slots(
    name: str, said: int, wait: float | None, *, protected: bool = True
) -> Callable[[], None]:
    """Hold a slot for some milliseconds."""
    locks = advlock.Locks(DSN)
    semaphore = locks.semaphore(name, said)
    book = Book()

    def certainly(held: Any) -> Any:
        at = book.now()
        if protected:
            locks.holders(name)  # it goes over the session that has the slot
        held.check()
        return at

    def turn() -> None:
        nonlocal book
        try:
            asked = book.now()
            way = semaphore.hold(wait=wait) if protected else no_slot(DICE.randrange(said))
            with way as held:
                at = certainly(held)
                row = book.write(f"{name} {held.slot}", asked=asked, at=at, said=said)
                for _ in range(DICE.randrange(3)):
                    time.sleep(DICE.uniform(0, 0.006))
                    book.still([row], certainly(held))
        except psycopg.Error:
            book = Book()
            raise

    return turn


def choice(names: list[str]) -> tuple[list[str], list[str]]:
    """Some names in some order, and some of them to be shared."""
    some = DICE.sample(names, DICE.randint(2, len(names)))
    shared = [name for name in some if DICE.random() < 0.4]
    return [name for name in some if name not in shared], shared


def several(names: list[str]) -> Callable[[], None]:
    """Hold several locks, some of them shared."""
    locks, book = advlock.Locks(DSN), Book()

    def turn() -> None:
        alone, shared = choice(names)
        asked = book.now()
        with locks.hold_all(alone, shared=shared):
            at = book.now()
            rows = [book.write(name, asked=asked, at=at) for name in alone]
            rows += [book.write(name, asked=asked, at=at, shared=True) for name in shared]
            book.still(rows, book.now())

    return turn


async def aseveral(seconds: float, names: list[str]) -> None:
    """Hold several locks in three tasks of one client."""
    book = Book()
    until = time.monotonic() + seconds

    async def task(locks: advlock.AsyncLocks) -> None:
        turns = 0
        while time.monotonic() < until or turns < AT_LEAST:
            turns += 1
            alone, shared = choice(names)
            asked = book.now()
            async with locks.hold_all(alone, shared=shared):
                at = book.now()
                rows = [book.write(name, asked=asked, at=at) for name in alone]
                rows += [book.write(name, asked=asked, at=at, shared=True) for name in shared]
                await asyncio.sleep(0)
                book.still(rows, book.now())

    say("ready")
    async with advlock.AsyncLocks(DSN) as locks:
        await asyncio.gather(*(task(locks) for _ in range(3)))


def main(how: str, seconds: float, *arguments: str) -> None:
    """Do as the usage says."""
    if how == "async-all":
        asyncio.run(aseveral(seconds, list(arguments)))
        return
    if how == "all":
        work(seconds, several(list(arguments)))
        return
    name, said, *wait = arguments
    patience = float(wait[0]) if wait else None
    work(seconds, slots(name, int(said), patience, protected=how == "slots"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
