"""Every SQL text of `advlock.apscheduler`, named, each with its reason. Pure."""

from __future__ import annotations

from typing import Final, LiteralString

# A tick is known for a day, in which even the slowest scheduler has asked for it; without this, a
# job of every second would leave 86 400 rows a day for a month, as long as `once` keeps those of a
# window that is over. $1: what our rows begin with. $2: the window in seconds, after which a row
# means nothing any more. A bounded number at a time, and not what somebody is at. It goes with what
# comes before all that `once` writes: a short wait for the table, and pg_catalog for the operators.
PRUNE: Final[LiteralString] = """
DELETE FROM advlock.once AS old
USING (SELECT name FROM advlock.once
       WHERE pg_catalog.starts_with(name, $1) AND done_at IS NOT NULL AND claimed_at = started_at
         AND started_at < pg_catalog.clock_timestamp() - $2::float8 * interval '1 second'
       LIMIT 10000 FOR UPDATE SKIP LOCKED) AS stale
WHERE old.name = stale.name
"""
