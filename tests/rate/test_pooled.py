"""Behind a pooler in transaction mode a role's defaults are there before anything we say."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from bouncers import bouncer_before
from conformance.databases import connect
from conformance.hostile import SHADOWS, hostile_role
from postgres.helpers import one
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

from advlock import ConfigError, Locks, RateLimited, _schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('rate:x', 0))"
WAITS = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
TAKE = """
INSERT INTO advlock.rate_grant
SELECT hashtextextended('rate:x', 0), 1, 1, clock_timestamp(), 1, 0,
       clock_timestamp() + interval '1 hour'
"""


def asks(server: Server, setting: str, value: str, meanwhile: str) -> object:
    """Ask for the only permit while somebody else decides; return what came of it."""
    told: list[object] = []

    def take(acquire: Callable[..., object]) -> None:
        try:
            told.append(acquire(wait="20s"))
        except Exception as error:  # noqa: BLE001 - it is looked at
            told.append(error)

    path = {"search_path": "evil, public, pg_catalog"}
    with (
        hostile_role(server, {setting: value} | path, SHADOWS) as dsn,
        connect(server.dsn(str(conninfo_to_dict(dsn)["dbname"]))) as dba,
        bouncer_before(dsn, "transaction") as pooler,
    ):
        given = conninfo_to_dict(dsn)
        dba.execute(_schema.text(str(given["user"])).encode())
        with Locks(pooler.dsn(str(given["dbname"]))) as locks:
            thread = threading.Thread(target=take, args=[locks.rate_limit("x", 1, 3600).acquire])
            with dba.transaction():
                dba.execute(LOCK)
                thread.start()
                eventually(lambda: told or one(dba, WAITS), within=20)
                dba.execute(meanwhile.encode())
            thread.join(20)
    return told[0]


def test_what_was_granted_meanwhile_is_seen(server: Server) -> None:
    """Serializable transactions would look at the table as it was before the lock was granted."""
    told = asks(server, "default_transaction_isolation", "serializable", TAKE)
    assert isinstance(told, RateLimited), told


def test_a_role_that_only_reads_is_told_what_to_do(server: Server) -> None:
    """No statement of ours comes early enough; so it says which one of a DBA does."""
    told = asks(server, "default_transaction_read_only", "on", "SELECT 1")
    assert isinstance(told, ConfigError), told
    assert "default_transaction_read_only = off" in str(told)


@pytest.mark.parametrize("value", ["read committed"])
def test_a_permit_is_granted(server: Server, value: str) -> None:
    """The control: otherwise the role gets it."""
    told = asks(server, "default_transaction_isolation", value, "SELECT 1")
    assert told, told
