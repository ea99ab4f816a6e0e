"""A database at three in the morning: real sessions hold real locks, and some wait.

What advlock's own sessions sign with says how long they hold or wait, so that the picture has
hours in it that the test does not last.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq, sql
from waiting import eventually

from advlock import _label, _sql

if TYPE_CHECKING:
    from collections.abc import Iterator

REGISTRY = """
[locks.nightly-report]
description = "the report that finance reads at eight"
owner = "team-reporting"

[locks."billing:close-month"]
description = "closes the books; never twice"
owner = "team-billing"

[locks.deploy]
description = "one deployment at a time"
owner = "platform"

[locks."user:{id}"]
description = "one writer for each user's settings"
"""
MINUTE = 60
HOUR = 60 * MINUTE
ROLES = ("app", "reports", "billing", "ci", "alice")
# Locks that nobody waits for.
QUIET = (
    *("webhooks:stripe", "sessions:sweep", "fx-rates", "email:digest", "sitemap"),
    *("thumbnails", "invoices:2026-11", "geoip:update", "backup:wal", "user:31"),
)


def signed(name: str, process: str, *, held: float = -1, waits: float = -1) -> str:
    """What a session of advlock's on another host signs with, so many seconds later."""
    mark, ago = ("@", held) if held >= 0 else ("~", waits)
    return f"advlock:{name} {process} {mark}{_label._base36(int(time.time() - ago))}"


class Scene:
    """Sessions that stay until the end."""

    def __init__(self, dsn: str, stack: contextlib.ExitStack) -> None:
        self._dsn, self._stack = dsn, stack
        self.pids: dict[str, int] = {}

    def session(self, application: str, user: str | None = None) -> psycopg.Connection[Any]:
        """One more, which its application names."""
        chosen = {} if user is None else {"user": user}
        connection = psycopg.connect(
            self._dsn, autocommit=True, application_name=application, **chosen
        )
        self._stack.callback(connection.close)
        self.pids[application.removeprefix("advlock:").partition(" @")[0]] = (
            connection.info.backend_pid
        )
        return connection

    def holds(
        self, name: str, process: str, ago: float, user: str | None = None, *, shared: bool = False
    ) -> psycopg.Connection[Any]:
        """A session of advlock's that holds a lock since so many seconds."""
        connection = self.session(signed(name, process, held=ago), user)
        suffix = "_shared" if shared else ""
        connection.execute(f"SELECT pg_advisory_lock{suffix}(hashtextextended(%s, 0))", [name])
        connection.execute(_sql.HEARTBEAT)
        return connection

    def waits(self, name: str, process: str, ago: float, user: str | None = None) -> int:
        """One that waits for it since so many seconds; returns its server process."""
        connection = self.session(signed(name, process, waits=ago), user)
        query = "SELECT pg_advisory_lock(hashtextextended({}, 0))"
        self.waits_for(connection, sql.SQL(query).format(name).as_string(connection))
        return connection.info.backend_pid

    def waits_for(self, connection: psycopg.Connection[Any], query: str) -> None:
        """Send a query that waits for a lock, and see it in the queue."""
        connection.pgconn.send_query(query.encode())
        pid = connection.info.backend_pid
        with psycopg.connect(self._dsn, autocommit=True) as look:
            waiting = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
            eventually(lambda: look.execute(waiting, [pid]).fetchone() is not None)
        self._stack.callback(self._cancel, connection)

    def _cancel(self, connection: psycopg.Connection[Any]) -> None:
        if connection.pgconn.status == pq.ConnStatus.OK:
            connection.pgconn.get_cancel().cancel()


@contextlib.contextmanager
def night(dsn: str) -> Iterator[Scene]:
    """Everything that the documentation's pictures show."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_roles(dsn))
        scene = Scene(dsn, stack)
        scene.holds("nightly-report", "web-2:4242", 12 * MINUTE, "reports")
        scene.waits("nightly-report", "web-1:3391", 11 * MINUTE + 58, "reports")
        scene.waits("nightly-report", "web-3:7120", 4 * MINUTE + 2, "reports")
        scene.holds("deploy", "ci-7:99", 95, "ci")
        scene.holds("search:reindex", "worker-4:51", 2 * HOUR + 5 * MINUTE, "app")
        scene.holds("user:4711", "web-1:3388", 3, "app")
        scene.holds("user:90210", "web-3:7044", 1, "app")
        scene.holds("cache:warm-up", "worker-1:18", 41, "app")
        for host in (1, 2, 3):
            process = f"worker-{host}:7{host}"
            scene.holds("import:customers", process, 200 + host, "app", shared=True)
        scene.waits("import:customers", "worker-9:610", 62, "app")
        for number, name in enumerate(QUIET, 1):
            scene.holds(name, f"worker-{number % 5}:{600 + 7 * number}", 13 * number**2, "app")
        _others(scene)
        yield scene


def _others(scene: Scene) -> None:
    """Sessions that sign with no lock's name: only the server and the catalogue know of them."""
    psql = scene.session("psql", "alice")
    psql.execute("BEGIN")
    psql.execute("SELECT pg_advisory_xact_lock(hashtextextended('billing:close-month', 0))")
    scene.waits("billing:close-month", "billing-1:214", 9 * MINUTE + 41, "billing")
    flyway = scene.session("flyway", "ci")
    flyway.execute("SELECT pg_advisory_lock(7, 1001)")
    scene.session("metabase", "reports").execute("SELECT pg_advisory_lock(42)")
    # What node-pg-migrate locks.
    scene.session("node-pg-migrate", "ci").execute("SELECT pg_advisory_lock(7241865325823964)")


@contextlib.contextmanager
def _roles(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for role in ROLES:
            make_role(connection, role)
    yield
    # The roles stay: they own nothing, and other workers of the run may use them.


def make_role(admin: psycopg.Connection[Any], name: str) -> None:
    """Make a role that may log in, unless it is there; another worker may do so at once."""
    make = "DO $$ BEGIN CREATE ROLE {} LOGIN; EXCEPTION WHEN {} OR unique_violation THEN END $$"
    there = sql.SQL("duplicate_object")
    admin.execute(sql.SQL(make).format(sql.Identifier(name), there))
