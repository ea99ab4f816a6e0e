"""What docs/compare.md says of two other packages, done with them; what was seen, as JSON.

DSN: a PgBouncer in transaction mode whose pool is one server connection. DIRECT: the server.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import django
import psycopg
import sqlalchemy as sa
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 20  # seconds


def alias(dsn: str) -> dict[str, Any]:
    """Say a database as Django's settings name it."""
    given = conninfo_to_dict(dsn)
    words = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    found = {key: str(given.get(word, "")) for key, word in words.items()}
    return {"ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], **found}


POOLED, DIRECT = os.environ["DSN"], os.environ["DIRECT"]
settings.configure(
    DATABASES={"default": alias(DIRECT), "pooled": alias(POOLED)},
    INSTALLED_APPS=["pgactivity", "pglock"],
)
django.setup()

import pglock  # noqa: E402 - needs the settings above
from django.db import connections  # noqa: E402
from sqlalchemy_dlock import create_sadlock  # noqa: E402


def engine(dsn: str, **options: Any) -> sa.Engine:
    """Make an engine, without prepared statements, which an older PgBouncer does not know."""
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn, prepare_threshold=None),
        **options,
    )


def meanwhile(work: Callable[[], Any]) -> Any:
    """Do something in a thread, which has Django's connections for itself."""
    found = []

    def run() -> None:
        found.append(work())
        connections.close_all()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return found[0]


def locks() -> int:
    """How many advisory locks there are in the database."""
    with psycopg.connect(DIRECT) as session:
        (found,) = session.execute(HELD).fetchone() or (0,)
    return int(found)


def pglock_pooled() -> list[bool]:
    """Two at a time."""

    def attempt() -> bool:
        with pglock.advisory("job", timeout=0, using="pooled") as acquired:
            return acquired

    with pglock.advisory("job", timeout=0, using="pooled") as acquired:
        return [acquired, meanwhile(attempt)]


def pglock_lost() -> str:
    """Nothing is said when the session has gone, and the program has connected again."""
    with pglock.advisory("job", timeout=0):
        connections["default"].connection.close()
        connections["default"].close()
    return "no error"


def pglock_decorator() -> int:
    """Whoever is turned away takes the unlocking of the other with them."""
    inside, leave = threading.Event(), threading.Event()

    @pglock.advisory("job", timeout=0, side_effect=pglock.Skip)
    def work() -> None:
        inside.set()
        leave.wait(TIMEOUT)

    def turned_away() -> None:
        inside.wait(TIMEOUT)
        meanwhile(work)
        leave.set()

    other = threading.Thread(target=turned_away)
    other.start()
    work()
    other.join()
    return locks()


def dlock_pooled() -> list[bool]:
    """A COMMIT gives the server connection, and the lock with it, to whoever is next."""
    with engine(POOLED).connect() as one, engine(POOLED).connect() as two:
        first = create_sadlock(one, "job").acquire(block=False)
        one.commit()
        return [first, create_sadlock(two, "job").acquire(block=False)]


def dlock_session() -> list[bool]:
    """So does `Session.commit()` with an engine's own pool."""
    small = engine(DIRECT, pool_size=1, max_overflow=0)
    with Session(small) as one:
        first = create_sadlock(one, "job").acquire(block=False)
        one.commit()
        with Session(small) as two:
            return [first, create_sadlock(two, "job").acquire(block=False)]


def dlock_error() -> int:
    """An error of the database in the body: the lock goes to the pool."""
    large = engine(DIRECT)
    try:
        with large.connect() as one, create_sadlock(one, "job"):
            one.execute(sa.text("SELECT 1 / 0"))
    except sa.exc.InternalError:
        return locks()
    return 0


HELD = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
END = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
FACTS = (
    *(pglock_pooled, pglock_lost, pglock_decorator),
    *(dlock_pooled, dlock_session, dlock_error),
)


def main() -> None:
    """Look at each fact, on a server on which nobody has left anything."""
    seen = {}
    for fact in FACTS:
        seen[fact.__name__] = fact()
        connections.close_all()
        with psycopg.connect(DIRECT) as session:
            session.execute(END)
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
