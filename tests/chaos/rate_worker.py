"""A process that takes permits until it is killed: `python -m chaos.rate_worker DSN NAME HOW`."""

from __future__ import annotations

import asyncio
import random
import sys
import threading

from advlock import AsyncLocks, Locks
from advlock._rate import _sql

LIMIT, PER, MOST = 60, 0.4, 3


def take(locks: Locks, name: str) -> None:
    """Take a few at a time, for ever, in a thread."""
    limit = locks.rate_limit(name, LIMIT, PER)
    while True:
        limit.acquire(random.randint(1, MOST))  # noqa: S311


async def atake(locks: AsyncLocks, name: str) -> None:
    """The same, in a task."""
    limit = locks.rate_limit(name, LIMIT, PER)
    while True:
        await limit.acquire(random.randint(1, MOST))  # noqa: S311


async def main(dsn: str, name: str) -> None:
    """Many tasks of one client."""
    async with AsyncLocks(dsn) as locks:
        await locks.rate_limit(name, LIMIT, PER).acquire()
        print("ready", flush=True)  # noqa: T201 - to whoever kills it
        await asyncio.gather(*(atake(locks, name) for _ in range(4)))


if __name__ == "__main__":
    where, what, how = sys.argv[1:]
    if "unlocked" in how:
        _sql.LOCK = "SELECT 1 WHERE $1::int8 IS NOT NULL"
    if "async" in how:
        asyncio.run(main(where, what))
    client = Locks(where)
    client.rate_limit(what, LIMIT, PER).acquire()
    print("ready", flush=True)  # noqa: T201 - to whoever kills it
    for _ in range(3):
        threading.Thread(target=take, args=(client, what)).start()
