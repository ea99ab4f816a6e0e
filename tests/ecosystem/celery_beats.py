"""A Celery app for `test_celery.py`; every message that a beat has sent is a row of `sent`.

Two entries: `clock`, at each even second as `crontab` is at each minute, and `pulse`, once a
second.
"""

from __future__ import annotations

import os
import time
from typing import Any

import psycopg
from celery import Celery, schedules, signals

PERIOD = 2  # seconds between two moments of `clock`

app = Celery("celery_beats", broker=os.environ.get("BROKER", "memory://"))


class OnTheClock(schedules.BaseSchedule):
    """At every moment that is a multiple of `PERIOD`."""

    def is_due(self, last_run_at: Any) -> tuple[bool, float]:
        """Say whether there was one since, and when the next one is."""
        now = self.now().timestamp()
        left = PERIOD - now % PERIOD
        return last_run_at.timestamp() < now // PERIOD * PERIOD, left

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnTheClock)

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[Any, ...]:
        return OnTheClock, ()


app.conf.update(
    advlock_dsn=os.environ["DATABASE_URL"],
    advlock_name=os.environ.get("LOCK", "celery-beat"),
    beat_schedule={
        "clock": {"task": "clock", "schedule": OnTheClock()},
        "pulse": {"task": "pulse", "schedule": 1.0},
    },
)


@signals.after_task_publish.connect
def record(sender: str, headers: dict[str, Any], **_: Any) -> None:
    """Note what was sent."""
    now = time.time()
    with psycopg.connect(os.environ["DATABASE_URL"]) as session:
        session.execute(
            "INSERT INTO sent VALUES (%s, %s, %s, %s, %s)",
            (os.environ["CREW"], sender, now, headers["id"], os.getpid()),
        )
