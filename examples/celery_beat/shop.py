"""A Celery app with a task for each second, which beat sends, and a report of which one runs."""

from __future__ import annotations

import os
import time

import psycopg
from celery import Celery
from celery.beat import BeatLazyFunc

from advlock.celery import single_task

URL = os.environ["DATABASE_URL"]

# A broker in a directory, so that the example needs no other; yours is Redis or RabbitMQ.
app = Celery("shop", broker="filesystem://")
app.conf.update(
    advlock_dsn=URL,
    beat_schedule={
        "count": {"task": "shop.count", "schedule": 1.0, "args": [BeatLazyFunc(time.time)]}
    },
    broker_transport_options={
        "data_folder_in": "queue",
        "data_folder_out": "queue",
        "control_folder": "queue",
    },
    broker_connection_retry_on_startup=True,
)


@app.task
def count(sent_at: float) -> None:
    """Count the stock, as it was ordered once a second."""
    with psycopg.connect(URL) as session:
        session.execute("INSERT INTO counted VALUES (to_timestamp(%s))", (sent_at,))


@app.task
@single_task(key=lambda month: month)
def report(month: str) -> str:
    """Write a month's report: takes its time, and one run of a month works at a time."""
    time.sleep(1)
    return f"the report of {month}"
