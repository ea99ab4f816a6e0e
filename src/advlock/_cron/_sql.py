"""Every SQL text of the cron, named, each with its reason. Pure.

Many values travel as one JSON parameter, and answers as one JSON value: times in it are ISO 8601,
whatever a role's `DateStyle` is. Our sessions' search_path is pg_catalog (`advlock._sql`). A batch
of rows is changed in the order of the primary key, so that two hosts cannot deadlock.
"""

from __future__ import annotations

from typing import Final, LiteralString

# -- a pass ----------------------------------------------------------------------------------------

# The database's clock, how far each version of the jobs has been decided, what is paused, and every
# tick that is not over, with whether anybody holds its lock. pg_locks is read only if there is one.
LOOK: Final[LiteralString] = """
WITH held AS MATERIALIZED (
    SELECT (classid::int8 << 32) | objid::int8 AS key FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT jsonb_build_object(
    'now', clock_timestamp(),
    'server_since', pg_postmaster_start_time(),
    'sets', (
        SELECT jsonb_object_agg(hash, jsonb_build_array(created_at, decided_until))
        FROM advlock.cron_set),
    'pauses', (
        SELECT jsonb_object_agg(job, jsonb_build_array(
            least(until, clock_timestamp() + interval '100 years'), note, paused_by))
        FROM advlock.cron_pause WHERE until > clock_timestamp()),
    'active', (
        SELECT jsonb_agg(jsonb_build_object(
            'job', job, 'scheduled_at', scheduled_at, 'state', state, 'run_id', run_id,
            'host', host, 'pid', pid, 'claimed_at', claimed_at, 'started_at', started_at,
            'expires_at', expires_at, 'losses', losses, 'stop', stop,
            'by_hand', triggered_by IS NOT NULL, 'owner', owner,
            'owned', owner IS NOT NULL AND owner IN (SELECT key FROM held),
            'locked', key IS NOT NULL AND key IN (SELECT key FROM held))
            ORDER BY job, scheduled_at)
        FROM advlock.cron_run WHERE state IN ('claimed', 'queued', 'running')))
"""

SETS: Final[LiteralString] = """
SELECT jsonb_object_agg(hash, jobs) FROM advlock.cron_set
WHERE hash IN (SELECT jsonb_array_elements_text($1::jsonb))
"""

# One row a tick, whoever comes first; the primary key decides. $1: the ticks. $2: our version of
# the jobs: what it has been decided until is not decided again, also if history was pruned since.
# $3: how many may start to run here. $4: when we looked; for who was stopped for long since then,
# the answer is empty.
CLAIM: Final[LiteralString] = """
WITH tick AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS tick(
        job text, scheduled_at timestamptz, state text, reason text, run_id uuid, key int8,
        owner int8, host text, pid int, expires_at timestamptz, place int)
    WHERE clock_timestamp() < $4::timestamptz + interval '10 seconds'
      AND scheduled_at > coalesce((SELECT decided_until FROM advlock.cron_set WHERE hash = $2),
                                  '-infinity')
      AND NOT EXISTS (SELECT FROM advlock.cron_run AS run
                      WHERE run.job = tick.job AND run.scheduled_at = tick.scheduled_at)
), chosen AS (
    (SELECT * FROM tick WHERE state = 'claimed' ORDER BY place LIMIT $3::int)
    UNION ALL
    (SELECT * FROM tick WHERE state <> 'claimed')
), claimed AS (
    INSERT INTO advlock.cron_run
        (job, scheduled_at, state, reason, run_id, key, owner, host, pid, claimed_at, expires_at,
         finished_at)
    SELECT job, scheduled_at, state, reason, run_id, key, owner, host, pid, clock_timestamp(),
           expires_at, CASE WHEN state NOT IN ('claimed', 'queued') THEN clock_timestamp() END
    FROM chosen ORDER BY job, scheduled_at
    ON CONFLICT DO NOTHING
    RETURNING job, scheduled_at, run_id, state
)
SELECT jsonb_build_object(
    'claimed', coalesce(jsonb_agg(jsonb_build_array(job, scheduled_at, run_id))
                        FILTER (WHERE state = 'claimed'), '[]'),
    'left', (SELECT coalesce(jsonb_agg(DISTINCT job), '[]')
             FROM (SELECT job FROM tick WHERE state = 'claimed' ORDER BY place OFFSET $3::int)
                  AS rest),
    'in_time', clock_timestamp() < $4::timestamptz + interval '10 seconds')
FROM claimed
"""

# Take what waits in the queue, unless somebody else was quicker.
TAKE: Final[LiteralString] = """
WITH tick AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS tick(
        job text, scheduled_at timestamptz, run_id uuid, key int8, owner int8, host text, pid int)
), free AS (
    SELECT run.job, run.scheduled_at FROM advlock.cron_run AS run
    JOIN tick USING (job, scheduled_at)
    WHERE run.state = 'queued' ORDER BY run.job, run.scheduled_at FOR UPDATE OF run
), taken AS (
    UPDATE advlock.cron_run AS run
    SET state = 'claimed', run_id = tick.run_id, key = tick.key, owner = tick.owner,
        host = tick.host, pid = tick.pid, claimed_at = clock_timestamp(), started_at = NULL,
        finished_at = NULL, stop = NULL
    FROM tick JOIN free USING (job, scheduled_at)
    WHERE run.job = tick.job AND run.scheduled_at = tick.scheduled_at
    RETURNING run.job, run.scheduled_at, run.run_id
)
SELECT jsonb_agg(jsonb_build_array(job, scheduled_at, run_id)) FROM taken
"""

# From one state to another, if it is still the one, and the same run.
MOVE: Final[LiteralString] = """
WITH tick AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS tick(
        job text, scheduled_at timestamptz, was text, run_id uuid, state text, reason text,
        expires_at timestamptz, losses int)
), same AS (
    SELECT run.job, run.scheduled_at FROM advlock.cron_run AS run
    JOIN tick USING (job, scheduled_at)
    WHERE run.state = tick.was AND run.run_id IS NOT DISTINCT FROM tick.run_id
    ORDER BY run.job, run.scheduled_at FOR UPDATE OF run
), moved AS (
    UPDATE advlock.cron_run AS run
    SET state = tick.state, reason = tick.reason, expires_at = tick.expires_at,
        losses = run.losses + coalesce(tick.losses, 0),
        finished_at = CASE WHEN tick.state NOT IN ('claimed', 'queued', 'running')
                           THEN clock_timestamp() END
    FROM tick JOIN same USING (job, scheduled_at)
    WHERE run.job = tick.job AND run.scheduled_at = tick.scheduled_at
    RETURNING run.job, run.scheduled_at, run.state
)
SELECT jsonb_agg(jsonb_build_array(job, scheduled_at, state)) FROM moved
"""

# Until when all ticks of this version of the jobs are decided. It never goes back. $3: when we
# looked; for who comes too late to claim it does not move.
MARK: Final[LiteralString] = """
UPDATE advlock.cron_set SET decided_until = greatest(decided_until, $2::timestamptz)
WHERE hash = $1 AND clock_timestamp() < $3::timestamptz + interval '10 seconds'
"""

# -- one run ---------------------------------------------------------------------------------------

# The one moment at which a tick begins: only who claimed it last may, and only once. Asked while
# the lock is held, so another run of the job that is still down as running has lost its own. But
# if the server was restarted since ($4, or by its own word), that one may not know it yet, and its
# command may go on: for $5 seconds nothing starts. Nor as long as its scheduler lives, which will
# say itself how it ended ($9: who we are). $6: what becomes of a lost one.
START: Final[LiteralString] = """
WITH line AS (
    SELECT greatest(pg_postmaster_start_time(), $4::timestamptz) AS since
), other AS (
    SELECT run.job, run.scheduled_at, run.run_id, run.losses,
           (run.started_at < line.since
               AND clock_timestamp() < line.since + $5::float8 * interval '1 second')
           OR (run.owner <> $9::int8 AND run.owner IN (
                SELECT (classid::int8 << 32) | objid::int8 FROM pg_locks
                WHERE locktype = 'advisory' AND granted AND objsubid = 1
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           )) IS TRUE AS doubtful
    FROM advlock.cron_run AS run, line
    WHERE run.job = $1 AND run.state = 'running' AND run.scheduled_at <> $2::timestamptz
      AND $7::bool
), doubt AS (
    SELECT min(scheduled_at) AS scheduled_at FROM other WHERE doubtful
), ended AS (
    UPDATE advlock.cron_run AS run
    SET state = CASE WHEN $6::int > run.losses THEN 'queued' ELSE 'lost' END,
        reason = 'its lock was found free', losses = run.losses + 1,
        finished_at = CASE WHEN $6::int > run.losses THEN NULL ELSE clock_timestamp() END
    FROM other, doubt
    WHERE run.job = other.job AND run.scheduled_at = other.scheduled_at
      AND run.run_id = other.run_id AND run.state = 'running' AND doubt.scheduled_at IS NULL
), begun AS (
    UPDATE advlock.cron_run AS run
    SET state = 'running', started_at = clock_timestamp(), attempt = 1, token = $8::int8,
        expires_at = NULL
    FROM doubt
    WHERE run.job = $1 AND run.scheduled_at = $2::timestamptz AND run.run_id = $3::uuid
      AND run.state = 'claimed' AND doubt.scheduled_at IS NULL
    RETURNING run.started_at
)
SELECT jsonb_build_object('started_at', (SELECT started_at FROM begun),
                          'doubt', (SELECT scheduled_at FROM doubt))
"""

# The next attempt of a run that goes on.
AGAIN: Final[LiteralString] = """
UPDATE advlock.cron_run SET attempt = $4::int, reason = $5
WHERE job = $1 AND scheduled_at = $2::timestamptz AND run_id = $3::uuid AND state = 'running'
"""

# What came of it; also if somebody has found the lock free before, and put it down as lost: we know
# better. $9: what becomes of a lost one, as above.
FINISH: Final[LiteralString] = """
UPDATE advlock.cron_run
SET state = CASE WHEN $4 = 'lost' AND $9::int > losses THEN 'queued' ELSE $4 END,
    reason = CASE WHEN state = 'lost' THEN $5 ELSE coalesce($5, reason) END,
    exit_code = $6::int, output = $7, attempt = $8::int, stop = NULL,
    losses = losses + ($4 = 'lost' AND state = 'running')::int,
    finished_at = CASE WHEN $4 = 'lost' AND $9::int > losses THEN NULL ELSE clock_timestamp() END
WHERE job = $1 AND scheduled_at = $2::timestamptz AND run_id = $3::uuid
  AND state IN ('running', 'lost')
"""

# Ask the running one to make room ($3 says for whom), and let go of those that waited before.
REPLACE: Final[tuple[LiteralString, ...]] = (
    """
UPDATE advlock.cron_run SET stop = $3
WHERE job = $1 AND state = 'running' AND scheduled_at <> $2::timestamptz AND stop IS NULL
""",
    """
UPDATE advlock.cron_run SET state = 'skipped_overlap', reason = $3, finished_at = clock_timestamp()
WHERE job = $1 AND state = 'queued' AND scheduled_at < $2::timestamptz AND triggered_by IS NULL
""",
)

# History is bounded, and what is not over is no history. Nor is what no mark covers yet: without
# its row, whoever comes next would decide that tick again. The mark of one version of the jobs says
# nothing to another one, so while there are several, their ticks stay for a while.
PRUNE: Final[LiteralString] = """
DELETE FROM advlock.cron_run AS run
USING jsonb_to_recordset($1::jsonb) AS of(job text, keep int, max_age float8),
      LATERAL (SELECT least(
          greatest(
              clock_timestamp() - of.max_age * interval '1 second',
              (SELECT old.scheduled_at FROM advlock.cron_run AS old WHERE old.job = of.job
               ORDER BY old.scheduled_at DESC OFFSET of.keep - 1 LIMIT 1)),
          coalesce((SELECT max(decided_until) FROM advlock.cron_set WHERE jobs ? of.job),
                   '-infinity'),
          CASE WHEN (SELECT count(*) FROM advlock.cron_set WHERE jobs ? of.job
                     AND coalesce(decided_until, created_at)
                         > clock_timestamp() - interval '10 minutes') > 1
               THEN clock_timestamp() - interval '75 seconds' ELSE 'infinity' END) AS since
      ) AS horizon
WHERE run.job = of.job AND run.scheduled_at < horizon.since
  AND run.state NOT IN ('claimed', 'queued', 'running')
"""

# -- who takes part --------------------------------------------------------------------------------

JOIN: Final[tuple[LiteralString, ...]] = (
    """
INSERT INTO advlock.cron_set (hash, jobs) VALUES ($1, $2::jsonb) ON CONFLICT DO NOTHING
""",
    """
INSERT INTO advlock.cron_host (id, host, pid, source, hash)
VALUES ($1::uuid, $2, $3::int, $4, $5)
ON CONFLICT (id) DO UPDATE SET source = excluded.source, hash = excluded.hash,
                               seen_at = clock_timestamp()
""",
)
LEAVE: Final[LiteralString] = "DELETE FROM advlock.cron_host WHERE id = $1::uuid"

# What was not heard of for long, we forget. A version of the jobs is kept for a month: it says how
# far its ticks were decided.
FORGET: Final[tuple[LiteralString, ...]] = (
    "DELETE FROM advlock.cron_host WHERE seen_at < clock_timestamp() - interval '1 day'",
    """
DELETE FROM advlock.cron_set AS old
WHERE coalesce(decided_until, created_at) < clock_timestamp() - interval '32 days'
  AND NOT EXISTS (SELECT FROM advlock.cron_host AS host WHERE host.hash = old.hash)
""",
)
OTHERS: Final[LiteralString] = """
SELECT jsonb_agg(jsonb_build_object('host', host, 'pid', pid, 'source', source, 'hash', hash))
FROM advlock.cron_host
WHERE seen_at > clock_timestamp() - interval '15 seconds' AND id <> $1::uuid
"""
