"""Every SQL text by which people look at the cron and control it, each with its reason. Pure.

As in `_sql`: answers are one JSON value, whose times are ISO 8601; our search_path is pg_catalog.
A pause may have been written by hand, until 'infinity', which is no time in ISO 8601.
"""

from __future__ import annotations

from typing import Final, LiteralString

# Every job that any version of the jobs has, or (-f) those that $1 names; what counts of several
# versions is the newest that a scheduler has now, else the one that was decided last. Its newest
# tick that is over comes by the primary key, what is not over by the partial index; pg_locks is
# read only if there is any.
OVERVIEW: Final[LiteralString] = """
WITH here AS MATERIALIZED (
    SELECT * FROM advlock.cron_host WHERE seen_at > clock_timestamp() - interval '15 seconds'
), version AS (
    SELECT hash, jobs, created_at, decided_until,
           hash IN (SELECT hash FROM here) AS live
    FROM advlock.cron_set
), known AS (
    SELECT DISTINCT ON (job.key) job.key AS name, job.value AS definition, live, created_at,
           decided_until
    FROM version, jsonb_each(jobs) AS job
    ORDER BY job.key, live DESC,
             CASE WHEN live THEN created_at ELSE greatest(created_at, decided_until) END DESC
), wanted AS (
    SELECT name FROM known WHERE $1::jsonb IS NULL
    UNION SELECT jsonb_array_elements_text($1::jsonb)
), held AS MATERIALIZED (
    SELECT (classid::int8 << 32) | objid::int8 AS key FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), active AS (
    SELECT job, jsonb_agg(jsonb_build_object(
        'state', state, 'scheduled_at', scheduled_at, 'host', host, 'pid', pid,
        'started_at', started_at, 'stop', stop,
        'locked', key IS NOT NULL AND key IN (SELECT key FROM held)) ORDER BY scheduled_at) AS ticks
    FROM advlock.cron_run WHERE state IN ('claimed', 'queued', 'running') GROUP BY job
)
SELECT jsonb_build_object(
    'now', clock_timestamp(),
    'hosts', (
        SELECT jsonb_agg(jsonb_build_object(
            'host', host, 'pid', pid, 'source', source, 'hash', hash, 'started_at', started_at)
            ORDER BY host, pid)
        FROM here),
    'pauses', (
        SELECT jsonb_object_agg(job, jsonb_build_array(
            least(until, clock_timestamp() + interval '100 years'), note, paused_by))
        FROM advlock.cron_pause WHERE until > clock_timestamp()),
    'jobs', (
        SELECT jsonb_agg(jsonb_build_object(
            'name', name, 'definition', definition, 'live', coalesce(live, false),
            'decided_until', decided_until, 'active', ticks, 'last', last.tick) ORDER BY name)
        FROM wanted LEFT JOIN known USING (name) LEFT JOIN active ON active.job = name
        LEFT JOIN LATERAL (
            SELECT jsonb_build_object(
                'state', run.state, 'scheduled_at', run.scheduled_at, 'host', run.host,
                'pid', run.pid, 'started_at', run.started_at, 'finished_at', run.finished_at
                ) AS tick
            FROM advlock.cron_run AS run
            WHERE run.job = name AND run.state NOT IN ('claimed', 'queued', 'running')
            ORDER BY run.scheduled_at DESC LIMIT 1) AS last ON true))
"""

# All there is to know of the job $1 but its ticks; the version of it that counts comes first.
ABOUT: Final[LiteralString] = """
WITH here AS MATERIALIZED (
    SELECT * FROM advlock.cron_host WHERE seen_at > clock_timestamp() - interval '15 seconds'
), version AS (
    SELECT hash, jobs -> $1::text AS definition, created_at, decided_until,
           hash IN (SELECT hash FROM here) AS live
    FROM advlock.cron_set WHERE jobs -> $1::text IS NOT NULL
)
SELECT jsonb_build_object(
    'now', clock_timestamp(),
    'versions', (
        SELECT jsonb_agg(jsonb_build_object(
            'definition', definition, 'created_at', created_at, 'decided_until', decided_until,
            'live', live)
            ORDER BY live DESC,
                CASE WHEN live THEN created_at ELSE greatest(created_at, decided_until) END DESC)
        FROM version),
    'hosts', (
        SELECT jsonb_agg(jsonb_build_object(
            'host', host, 'pid', pid, 'source', source, 'hash', hash, 'started_at', started_at)
            ORDER BY host, pid)
        FROM here JOIN version USING (hash)),
    'pause', (
        SELECT jsonb_build_array(
            least(until, clock_timestamp() + interval '100 years'), note, paused_by)
        FROM advlock.cron_pause WHERE job = $1::text AND until > clock_timestamp()))
"""

# Every name there is: of jobs, and of pauses that are left of jobs.
NAMES: Final[LiteralString] = """
SELECT jsonb_build_object(
    'jobs', (SELECT jsonb_agg(DISTINCT name ORDER BY name)
             FROM advlock.cron_set, jsonb_object_keys(jobs) AS name),
    'paused', (SELECT jsonb_agg(job ORDER BY job) FROM advlock.cron_pause))
"""

# The newest ticks of the job $1 from $2 to $3, in the states $4, at most $5; with their output if
# $6. Whether anybody holds the lock of one is asked only of those that are not over.
TICKS: Final[LiteralString] = """
SELECT jsonb_agg(tick ORDER BY scheduled_at DESC) FROM (
    SELECT scheduled_at, jsonb_build_object(
        'job', job, 'scheduled_at', scheduled_at, 'state', state, 'reason', reason,
        'run_id', run_id, 'token', token, 'host', host, 'pid', pid, 'claimed_at', claimed_at,
        'started_at', started_at, 'finished_at', finished_at, 'expires_at', expires_at,
        'attempt', attempt, 'losses', losses, 'exit_code', exit_code,
        'triggered_by', triggered_by, 'stop', stop,
        'output', CASE WHEN $6::bool THEN output END,
        'locked', CASE WHEN state IN ('claimed', 'queued', 'running') THEN EXISTS (
            SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 1
              AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (classid::int8 << 32) | objid::int8 = key) END) AS tick
    FROM advlock.cron_run
    WHERE job = $1
      AND scheduled_at BETWEEN coalesce($2::timestamptz, '-infinity')
                           AND coalesce($3::timestamptz, 'infinity')
      AND ($4::jsonb IS NULL OR state IN (SELECT jsonb_array_elements_text($4::jsonb)))
    ORDER BY scheduled_at DESC LIMIT $5::int8) AS newest
"""

# How many ticks of the job $1 there are after $2: as many as are kept explain a missing one.
NEWER: Final[LiteralString] = """
SELECT count(*) FROM advlock.cron_run WHERE job = $1 AND scheduled_at > $2::timestamptz
"""

# A tick of its own, for whichever scheduler takes it from the queue first.
TRIGGER: Final[LiteralString] = """
INSERT INTO advlock.cron_run (job, scheduled_at, state, reason, triggered_by)
VALUES ($1, clock_timestamp(), 'queued', $2, $3)
RETURNING to_json(scheduled_at) #>> '{}'
"""

# For $2 seconds from now; a second pause takes the place of the first.
PAUSE: Final[LiteralString] = """
WITH pause AS (
    INSERT INTO advlock.cron_pause (job, until, note, paused_by)
    SELECT job, statement_timestamp() + $2::float8 * interval '1 second', $3, $4
    FROM jsonb_array_elements_text($1::jsonb) AS job ORDER BY job
    ON CONFLICT (job) DO UPDATE SET until = excluded.until, note = excluded.note,
        paused_by = excluded.paused_by, paused_at = clock_timestamp()
    RETURNING job, until, note, paused_by
)
SELECT jsonb_object_agg(job, jsonb_build_array(until, note, paused_by)) FROM pause
"""

# End the pauses of the jobs $1, or all; tell which of them still counted.
RESUME: Final[LiteralString] = """
WITH pause AS (
    DELETE FROM advlock.cron_pause
    WHERE $1::jsonb IS NULL OR job IN (SELECT jsonb_array_elements_text($1::jsonb))
    RETURNING job, until
)
SELECT jsonb_agg(job ORDER BY job) FROM pause WHERE until > clock_timestamp()
"""
