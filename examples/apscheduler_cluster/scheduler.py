"""A scheduler that runs on every host; all of them share one job store.

usage: python scheduler.py init | run SECONDS | show
"""

from __future__ import annotations

import os
import sys
import time

import psycopg
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

import advlock
from advlock.apscheduler import ClaimingExecutor, shared

URL = os.environ["DATABASE_URL"]
# For which tick, if it runs before the next one.
BILL = """
INSERT INTO billed VALUES (date_bin('2 s', clock_timestamp(), '2000-01-01'), %s)
"""


def bill() -> None:
    """Bill all that is due: once a tick, on whichever host."""
    with psycopg.connect(URL) as session:
        session.execute(BILL, (os.getpid(),))


def run(seconds: float) -> None:
    """Run jobs for so long."""
    store = shared(SQLAlchemyJobStore)(url=URL.replace("postgresql:", "postgresql+psycopg:"))
    scheduler = BackgroundScheduler(
        jobstores={"default": store}, executors={"default": ClaimingExecutor(dsn=URL)}
    )
    # One host at a time: the first makes the table of the store.
    with advlock.Locks(URL) as locks, locks.hold("scheduler-start"):
        scheduler.start()
        scheduler.add_job(
            bill, "cron", second="*/2", id="bill", replace_existing=True, misfire_grace_time=30
        )
    time.sleep(seconds)
    scheduler.shutdown()


def main() -> None:
    """Do what was asked for."""
    if sys.argv[1] == "run":
        run(float(sys.argv[2]))
        return
    with psycopg.connect(URL) as session:
        if sys.argv[1] == "init":
            session.execute("CREATE TABLE billed (at timestamptz, pid int)")
        else:
            sql = "SELECT count(*) > 1, count(*) - count(DISTINCT at) FROM billed"
            several, twice = session.execute(sql).fetchone()
            print("several ticks:", several, "how many twice:", twice)


if __name__ == "__main__":
    main()
