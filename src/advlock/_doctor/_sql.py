"""Every SQL text that the doctor sends, each with its reason.

It only reads, and locks one private key. Nothing is concatenated into these texts, names are
schema-qualified, and a session behind a pooler is left as it was: other clients get it next.
"""

from __future__ import annotations

from typing import Final, LiteralString

# Asked before anything is known. Neither a role's statement_timeout nor its waiting for a safe
# snapshot may stop it; LOCAL, because the session may be a pooler's.
WHO_ANSWERS: Final[LiteralString] = (
    "SET LOCAL statement_timeout = 0; SET LOCAL transaction_isolation = 'read committed'; "
    "SELECT pg_catalog.pg_backend_pid()"
)
WHO_ANSWERS_PLAINLY: Final[LiteralString] = "SELECT pg_catalog.pg_backend_pid()"

# For a session that is ours alone, the same two for good.
SET_TIMEOUT: Final[LiteralString] = "SET statement_timeout = 0"
SET_ISOLATION: Final[LiteralString] = "SET default_transaction_isolation = 'read committed'"

BEGIN: Final[LiteralString] = "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED"
ROLLBACK: Final[LiteralString] = "ROLLBACK"

# -- the private key -------------------------------------------------------------------------------

TRY: Final[LiteralString] = "SELECT pg_catalog.pg_try_advisory_lock($1::int8)"
UNLOCK: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_unlock($1::int8)"
WAIT: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_lock($1::int8)"
ENTRIES: Final[LiteralString] = """
SELECT pid, granted
FROM pg_catalog.pg_locks
WHERE locktype = 'advisory'
  AND database = (SELECT oid FROM pg_catalog.pg_database
                  WHERE datname = pg_catalog.current_database())
  AND classid = (($1::int8 >> 32) & 4294967295)::oid
  AND objid = ($1::int8 & 4294967295)::oid
  AND objsubid = 1
"""

# -- the pooler ------------------------------------------------------------------------------------

# A setting of no meaning marks a session, and costs nobody anything where a pooler keeps it.
MARK: Final[LiteralString] = (
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.set_config('advlock.doctor', $1, false)"
)
MARKED: Final[LiteralString] = (
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('advlock.doctor', true)"
)
# For a lock that a pooler kept: its session is of our own role, so we may end it.
END_SESSION: Final[LiteralString] = "SELECT pg_catalog.pg_terminate_backend($1::int4)"

# -- what the server is ----------------------------------------------------------------------------

VERSION: Final[LiteralString] = "SELECT pg_catalog.version()"
ROLE: Final[LiteralString] = """
SELECT session_user, pg_catalog.current_database(), pg_catalog.current_setting('is_superuser')
"""
IN_RECOVERY: Final[LiteralString] = "SELECT pg_catalog.pg_is_in_recovery()"
# Traces that hosting providers and extensions leave; `_kinds` reads them.
TRACES: Final[LiteralString] = """
SELECT 'setting ' || pg_catalog.split_part(name, '.', 1)
FROM pg_catalog.pg_settings WHERE name LIKE '%.%' GROUP BY 1
UNION ALL
SELECT 'extension ' || extname FROM pg_catalog.pg_extension
UNION ALL
SELECT 'role ' || rolname FROM pg_catalog.pg_roles
WHERE rolname IN ('rdsadmin', 'cloudsqladmin', 'azuresu', 'supabase_admin', 'neon_superuser')
UNION ALL
SELECT 'function ' || proname FROM pg_catalog.pg_proc
WHERE proname IN ('aurora_version') AND pronamespace = 'pg_catalog'::regnamespace
"""
TLS: Final[LiteralString] = """
SELECT ssl, version, cipher FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()
"""
CLOCK: Final[LiteralString] = "SELECT extract(epoch FROM pg_catalog.clock_timestamp())"
PLPGSQL: Final[LiteralString] = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql'
               AND pg_catalog.has_language_privilege(oid, 'USAGE'))
"""

# -- room ------------------------------------------------------------------------------------------

# Fast-path locks are not in the shared table, and SIReadLocks have one of their own.
LOCK_TABLE: Final[LiteralString] = """
SELECT pg_catalog.current_setting('max_locks_per_transaction')::int8
       * (pg_catalog.current_setting('max_connections')::int8
          + pg_catalog.current_setting('max_prepared_transactions')::int8),
       (SELECT pg_catalog.count(*) FROM (
            SELECT DISTINCT locktype, database, relation, page, tuple, virtualxid,
                            transactionid::text, classid, objid, objsubid
            FROM pg_catalog.pg_locks WHERE NOT fastpath AND mode <> 'SIReadLock') AS taken),
       pg_catalog.current_setting('max_locks_per_transaction')
"""
# Who connects without a database or without a role (a walsender, an autovacuum worker) has slots of
# its own. `reserved_connections` came with PostgreSQL 16. Of the sessions, ours is not counted.
CONNECTIONS: Final[LiteralString] = """
SELECT pg_catalog.current_setting('max_connections')::int4,
       pg_catalog.current_setting('superuser_reserved_connections')::int4,
       coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int4,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_use_reserved_connections'
               AND pg_catalog.pg_has_role(session_user, oid, 'USAGE')),
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user),
       (SELECT datconnlimit FROM pg_catalog.pg_database
        WHERE datname = pg_catalog.current_database()),
       pg_catalog.count(*),
       pg_catalog.count(*) FILTER (WHERE usename = session_user),
       pg_catalog.count(*) FILTER (WHERE datname = pg_catalog.current_database())
FROM pg_catalog.pg_stat_activity
WHERE datid IS NOT NULL AND usesysid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
"""

# -- settings --------------------------------------------------------------------------------------

# What a session of this role begins with (`reset_val`, also after a SET), and who says so.
DEFAULTS: Final[LiteralString] = """
SELECT ours.name, ours.reset_val, ours.unit, (
    SELECT CASE WHEN given.setrole <> 0 AND given.setdatabase <> 0 THEN 'role in this database'
                WHEN given.setrole <> 0 THEN 'role'
                WHEN given.setdatabase <> 0 THEN 'database'
                ELSE 'all roles' END
    FROM pg_catalog.pg_db_role_setting AS given, unnest(given.setconfig) AS one(line)
    WHERE given.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user))
      AND given.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database
                                    WHERE datname = pg_catalog.current_database()))
      AND pg_catalog.split_part(one.line, '=', 1) = ours.name
    ORDER BY given.setrole <> 0 DESC, given.setdatabase <> 0 DESC LIMIT 1)
FROM pg_catalog.pg_settings AS ours
WHERE ours.name = ANY ($1::text[])
ORDER BY ours.name
"""
# The same statement as a session's set-up; LOCAL behind a pooler.
OVERRIDE: Final[LiteralString] = """
SELECT pg_catalog.count(pg_catalog.set_config(ours.name, ours.value, $3::bool))
FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS ours(name, value)
WHERE pg_catalog.current_setting(ours.name, true) IS NOT NULL
"""
IN_FORCE: Final[LiteralString] = """
SELECT name, setting, unit FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[])
"""
ON_UNIX_SOCKET: Final[LiteralString] = "SELECT pg_catalog.inet_server_addr() IS NULL"

# -- permissions and tokens ------------------------------------------------------------------------

PERMISSIONS: Final[LiteralString] = """
SELECT pg_catalog.pg_has_role(session_user, 'pg_signal_backend', 'USAGE'),
       pg_catalog.pg_has_role(session_user, 'pg_read_all_stats', 'USAGE')
"""
# From the catalogs, which everybody may read: a name would be refused without USAGE on its schema.
FENCE: Final[LiteralString] = """
SELECT class.relkind = 'S' AND class.relpersistence = 'p'
         AND sequence.seqincrement = 1 AND sequence.seqcache = 1 AND NOT sequence.seqcycle
         AND sequence.seqmin > 0 AND sequence.seqmax < 1::int8 << 47,
       class.relpersistence,
       'INCREMENT ' || sequence.seqincrement || ' CACHE ' || sequence.seqcache
         || CASE WHEN sequence.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END
         || ' MINVALUE ' || sequence.seqmin || ' MAXVALUE ' || sequence.seqmax,
       pg_catalog.has_schema_privilege(space.oid, 'USAGE')
         AND CASE WHEN class.relkind = 'S'
                  THEN pg_catalog.has_sequence_privilege(class.oid, 'USAGE') END
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_sequence AS sequence ON sequence.seqrelid = class.oid
WHERE space.nspname = 'advlock' AND class.relname = 'fence'
"""
MAY_CREATE: Final[LiteralString] = (
    "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')"
)
FUNCTIONS: Final[LiteralString] = """
SELECT function.oid::regprocedure::text,
       pg_catalog.has_function_privilege(function.oid, 'EXECUTE')
FROM pg_catalog.pg_proc AS function
WHERE function.pronamespace = 'pg_catalog'::regnamespace AND function.proname = ANY ($1::text[])
ORDER BY 1
"""
