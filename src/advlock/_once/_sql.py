"""Every SQL text of `once`, named, each with its reason. Pure.

One row a name. `token`, `run_id`, `host`, `pid` and `claimed_at` are those of who began last;
`done_…` and `started_at` are those of who came to the end last, and NULL as long as nobody did.
"""

from __future__ import annotations

from typing import Final, LiteralString

# A statement must not wait on a session that others share: somebody may rewrite the table. And
# behind a pooler the search_path is what the owner of the database wants, whose operators would run
# with our rights. For the transaction of the next one, in the same round trip.
HASTE: Final[LiteralString] = """
SELECT pg_catalog.set_config('lock_timeout', '1s', true),
       pg_catalog.set_config('search_path', 'pg_catalog', true)
"""

# As `_schema_sql.TRUSTED`, where something is written: whoever may make a trigger, as after GRANT
# ALL, need not be the owner. It is a cheap question where there is none.
TRIGGERS: Final[LiteralString] = """
SELECT ('a trigger belongs to ' OPERATOR(pg_catalog.||)
        pg_catalog.quote_ident(owner.rolname))::integer
FROM pg_catalog.pg_trigger AS trigger
JOIN pg_catalog.pg_proc AS proc ON proc.oid OPERATOR(pg_catalog.=) trigger.tgfoid
JOIN pg_catalog.pg_roles AS owner ON owner.oid OPERATOR(pg_catalog.=) proc.proowner
WHERE trigger.tgrelid OPERATOR(pg_catalog.=) 'advlock.once'::pg_catalog.regclass
  AND owner.rolname OPERATOR(pg_catalog.<>) CURRENT_USER AND NOT owner.rolsuper
  AND (pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on'
       OR owner.oid OPERATOR(pg_catalog.<>) (
           SELECT datdba FROM pg_catalog.pg_database
           WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))
"""

# Before `TRIGGERS`: nobody makes one between that and the statement that writes. In DO, because a
# pipeline is no transaction block to older servers.
STILL: Final[LiteralString] = """
DO LANGUAGE plpgsql $advlock$
BEGIN
    LOCK TABLE ONLY advlock.once IN ROW EXCLUSIVE MODE;
END
$advlock$
"""
STILL_HERE: Final[LiteralString] = "LOCK TABLE ONLY advlock.once IN ROW EXCLUSIVE MODE"

# Was it done? One row also where there is none, so that the server's clock comes along. The last
# column matters in the caller's own transaction only. Who sets `done_at` by hand may leave out the
# beginning.
LOOK: Final[LiteralString] = """
SELECT extract(epoch FROM pg_catalog.clock_timestamp()),
       extract(epoch FROM known.done_at),
       extract(epoch FROM coalesce(known.started_at, known.done_at)),
       known.done_host, known.done_pid, known.done_token, known.run_id, known.token, known.key,
       pg_catalog.current_setting('transaction_isolation')
FROM (SELECT) AS always
LEFT JOIN advlock.once AS known ON known.name OPERATOR(pg_catalog.=) $1
"""

# Does anybody hold this key? Asked where the row says another one than we hold.
HELD: Final[LiteralString] = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_lock_status() AS lock
    JOIN pg_catalog.pg_database AS here ON here.oid OPERATOR(pg_catalog.=) lock.database
    WHERE here.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
      AND lock.locktype OPERATOR(pg_catalog.=) 'advisory' AND lock.granted
      AND lock.objsubid OPERATOR(pg_catalog.=) 1::smallint
      AND (lock.classid::bigint OPERATOR(pg_catalog.<<) 32
           OPERATOR(pg_catalog.|) lock.objid::bigint) OPERATOR(pg_catalog.=) $1::bigint)
"""

# Begin. Asked while the lock is held; that it is refused where the row has changed since we looked
# is for those who have lost the lock and do not know it yet. Not by the order of tokens: they begin
# anew with a new cluster, and the row may have been restored into it. What was done is remembered
# until the next one comes to its end.
# $1: the name. $2: the lock's key. $3: the token. $4-$6: who. $7: the window in seconds, or NULL.
# $8: whose run the row said when we looked; NULL for no row.
CLAIM: Final[LiteralString] = """
INSERT INTO advlock.once AS known (name, key, token, run_id, host, pid, claimed_at, per)
VALUES ($1, $2::bigint, $3::bigint, $4::pg_catalog.uuid, $5, $6::integer,
        pg_catalog.clock_timestamp(), $7::double precision)
ON CONFLICT (name) DO UPDATE
SET key = excluded.key, token = excluded.token, run_id = excluded.run_id, host = excluded.host,
    pid = excluded.pid, claimed_at = excluded.claimed_at, per = excluded.per
WHERE known.run_id OPERATOR(pg_catalog.=) $8::pg_catalog.uuid
  AND (known.done_at IS NULL
       OR excluded.claimed_at OPERATOR(pg_catalog.>=) (
           coalesce(known.started_at, known.done_at) OPERATOR(pg_catalog.+)
           (excluded.per OPERATOR(pg_catalog.*) interval '1 second')))
RETURNING known.name
"""

# It is done, if nobody has begun since. The window is counted from the beginning.
MARK: Final[LiteralString] = """
UPDATE advlock.once
SET started_at = claimed_at, done_at = pg_catalog.clock_timestamp(), done_token = token,
    done_host = host, done_pid = pid
WHERE name OPERATOR(pg_catalog.=) $1 AND run_id OPERATOR(pg_catalog.=) $2::pg_catalog.uuid
RETURNING name
"""

# In the caller's transaction: others may read that it is done as soon as that has committed, so it
# must not be undone by a crash.
ENDURE: Final[LiteralString] = """
SELECT pg_catalog.set_config('synchronous_commit', 'local', true)
WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
"""

# A window that is over is the same as no known. They go a month later, a bounded number at a time,
# or names such as `import:2026-11-26` would grow the table for ever; also what came to no end,
# unless somebody is at it still. The second condition is for the index: rows without a window are
# not read, however many they are.
PRUNE: Final[LiteralString] = """
DELETE FROM advlock.once AS old
USING (SELECT name FROM advlock.once
       WHERE per IS NOT NULL
         AND claimed_at < pg_catalog.statement_timestamp() - interval '30 days'
         AND claimed_at < pg_catalog.statement_timestamp() - interval '30 days'
                          - per * interval '1 second'
         AND key NOT IN (
             SELECT (classid::int8 << 32) | objid::int8 FROM pg_catalog.pg_locks
             WHERE locktype = 'advisory' AND granted AND objsubid = 1)
       LIMIT 1000 FOR UPDATE SKIP LOCKED) AS stale
WHERE old.name = stale.name
"""

# All of them, for people; with whether anybody holds the lock now. pg_locks is read once.
LIST: Final[LiteralString] = """
WITH held AS MATERIALIZED (
    SELECT (classid::int8 << 32) | objid::int8 AS key FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database())
)
SELECT name, key IN (SELECT key FROM held),
       extract(epoch FROM claimed_at), token, host, pid, run_id, per,
       extract(epoch FROM coalesce(started_at, done_at)), extract(epoch FROM done_at),
       done_token, done_host, done_pid
FROM advlock.once ORDER BY name COLLATE "C"
"""

FORGET: Final[LiteralString] = "DELETE FROM advlock.once WHERE name = $1 RETURNING name"
