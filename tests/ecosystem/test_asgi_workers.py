"""Four uvicorn workers, one scheduler: the example, beside the same without advlock.

`ADVLOCK_TEST_SECONDS=60` makes it run for longer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from examples.conftest import Example

pytestmark = pytest.mark.newest

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("ADVLOCK_TEST_SECONDS", "12"))
log = logging.getLogger(__name__)
PATIENCE = 40.0  # seconds, on a busy machine
WORKERS = 4
CONTROL = "everyone"  # the schema of those without advlock

_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_TICKS = "SELECT second, worker, extract(epoch FROM at)::float8 FROM {}tick ORDER BY at"
_LEADS = """
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
AND classid::bigint << 32 | objid::bigint = hashtextextended('scheduler', 0)
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_STAND_BY = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

Admin = psycopg.Connection[Any]
Tick = tuple[int, int, float]


@pytest.fixture
def admin(url: str) -> Iterator[Admin]:
    """A bystander, who has made the tables of those without advlock."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(f"CREATE SCHEMA {CONTROL}")
        yield session


@pytest.fixture
def app(example: Callable[[str], Example]) -> Example:
    """A copy of the example, with the other application in it."""
    made = example("fastapi_scheduler")
    shutil.copy(HERE / "asgi_everyone.py", made.folder)
    return made


@contextlib.contextmanager
def workers(app: Example, what: str) -> Iterator[subprocess.Popen[str]]:
    """Four workers that serve on a socket of that name."""
    words = ("--workers", str(WORKERS), "--uds", f"{what}.sock", "--log-level", "info")
    server = app.start("uvicorn", f"{what}:app", *words)
    try:
        yield server
    finally:
        server.terminate()  # a supervisor that is killed leaves its workers behind
        code = server.wait(PATIENCE)
    assert code in {0, -signal.SIGTERM}, app.said(server)


def ticks(admin: Admin, schema: str = "") -> list[Tick]:
    """Read who has ticked which second, when; nothing before there is a table."""
    if admin.execute("SELECT to_regclass(%s)", [f"{schema}tick"]).fetchone() == (None,):
        return []
    return admin.execute(_TICKS.format(schema)).fetchall()  # type: ignore[arg-type]


def leads(admin: Admin) -> int:
    """Wait until one leads; the server process of its session."""
    return int(eventually(lambda: admin.execute(_LEADS).fetchone(), within=PATIENCE)[0])


def kill_the_one_that_ticks(admin: Admin) -> tuple[float, float]:
    """Kill the leading worker; when, and how long it took until another one led."""
    before, backend = len(ticks(admin)), leads(admin)
    eventually(lambda: len(ticks(admin)) > before, within=PATIENCE)
    worker = ticks(admin)[-1][1]
    ((killed,),) = admin.execute(_NOW).fetchall()
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: leads(admin) != backend, within=PATIENCE)
    return killed, time.monotonic() - began


def post(app: Example, path: str) -> tuple[int, str | None, Any]:
    """Ask the application, over its socket: the status, when to retry, and the answer."""
    with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(str(app.folder / "main.sock"))
        connection.request("POST", path)
        response = connection.getresponse()
        return response.status, response.headers["Retry-After"], json.loads(response.read())


def endpoints_lock(app: Example) -> None:
    """One request gets the lock, in whichever worker it is; the others are told to come back."""
    with ThreadPoolExecutor(3) as pool:
        for path, ready, busy in (
            ("/users/1/report?seconds=2", {"report": "ready"}, {"detail": "it is being made"}),
            ("/users/1/pay?seconds=2", {"payment": "done"}, {"detail": "busy"}),
        ):
            answers = sorted(pool.map(post, [app] * 3, [path] * 3), key=lambda answer: answer[0])
            assert answers == [(200, None, ready), *[(409, "5", busy)] * 2]


@pytest.mark.timeout(SECONDS + 100)
def test_four_workers_one_scheduler(app: Example, admin: Admin, url: str) -> None:
    """Each tick once, though the worker that leads is killed; without advlock, by every worker.

    Meanwhile endpoints lock, too.
    """
    ours = app.env
    theirs = {"DATABASE_URL": f"{url}&options=-csearch_path%3D{CONTROL}"}
    admin.execute(
        f"CREATE TABLE {CONTROL}.tick (second bigint, worker int,"  # type: ignore[arg-type]
        " at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    with workers(app, "main") as server:
        app.env = ours | theirs
        with workers(app, "asgi_everyone"):
            eventually(lambda: ticks(admin, f"{CONTROL}."), within=PATIENCE)
            eventually(lambda: ticks(admin), within=PATIENCE)
            end = time.monotonic() + SECONDS
            endpoints_lock(app)
            eventually(lambda: time.monotonic() > end - SECONDS / 2, within=SECONDS)
            killed, takeover = kill_the_one_that_ticks(admin)
            eventually(lambda: time.monotonic() > end, within=SECONDS)
            everyones = ticks(admin, f"{CONTROL}.")
        # The killed one's successor stands by: uvicorn has started it.
        eventually(lambda: admin.execute(_STAND_BY).fetchone() == (WORKERS - 1,), within=PATIENCE)
        assert "died" in app.said(server)
    found = ticks(admin)
    told = "%s ticks, of everyone %s; takeover in %.1f ms"
    log.info(told, len(found), len(everyones), takeover * 1000)
    each_once(found, killed)
    assert Counter(s for s, _, _ in everyones).most_common(1)[0][1] == WORKERS
    assert "Traceback" not in app.said(server)


def each_once(found: list[Tick], killed: float) -> None:
    """Each whole second once; what may be missing is what nobody could tick."""
    seconds = Counter(second for second, _, _ in found)
    assert max(seconds.values()) == 1, seconds
    assert len({worker for _, worker, _ in found}) == 2
    assert all(at >= second for second, _, at in found)
    first_of_the_next = min(second for second, _, at in found if at > killed)
    missing = set(range(min(seconds), max(seconds))) - set(seconds)
    assert missing <= set(range(int(killed), first_of_the_next)), missing
    assert len(found) >= SECONDS / 2
