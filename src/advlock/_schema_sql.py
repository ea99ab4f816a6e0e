"""The SQL that makes the tables of advlock, each text with its reason. Pure."""

from __future__ import annotations

from typing import Final, LiteralString

# Before anything touches the tables: whoever owns one of them, the schema or the function of a
# trigger has code run with the rights of whoever reads or writes there, and can forge what stands
# there. So it must be somebody who could do so anyway, as for names (`_names_sql`). Catalogs only;
# and an error where it is not so, which keeps the statements behind it from being carried out: the
# text, which names who that is, is no number. Operators are qualified, because the search_path may
# be anybody's: the owner's of the database behind a pooler, the caller's in his transaction. The
# tables are `_schema.TABLES`; what else there is in the schema is not ours.
TRUSTED: Final[LiteralString] = """
SELECT (part.what OPERATOR(pg_catalog.||) ' belongs to ' OPERATOR(pg_catalog.||)
        pg_catalog.quote_ident(owner.rolname))::pg_catalog.int8
FROM pg_catalog.pg_namespace AS space
CROSS JOIN LATERAL (
    SELECT 'the schema advlock', space.nspowner
    UNION ALL
    SELECT 'advlock.' OPERATOR(pg_catalog.||) class.relname::pg_catalog.text, class.relowner
    FROM pg_catalog.pg_class AS class
    WHERE class.relnamespace OPERATOR(pg_catalog.=) space.oid
      AND class.relname OPERATOR(pg_catalog.=) ANY (
          '{migration,cron_run,cron_set,cron_host,cron_pause,lock_name,once,rate_grant}'
          ::pg_catalog.name[])
    UNION ALL
    SELECT 'a trigger''s function', function.proowner
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_trigger AS trigger ON trigger.tgrelid OPERATOR(pg_catalog.=) class.oid
    JOIN pg_catalog.pg_proc AS function ON function.oid OPERATOR(pg_catalog.=) trigger.tgfoid
    WHERE class.relnamespace OPERATOR(pg_catalog.=) space.oid
      AND class.relname OPERATOR(pg_catalog.=) ANY (
          '{migration,cron_run,cron_set,cron_host,cron_pause,lock_name,once,rate_grant}'
          ::pg_catalog.name[])
) AS part(what, owner)
JOIN pg_catalog.pg_roles AS owner ON owner.oid OPERATOR(pg_catalog.=) part.owner
JOIN pg_catalog.pg_roles AS me ON me.rolname OPERATOR(pg_catalog.=) CURRENT_USER
WHERE space.nspname OPERATOR(pg_catalog.=) 'advlock'
  AND owner.oid OPERATOR(pg_catalog.<>) me.oid AND NOT owner.rolsuper
  AND (me.rolsuper OR owner.oid OPERATOR(pg_catalog.<>) (
           SELECT datdba FROM pg_catalog.pg_database
           WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()))
"""

# What there is: 0 for nothing. A newer advlock may have been here; it keeps what we need.
VERSION: Final[LiteralString] = """
SELECT CASE WHEN to_regclass('advlock.migration') IS NULL THEN 0 ELSE 1 END
"""
APPLIED: Final[LiteralString] = "SELECT coalesce(max(version), 0) FROM advlock.migration"
CURRENT_USER: Final[LiteralString] = "SELECT quote_ident(current_user)"

# May this role make a later version of the tables? Asked first where the tables that are there do,
# because a refusal would stand in the server's log, each time that a program starts. Only an owner
# may grant others the use of the schema.
MAY_MAKE: Final[LiteralString] = """
SELECT pg_catalog.has_schema_privilege(oid, 'CREATE')
       AND pg_catalog.pg_has_role(nspowner, 'USAGE')
FROM pg_catalog.pg_namespace WHERE nspname = 'advlock'
"""

SCHEMA_LOCK: Final[tuple[LiteralString, ...]] = (
    "SELECT pg_catalog.set_config('lock_timeout', '10s', true)",
    "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('advlock: schema', 0))",
)

# Each version is a list of statements that may be repeated: two hosts may come at once, and the
# lock above only lets them queue. Later versions only add, so that older hosts go on working.
MIGRATIONS: Final[dict[int, tuple[LiteralString, ...]]] = {
    1: (
        "CREATE SCHEMA IF NOT EXISTS advlock",
        """\
CREATE TABLE IF NOT EXISTS advlock.migration (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
        """\
CREATE TABLE IF NOT EXISTS advlock.cron_run (
    job text NOT NULL,
    scheduled_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN (
        'claimed', 'queued', 'running', 'succeeded', 'failed', 'timeout', 'lost',
        'skipped_overlap', 'skipped_missed', 'skipped_paused')),
    reason text,
    run_id uuid,
    attempt integer NOT NULL DEFAULT 1,
    losses integer NOT NULL DEFAULT 0,
    key bigint,
    owner bigint,
    token bigint,
    host text,
    pid integer,
    claimed_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    triggered_by text,
    stop text,
    exit_code integer,
    output text,
    PRIMARY KEY (job, scheduled_at)
)""",
        """\
CREATE INDEX IF NOT EXISTS cron_run_active ON advlock.cron_run (state)
    WHERE state IN ('claimed', 'queued', 'running')""",
        """\
CREATE TABLE IF NOT EXISTS advlock.cron_set (
    hash text PRIMARY KEY,
    jobs jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_until timestamptz
)""",
        """\
CREATE TABLE IF NOT EXISTS advlock.cron_host (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    source text NOT NULL,
    hash text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
        """\
CREATE TABLE IF NOT EXISTS advlock.cron_pause (
    job text PRIMARY KEY,
    until timestamptz NOT NULL,
    note text,
    paused_by text,
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
        "INSERT INTO advlock.migration (version) VALUES (1) ON CONFLICT DO NOTHING",
    ),
    2: (
        """\
CREATE TABLE IF NOT EXISTS advlock.lock_name (
    key bigint NOT NULL,
    name text NOT NULL,
    scheme text NOT NULL,
    seed bigint NOT NULL DEFAULT 0,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (key, name)
)""",
        "CREATE INDEX IF NOT EXISTS lock_name_seen ON advlock.lock_name (seen_at)",
        "GRANT USAGE ON SCHEMA advlock TO pg_monitor",
        "GRANT SELECT ON advlock.lock_name TO pg_monitor",
        "INSERT INTO advlock.migration (version) VALUES (2) ON CONFLICT DO NOTHING",
    ),
    3: (
        """\
CREATE TABLE IF NOT EXISTS advlock.once (
    name text PRIMARY KEY,
    key bigint NOT NULL,
    token bigint NOT NULL,
    run_id uuid NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    claimed_at timestamptz NOT NULL,
    per double precision,
    started_at timestamptz,
    done_at timestamptz,
    done_token bigint,
    done_host text,
    done_pid integer
)""",
        # For those who clean up: what was done for ever may be very much.
        """\
CREATE INDEX IF NOT EXISTS once_window ON advlock.once (claimed_at)
    WHERE per IS NOT NULL""",
        "GRANT SELECT ON advlock.once TO pg_monitor",
        "INSERT INTO advlock.migration (version) VALUES (3) ON CONFLICT DO NOTHING",
    ),
    4: (
        # `until` is for those who clean up. Room on each page, so that an update stays on it.
        """\
CREATE TABLE IF NOT EXISTS advlock.rate_grant (
    key bigint NOT NULL,
    first bigint NOT NULL,
    upto bigint NOT NULL,
    at timestamptz NOT NULL,
    n bigint NOT NULL,
    past bigint NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (key, first)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)""",
        "GRANT SELECT ON advlock.rate_grant TO pg_monitor",
        "INSERT INTO advlock.migration (version) VALUES (4) ON CONFLICT DO NOTHING",
    ),
}
