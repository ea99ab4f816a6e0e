"""Locks and tokens when a standby becomes a server of its own, and the old primary lives on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors
from waiting import eventually

from .helpers import one
from .private_cluster import private_cluster, standby_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

KEY = 42
TRY = f"SELECT pg_try_advisory_lock({KEY})"
MINE = "SELECT array_agg(objid::int) FROM pg_locks WHERE locktype = 'advisory' AND granted"
XID = "SELECT pg_current_xact_id()::text::bigint"
# The name of a file of the log begins with the timeline, in eight hexadecimal digits.
TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint"
TOKEN = f"SELECT {TIMELINE} << 48 | pg_current_xact_id()::text::bigint"
IDENTITY = "SELECT system_identifier FROM pg_control_system()"
CHECKPOINT = "SELECT timeline_id FROM pg_control_checkpoint()"


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary and its hot standby.

    Attributes:
        old: A session on the primary.

        new: A session on the standby, the later primary.

        ordinary: A session on the primary, of a role without any privilege.
    """

    old: Connection[Any]
    new: Connection[Any]
    ordinary: Connection[Any]

    def promote(self) -> None:
        """Let the standby catch up and make it a primary too."""
        end = one(self.old, "SELECT pg_current_wal_flush_lsn()::text")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        eventually(lambda: one(self.new, replayed), message="the standby has caught up")
        assert one(self.new, "SELECT pg_promote()") is True


@pytest.fixture
def pair(dsn: str) -> Iterator[Pair]:
    """Run a primary and a standby that streams from it."""
    with (
        psycopg.connect(dsn, autocommit=True) as superuser,
        private_cluster(superuser) as primary,
        standby_of(primary) as standby,
        closing(primary.connect()) as old,
        closing(standby.connect()) as new,
    ):
        old.execute("CREATE ROLE ordinary LOGIN")
        with closing(primary.connect(user="ordinary")) as ordinary:
            yield Pair(old, new, ordinary)


def test_a_standby_grants_what_its_primary_has_granted(pair: Pair) -> None:
    """Both hold the same key, before the promotion and after it; only the standby says what it is.

    Its session lives through the promotion, so only a question tells that the server has changed.
    """
    assert [one(side, TRY) for side in (pair.old, pair.new)] == [True, True]
    recovery = "SELECT pg_is_in_recovery()"
    assert [one(side, recovery) for side in (pair.old, pair.new)] == [False, True]
    with pytest.raises(errors.ReadOnlySqlTransaction):
        one(pair.new, XID)
    backend = one(pair.new, "SELECT pg_backend_pid()")
    pair.promote()
    assert [one(side, recovery) for side in (pair.old, pair.new)] == [False, False]
    assert [one(side, MINE) for side in (pair.old, pair.new)] == [[KEY], [KEY]]
    assert one(pair.new, "SELECT pg_backend_pid()") == backend


def test_only_the_timeline_tells_two_primaries_apart(pair: Pair) -> None:
    """The log's file name has the new timeline at once; the last checkpoint has the old one.

    The system identifier is the same on both sides, and an ordinary role may read all of them.
    """
    # Something to write for the checkpoint that a promotion asks for: it takes its time for that.
    pair.old.execute("CREATE TABLE filler AS SELECT generate_series(1, 50000)")
    pair.promote()
    timelines = [one(side, f"SELECT {TIMELINE}") for side in (pair.old, pair.new)]
    assert timelines == [1, 2]
    assert one(pair.new, CHECKPOINT) == 1
    assert one(pair.old, IDENTITY) == one(pair.new, IDENTITY) == one(pair.ordinary, IDENTITY)
    assert one(pair.ordinary, f"SELECT {TIMELINE}") == 1


def test_tokens_with_the_timeline_order_two_primaries(pair: Pair) -> None:
    """Both hand out the same transaction ids; with the timeline above them the new one's rise."""
    pair.promote()
    old = [one(pair.old, XID) for _ in range(3)]
    new = [one(pair.new, XID) for _ in range(3)]
    assert set(old) & set(new)
    before, after = one(pair.old, TOKEN), one(pair.new, TOKEN)
    assert (before >> 48, after >> 48) == (1, 2)
    assert before < after < 2**63
    assert one(pair.new, TOKEN) > after
