"""The SQL of rate limits, each text with its reason. Pure."""

from __future__ import annotations

from typing import Final, LiteralString

# The transaction that decides must not wait for a disk while it holds the lock, or all clients
# would wait one after the other: `FLUSH` does that afterwards, for many of them at once. $1: so
# long it waits for the lock.
SETTINGS: Final[LiteralString] = """
SELECT pg_catalog.set_config('lock_timeout', $1, true),
       pg_catalog.set_config('synchronous_commit', 'off', true)
"""
# A statement of its own: the next one must not see the table as it was before the lock was granted
# (tests/postgres/test_rate_snapshots.py).
LOCK: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_xact_lock($1::pg_catalog.int8)"

# Whoever may make triggers, as after GRANT ALL, need not be the owner, so that is asked each time.
# EXPLAIN carries nothing out, but locks the table as an INSERT does, until the transaction ends: so
# nobody makes a trigger between the question and what follows. (LOCK TABLE is refused in a pipeline
# by older servers.) A foreign key is a trigger, too, which calls those of its owner.
STILL: Final[LiteralString] = "EXPLAIN INSERT INTO advlock.rate_grant DEFAULT VALUES"
UNTOUCHED: Final[LiteralString] = """
SELECT ('the trigger ' || pg_catalog.quote_ident(trigger.tgname) || ' calls what belongs to '
        || pg_catalog.quote_ident(owner.rolname))::int8
FROM pg_catalog.pg_trigger AS trigger
JOIN pg_catalog.pg_proc AS function ON function.oid = trigger.tgfoid
JOIN pg_catalog.pg_roles AS owner ON owner.oid = function.proowner
JOIN pg_catalog.pg_roles AS me ON me.rolname = current_user
WHERE trigger.tgrelid = 'advlock.rate_grant'::regclass
  AND (trigger.tgisinternal OR owner.oid <> me.oid AND NOT owner.rolsuper
       AND (me.rolsuper OR owner.oid <> (SELECT datdba FROM pg_catalog.pg_database
                                         WHERE datname = pg_catalog.current_database())))
"""

# Permits are numbered; a row has those from `first` to `upto`, which are good from `at` on. Number
# m must not be granted before number m - limit is `per` old, and none before those in front of it,
# so two rows decide: the last one, and the one with number m - limit. Both are found by the primary
# key, however many rows there are. A recorded time may be ahead of the clock: of a permit that
# its taker still waits for, or because the clock was set back. By what the last row says, all up to
# `past` were over when it was written, for a window as long as its own: those are not searched,
# because a long transaction keeps the dead entries of millions that were cleaned up.
#
# $1: the key; $2: how many each request wants, in the order in which they are to be served; $3: so
# many microseconds it may be ahead of the clock, or else nothing is recorded; $4: the limit; $5:
# the window, and $6: the distance that two permits keep, in microseconds; $7: what falls into the
# same so many microseconds shares a row, which then counts from its last permit; $8: a clock that
# is asked instead of the server's.
# The answer, for each request: microseconds from now until its permits are good; whether they are
# granted; whether the clock was set back, as no permit is ever granted so far ahead; and the number
# of the last permit before.
DECIDE: Final[LiteralString] = """
WITH clock AS MATERIALIZED (
    SELECT coalesce($8::timestamptz, clock_timestamp()) AS now
), last AS MATERIALIZED (
    SELECT first, upto, at, least(n, $4::int8) AS n,
           CASE WHEN until >= at + $5::int8 * interval '1 microsecond' THEN past ELSE 0 END AS past
    FROM advlock.rate_grant WHERE key = $1::int8 ORDER BY first DESC LIMIT 1
), asked AS (
    SELECT k, n, ahead, (sum(n) OVER (ORDER BY k) - n)::int8 AS before
    FROM ROWS FROM (unnest($2::int8[]), unnest($3::int8[])) WITH ORDINALITY AS ask(n, ahead, k)
), placed AS (
    SELECT k, asked.n, ahead, before,
           max(greatest(clock.now, last.at + last.n * $6::int8 * interval '1 microsecond',
                        pivot.at + $5::int8 * interval '1 microsecond')
               - before * $6::int8 * interval '1 microsecond') OVER (ORDER BY k)
           + before * $6::int8 * interval '1 microsecond' AS at
    FROM asked CROSS JOIN clock LEFT JOIN last ON true LEFT JOIN LATERAL (
        SELECT row.at FROM advlock.rate_grant AS row
        WHERE row.key = $1::int8 AND row.first > last.past
          AND row.first <= last.upto + before + asked.n - $4::int8
        ORDER BY row.first DESC LIMIT 1
    ) AS pivot ON true
), decided AS MATERIALIZED (
    SELECT k, n, before, at, bool_and(at <= clock.now + ahead * interval '1 microsecond')
                             OVER (ORDER BY k) AS granted
    FROM placed CROSS JOIN clock
), recorded AS (
    INSERT INTO advlock.rate_grant AS row (key, first, upto, at, n, past, until)
    SELECT $1::int8,
           CASE WHEN bin = date_bin($7::int8 * interval '1 microsecond', min(last.at), 'epoch')
                THEN min(last.first) ELSE coalesce(min(last.upto), 0) + min(before) + 1 END,
           coalesce(min(last.upto), 0) + max(before + decided.n), max(decided.at),
           (array_agg(decided.n ORDER BY k DESC))[1],
           greatest(0, min(last.past),
                    coalesce(min(last.upto), 0) + max(before + decided.n) - $4::int8),
           max(decided.at) + $5::int8 * interval '1 microsecond'
    FROM (SELECT *, date_bin($7::int8 * interval '1 microsecond', at, 'epoch') AS bin
          FROM decided WHERE granted) AS decided LEFT JOIN last ON true
    GROUP BY bin
    ON CONFLICT (key, first) DO UPDATE
    SET upto = excluded.upto, at = excluded.at, n = excluded.n, past = excluded.past,
        until = excluded.until
)
SELECT (extract(epoch FROM decided.at - clock.now) * 1000000)::int8, decided.granted,
       coalesce(last.at > clock.now + interval '100 milliseconds', false), coalesce(last.upto, 0),
       set_config('advlock.rate', CASE WHEN bool_or(granted) OVER () THEN 'yes' ELSE '' END, false)
FROM decided CROSS JOIN clock LEFT JOIN last ON true ORDER BY k
"""

# To plan that takes ten times as long as to do it, and others wait for the lock meanwhile: so it is
# prepared, once a session. EXECUTE takes no parameters, hence the settings; and whatever the
# statistics say of a table that fills and empties all the time, the primary key is the way.
PREPARE: Final[LiteralString] = "PREPARE advlock_rate AS " + DECIDE
PREPARE_UNTOUCHED: Final[LiteralString] = "PREPARE advlock_rate_untouched AS " + UNTOUCHED
EXECUTE_UNTOUCHED: Final[LiteralString] = "EXECUTE advlock_rate_untouched"
PREPARED_SETTINGS: Final[LiteralString] = """
SELECT pg_catalog.set_config('lock_timeout', $1, true),
       pg_catalog.set_config('synchronous_commit', 'off', true),
       pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true),
       pg_catalog.set_config('enable_seqscan', 'off', true),
       pg_catalog.set_config('enable_bitmapscan', 'off', true),
       pg_catalog.set_config('advlock.rate_key', $2, true),
       pg_catalog.set_config('advlock.rate_wants', $3, true),
       pg_catalog.set_config('advlock.rate_ahead', $4, true),
       pg_catalog.set_config('advlock.rate_limit', $5, true),
       pg_catalog.set_config('advlock.rate_per', $6, true),
       pg_catalog.set_config('advlock.rate_apart', $7, true),
       pg_catalog.set_config('advlock.rate_bin', $8, true)
"""
EXECUTE: Final[LiteralString] = """
EXECUTE advlock_rate(
    current_setting('advlock.rate_key')::int8, current_setting('advlock.rate_wants')::int8[],
    current_setting('advlock.rate_ahead')::int8[], current_setting('advlock.rate_limit')::int8,
    current_setting('advlock.rate_per')::int8, current_setting('advlock.rate_apart')::int8,
    current_setting('advlock.rate_bin')::int8, NULL)
"""

# After the lock is free: what was granted must not be granted again after a crash, so it has to be
# on disk before anybody hears of it. The commit of this message waits for the log up to here, and
# does so together with the commits of others. It writes nothing where that is on disk already. $1:
# only if `DECIDE` has granted something, on the same session.
FLUSH: Final[LiteralString] = """
SELECT CASE WHEN pg_catalog.pg_current_wal_insert_lsn() > pg_catalog.pg_current_wal_flush_lsn()
            THEN pg_catalog.pg_logical_emit_message(true, 'advlock', '') END
WHERE NOT $1::bool OR pg_catalog.current_setting('advlock.rate', true) = 'yes'
"""

# The clock was set back: what is dated far ahead of it is good in 50 milliseconds at the latest,
# because nothing is granted further ahead (`_plan.AHEAD`). So nobody waits for it much longer than
# `per`. A row keeps the window that it was written for. $1: the key; $2 as $8 above.
REDATE: Final[LiteralString] = """
UPDATE advlock.rate_grant
SET at = clock.soon, until = clock.soon + (until - at)
FROM (SELECT coalesce($2::timestamptz, clock_timestamp()) + interval '50 milliseconds' AS soon)
     AS clock
WHERE key = $1::int8 AND at > clock.soon + interval '50 milliseconds'
"""

# How many permits count now, and microseconds until none of them does. $1: the key; $2: the window.
STATS: Final[LiteralString] = """
SELECT coalesce(sum(upto - first + 1), 0)::int8,
       coalesce((extract(epoch FROM max(at) + $2::int8 * interval '1 microsecond'
                                    - clock_timestamp()) * 1000000)::int8, 0)
FROM advlock.rate_grant
WHERE key = $1::int8 AND at > clock_timestamp() - $2::int8 * interval '1 microsecond'
"""

# What has expired goes: of this key, and of a thousand rows from a random place on, because nobody
# asks for most keys ever again (`user:{id}`). Rows that somebody else removes are left to him. It
# needs no lock: a permit that has expired counts as one that never was. $2 of the first: what this
# client has removed already, whose dead entries a long transaction may keep in the index.
# So many at a time that it comes to an end, and with it forward, whatever there is to do.
SWEEP_SETTINGS: Final[LiteralString] = """
SELECT pg_catalog.set_config('lock_timeout', '10ms', true),
       pg_catalog.set_config('statement_timeout', '250ms', true),
       pg_catalog.set_config('synchronous_commit', 'off', true)
"""
SWEEP: Final[LiteralString] = """
WITH gone AS (
    DELETE FROM advlock.rate_grant AS row
    USING (SELECT key, first FROM advlock.rate_grant
           WHERE key = $1::int8 AND first > $2::int8
             AND until < clock_timestamp() - interval '1 second'
           ORDER BY first LIMIT 5000 FOR UPDATE SKIP LOCKED) AS expired
    WHERE row.key = expired.key AND row.first = expired.first
    RETURNING row.first
)
SELECT coalesce(max(first), $2::int8) FROM gone
"""
SWEEP_OTHERS: Final[LiteralString] = """
DELETE FROM advlock.rate_grant AS row
USING (SELECT here.key, here.first
       FROM (SELECT key, first FROM advlock.rate_grant WHERE key >= $1::int8
             ORDER BY key, first LIMIT 1000) AS here
       JOIN advlock.rate_grant AS old USING (key, first)
       WHERE old.until < clock_timestamp() - interval '1 second'
       FOR UPDATE OF old SKIP LOCKED) AS expired
WHERE row.key = expired.key AND row.first = expired.first
"""
FORGET: Final[LiteralString] = "DELETE FROM advlock.rate_grant WHERE key = $1::int8"
