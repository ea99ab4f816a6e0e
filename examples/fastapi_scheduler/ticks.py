"""Look at what the workers do.

usage: python ticks.py SECONDS [--kill]
"""

from __future__ import annotations

import os
import signal
import sys
import time

import psycopg

TICKS = "SELECT count(*) FROM tick"
COUNT = """
SELECT count(*), count(DISTINCT second), count(DISTINCT worker)
FROM (SELECT * FROM tick ORDER BY at OFFSET %s LIMIT %s) AS seen
"""
LAST = "SELECT worker FROM tick ORDER BY at DESC LIMIT 1"


def main(seconds: int, *, kill: bool) -> None:
    """Count so many more ticks, after perhaps killing the worker that made the last one."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
        while conn.execute("SELECT to_regclass('tick')").fetchone() == (None,):
            time.sleep(0.1)  # the workers are starting
        (before,) = conn.execute(TICKS).fetchone()
        if kill:
            (worker,) = conn.execute(LAST).fetchone()
            os.kill(worker, signal.SIGKILL)
            print("killed the worker that ticked")
            before, seconds = before - 1, seconds + 1  # its last tick, too
        while (found := conn.execute(COUNT, (before, seconds)).fetchone())[0] < seconds:
            time.sleep(0.05)
    ticks, different, workers = found
    print(f"{ticks} ticks in {different} seconds, by {workers} worker{'s' * (workers > 1)}")


if __name__ == "__main__":
    main(int(sys.argv[1]), kill="--kill" in sys.argv)
