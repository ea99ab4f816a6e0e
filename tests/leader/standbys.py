"""Many candidates for one lead, and what they cost the server while one of them leads."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

NAME = "the-lead"
_CLIENTS = 50  # of one process
_PATIENCE = 60.0
_CANDIDATES = """
import asyncio, sys
from advlock import AsyncLocks

async def stand(locks):
    async for term in locks.leader(sys.argv[3]).terms():
        async with term.cancel_on_lost():
            await asyncio.sleep(1e6)

async def main():
    clients = [AsyncLocks(sys.argv[1]) for _ in range(int(sys.argv[2]))]
    crowd = asyncio.gather(*(stand(one) for one in clients))
    reader = asyncio.StreamReader()
    make = lambda: asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(make, sys.stdin)
    await reader.read()
    crowd.cancel()
    await asyncio.gather(crowd, *(one.close() for one in clients), return_exceptions=True)

asyncio.run(main())
"""

_QUEUE = """
SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database
                                            WHERE datname = current_database())
"""
_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'advlock%'"
# What VACUUM has to keep because of them: the age of their snapshots, in time and in transactions.
_SNAPSHOTS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start))::float8, 0),
       coalesce(max(age(backend_xmin)), 0)
FROM pg_stat_activity WHERE application_name LIKE 'advlock%' AND backend_xmin IS NOT NULL
"""
_TICK = 0.05  # seconds


class Cost(NamedTuple):
    """What the candidates cost.

    Attributes:
        seconds: How long they were watched.

        candidates: How many there were.

        sessions: The most sessions that they had.

        cpu: What share of one processor their server processes took.

        snapshot: The oldest snapshot of theirs, in seconds.

        xmin: The same in transactions, of which the watcher made `made`.

        made: See there.
    """

    seconds: float
    candidates: int
    sessions: int
    cpu: float
    snapshot: float
    xmin: int
    made: int


@contextmanager
def candidates(dsn: str, admin: Connection[Any], count: int) -> Iterator[None]:
    """Start so many, and go on when one leads and all others wait; they end with the block."""
    sizes = [min(_CLIENTS, count - begun) for begun in range(0, count, _CLIENTS)]
    crowds = [
        subprocess.Popen(
            [sys.executable, "-c", _CANDIDATES, dsn, str(size), NAME], stdin=subprocess.PIPE
        )
        for size in sizes
    ]
    try:
        eventually(
            lambda: admin.execute(_QUEUE).fetchone() == (1, count - 1),
            within=_PATIENCE,
            message="one leads and the others wait",
        )
        yield
    finally:
        for crowd in crowds:
            assert crowd.stdin
            crowd.stdin.close()
        for crowd in crowds:
            crowd.wait(_PATIENCE)


def watch(admin: Connection[Any], count: int, seconds: float) -> Cost:
    """Watch them for a while, during which others make transactions."""
    pids = [pid for (pid,) in admin.execute(_SESSIONS)]
    before, began = _cpu(pids), time.monotonic()
    sessions, snapshot, xmin, made = len(pids), 0.0, 0, 0
    while time.monotonic() - began < seconds:
        admin.execute("SELECT pg_current_xact_id()")
        made += 1
        row = admin.execute(_SNAPSHOTS).fetchone()
        assert row
        snapshot, xmin = max(snapshot, row[0]), max(xmin, row[1])
        if made % 20 == 0:
            sessions = max(sessions, len(admin.execute(_SESSIONS).fetchall()))
        time.sleep(_TICK)
    took = time.monotonic() - began
    return Cost(took, count, sessions, (_cpu(pids) - before) / took, snapshot, xmin, made)


def _cpu(pids: list[int]) -> float:
    """Seconds that these processes of this machine have run."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9
