"""The SQL by which locks are looked at, each text with its reason. Pure.

One statement and one row for everything: ids are plain numbers, times are seconds since 1970, so
that no setting of a role changes their spelling. Nothing but what PostgreSQL 14 has.
"""

from __future__ import annotations

from typing import Final, LiteralString

# What may be read of our own tables. Not `to_regclass`: it is refused without USAGE on the schema.
# The schema may be planted by whoever owns the database, and we may be a superuser. So a table
# with row security is none of ours, nor one with a type that is not the server's: its policies,
# and its casts to JSON, would run with our rights.
_READABLE: Final[LiteralString] = """
    SELECT pg_catalog.json_object_agg(
               class.relname, pg_catalog.has_schema_privilege(space.oid, 'USAGE')
                              AND pg_catalog.has_table_privilege(class.oid, 'SELECT'))
    FROM pg_catalog.pg_namespace AS space
    JOIN pg_catalog.pg_class AS class ON class.relnamespace = space.oid
    WHERE space.nspname = 'advlock' AND class.relkind = 'r' AND NOT class.relrowsecurity
      AND class.relname IN ('lock_name', 'cron_run', 'cron_host')
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_attribute AS field
          JOIN pg_catalog.pg_type AS type ON type.oid = field.atttypid
          JOIN pg_catalog.pg_namespace AS home ON home.oid = type.typnamespace
          WHERE field.attrelid = class.oid AND field.attnum > 0 AND home.nspname <> 'pg_catalog')
"""
READABLE: Final[LiteralString] = _READABLE

# $1: locks of all databases. $2: only these keys, as `classid/objid/objsubid`; NULL for all.
# Held locks come as one list of numbers for each session, because ten thousand small rows cost
# more to write and to read than all the rest. Whether a session holds just one lock tells whether
# what it signed is about that one; that counts what $2 leaves out, too. `pg_blocking_pids` stops
# the whole lock manager for a moment, so it is called for the first waiters only.
# A transaction that was prepared for two-phase commit keeps its locks without a process; what its
# name is can be told by its lock on its own transaction id.
# Whether a table may be read is looked up again where it is read, which the answer of the last look
# does not vouch for: since the statement was parsed, nobody can change the table.
# A comment comes first, because pg_stat_activity shows the beginning of a query.
_LOCKS: Final[LiteralString] = """\
/* advlock: who holds which lock, and who waits */
WITH lock AS MATERIALIZED (
    SELECT pid, virtualtransaction AS vxid, database, classid, objid, objsubid,
           mode = 'ShareLock' AS shared, granted, waitstart
    FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory'
      AND ($1::pg_catalog.bool
           OR database = (SELECT oid FROM pg_catalog.pg_database
                          WHERE datname = pg_catalog.current_database()))
), chosen AS MATERIALIZED (
    SELECT * FROM lock
    WHERE $2::pg_catalog.text[] IS NULL
       OR pg_catalog.format('%s/%s/%s', classid, objid, objsubid) = ANY ($2::pg_catalog.text[])
), single AS (
    SELECT pid FROM lock GROUP BY pid
    HAVING pg_catalog.min(classid) = pg_catalog.max(classid)
       AND pg_catalog.min(objid) = pg_catalog.max(objid)
       AND pg_catalog.min(objsubid) = pg_catalog.max(objsubid)
), own(readable) AS MATERIALIZED (
"""
_MORE: Final[LiteralString] = """)
SELECT extract(epoch FROM pg_catalog.clock_timestamp()),
       pg_catalog.current_database(),
       current_user,
       pg_catalog.current_setting('server_encoding'),
       (SELECT readable FROM own),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                pid, CASE WHEN pid IS NULL THEN vxid END, database, shared, keys))
     FROM (SELECT pid, vxid, database, shared,
                  ('[' || pg_catalog.string_agg(
                      pg_catalog.concat_ws(',', classid, objid, objsubid), ',')
                   || ']')::pg_catalog.json AS keys
           FROM chosen WHERE granted GROUP BY pid, vxid, database, shared) AS held),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                pid, database, shared, classid::pg_catalog.int8, objid::pg_catalog.int8, objsubid,
                extract(epoch FROM waitstart),
                CASE WHEN place <= 500 THEN pg_catalog.pg_blocking_pids(pid) END) ORDER BY place)
     FROM (SELECT *, pg_catalog.row_number() OVER (ORDER BY waitstart, pid) AS place
           FROM chosen WHERE NOT granted) AS waits),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                pid, application_name, usename, pg_catalog.host(client_addr), client_port, state,
                extract(epoch FROM state_change), extract(epoch FROM backend_start),
                extract(epoch FROM xact_start), extract(epoch FROM query_start),
                CASE WHEN $3::pg_catalog.bool THEN pg_catalog."left"(query, 1000) END,
                backend_xmin IS NOT NULL, pid IN (SELECT pid FROM single)))
     FROM pg_catalog.pg_stat_activity WHERE pid IN (SELECT DISTINCT pid FROM chosen)),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                own.virtualtransaction, prepared.gid, prepared.owner,
                extract(epoch FROM prepared.prepared)))
     FROM pg_catalog.pg_locks AS own
     JOIN pg_catalog.pg_prepared_xacts AS prepared
       ON prepared.transaction = own.transactionid
     WHERE EXISTS (SELECT FROM chosen WHERE pid IS NULL)
       AND own.locktype = 'transactionid' AND own.granted AND own.pid IS NULL),
    (SELECT pg_catalog.json_object_agg(oid, datname) FROM pg_catalog.pg_database
     WHERE oid IN (SELECT DISTINCT database FROM chosen))"""

# What the processes that took them call them: by the primary key, for the keys that are there.
_NAMES: Final[LiteralString] = """,
    CASE WHEN (SELECT (readable ->> 'lock_name')::pg_catalog.bool FROM own) THEN
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(key, name, scheme, seed)
                                ORDER BY seen_at)
     FROM advlock.lock_name
     WHERE key IN (SELECT (classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8 FROM chosen
                   WHERE objsubid = 1
                     AND database = (SELECT oid FROM pg_catalog.pg_database
                                     WHERE datname = pg_catalog.current_database())))
    END"""

# What the cron has locked: for its runs, by the partial index, and for its schedulers.
_CRON: Final[LiteralString] = """,
    CASE WHEN (SELECT (readable ->> 'cron_run')::pg_catalog.bool FROM own) THEN
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                key, job, extract(epoch FROM scheduled_at)) ORDER BY scheduled_at)
     FROM advlock.cron_run
     WHERE state IN ('claimed', 'queued', 'running') AND key IS NOT NULL)
    END,
    CASE WHEN (SELECT (readable ->> 'cron_host')::pg_catalog.bool FROM own) THEN
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(id, host, pid, source))
     FROM advlock.cron_host)
    END"""

# By whether the names may be read, and the cron's tables: a text that mentions a table which is not
# there is refused.
LOOK: Final[dict[tuple[bool, bool], LiteralString]] = {
    (False, False): f"{_LOCKS}{_READABLE}{_MORE}, NULL, NULL, NULL",
    (True, False): f"{_LOCKS}{_READABLE}{_MORE}{_NAMES}, NULL, NULL",
    (False, True): f"{_LOCKS}{_READABLE}{_MORE}, NULL{_CRON}",
    (True, True): f"{_LOCKS}{_READABLE}{_MORE}{_NAMES}{_CRON}",
}

# What a session that only looks must not inherit from a role, and what it must not do to others:
# wait for long, be it for a table that is being changed, or compile. A planted table that has
# become a view, or has policies, is refused: the functions of both would run with our rights. $3:
# the process whose session is ours to change; behind a pooler it is another's, and the settings
# end with the transaction.
SETTINGS: Final[dict[str, str]] = {
    "search_path": "pg_catalog",
    "statement_timeout": "20s",
    "lock_timeout": "2s",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "client_min_messages": "error",
    "jit": "off",
    "row_security": "off",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
}
# On the session that carries a client's locks: others stand in the queue for it.
BRIEFLY: Final[dict[str, str]] = {
    "search_path": "pg_catalog",
    "statement_timeout": "2s",
    "lock_timeout": "200ms",
    "jit": "off",
    "row_security": "off",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
}
# Operators are qualified here, where the search_path may still be what the owner of the database
# wants it to be.
SET: Final[LiteralString] = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.count(pg_catalog.set_config(
           ours.name, ours.value,
           pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) $3::pg_catalog.int4))
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]),
                pg_catalog.unnest($2::pg_catalog.text[])) AS ours(name, value)
WHERE pg_catalog.current_setting(ours.name, true) IS NOT NULL
"""
