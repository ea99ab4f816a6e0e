"""A Celery app for `test_celery.py` whose tasks say when they begin, and wait for the gate."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from kombu.transport import filesystem
from kombu.utils.json import dumps

from advlock.celery import single_task


class Channel(filesystem.Channel):  # type: ignore[misc] # it has no types
    """A directory with messages, of which none can be read before it is whole.

    Kombu's own makes the file, and then writes: read in between, the message is lost.
    """

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}"
        part = Path(self.data_folder_out, f"{name}.part")
        part.write_text(dumps(payload))
        part.rename(part.with_name(f"{name}.msg"))


filesystem.Transport.Channel = Channel

app = Celery("celery_work", broker="filesystem://", backend=f"file://{os.environ['QUEUE']}")
app.conf.update(
    advlock_dsn=os.environ["DATABASE_URL"],
    broker_transport_options={
        "data_folder_in": os.environ["QUEUE"],
        "data_folder_out": os.environ["QUEUE"],
        "control_folder": os.environ["QUEUE"],
        "polling_interval": 0.05,  # seconds
    },
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_lost_wait=0.1,  # seconds
)


def _work(name: str) -> str:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
        session.execute("INSERT INTO begun VALUES (%s, %s)", (name, os.getpid()))
        while not session.execute("SELECT FROM gate").rowcount:
            time.sleep(0.02)
    return "done"


@app.task
def plain(name: str) -> str:
    """The control: nobody asks for a lock."""
    return _work(name)


@app.task
@single_task()
def single(name: str) -> str:
    """Work, one run at a time."""
    return _work(name)


@app.task(acks_late=True, reject_on_worker_lost=True)
@single_task("survives")
def survives(name: str) -> str:
    """Work, and again if the process dies."""
    return _work(name)


@app.task(bind=True, max_retries=1)
@single_task("shared", on_busy="retry", retry_after="1ms", key=lambda shop: shop)
def retried(self: object, shop: str) -> str:
    """Come again later, up to once."""
    return f"{shop} by {getattr(self, 'name', None)}"


@app.task
@single_task("shared", on_busy="fail", key=lambda shop: shop)
def failing(shop: str) -> str:
    """Fail if another run is at work."""
    return shop
