"""One scheduler of several on one job store, for `test_apscheduler.py`.

Each run is a row of `ran`, and one at its end. Says `ready` when it has started.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

import advlock
from advlock.apscheduler import ClaimingExecutor, shared

URL = os.environ["DATABASE_URL"]
CREW = os.environ["CREW"]
_BEGIN = "INSERT INTO ran VALUES (%s, clock_timestamp(), %s, %s)"


def tick() -> None:
    """Work."""
    with psycopg.connect(URL, autocommit=True) as session:
        session.execute(_BEGIN, (CREW, os.getpid(), "begun"))
        session.execute(_BEGIN, (CREW, os.getpid(), "ended"))


def long() -> None:
    """Work until the gate is open."""
    with psycopg.connect(URL, autocommit=True) as session:
        session.execute(_BEGIN, (CREW, os.getpid(), "begun"))
        while not session.execute("SELECT FROM ran WHERE what = 'gate'").rowcount:
            time.sleep(0.02)
        session.execute(_BEGIN, (CREW, os.getpid(), "ended"))


def main() -> None:
    """Run until somebody ends it."""
    claiming = CREW != "theirs"
    url = URL.replace("postgresql:", "postgresql+psycopg:")
    base: Any = shared(SQLAlchemyJobStore) if claiming else SQLAlchemyJobStore
    store = base(url=url, tablename=f"jobs_{CREW}", engine_options={"pool_size": 2})
    pool = ThreadPoolExecutor(4)
    executor = ClaimingExecutor(pool, dsn=URL) if claiming else pool
    scheduler = BackgroundScheduler(
        jobstores={"default": store}, executors={"default": executor}, timezone=UTC
    )
    with advlock.Locks(URL) as locks, locks.hold("start"):
        scheduler.start()
        if "long" in sys.argv:
            at = datetime.fromtimestamp(float(sys.argv[2]), UTC)
            scheduler.add_job(
                long, "date", run_date=at, id="long", replace_existing=True, misfire_grace_time=60
            )
        else:
            scheduler.add_job(
                tick, "cron", second="*", id="tick", replace_existing=True, misfire_grace_time=30
            )
    print("ready", flush=True)  # noqa: T201
    time.sleep(3600)


if __name__ == "__main__":
    main()
