"""Every SQL text that advlock sends, in one place, each with its reason.

A DBA can review this file alone. Nothing is ever concatenated into these texts: values travel as
parameters, and into `WAIT`, which can take none, as settings of our own session.
Names are schema-qualified, so that a function of the same name in the user's schemas is never
called; `SET_UP` also pins our session's `search_path` to `pg_catalog`.
"""

from __future__ import annotations

from typing import Final, LiteralString

# What a combined request can ask of one key. The codes below are 0-3 for bigint keys and 4-7 for
# pairs of int4, which are another key space; `JOIN` is `TRY_SHARED` of somebody who already shares.
# `DECLARE` is a semaphore's (`_semaphore/_plan.py`), and `DECLARE_FIRST` that of the first waiter.
TRY: Final = 0
TRY_SHARED: Final = 1
UNLOCK: Final = 2
UNLOCK_SHARED: Final = 3
PAIR: Final = 4
JOIN: Final = 8
DECLARE: Final = 16
DECLARE_FIRST: Final = 17

# One key, the common case: a plain statement is a fifth cheaper than a batch of one.
TRY_ONE: Final[LiteralString] = "SELECT pg_catalog.pg_try_advisory_lock($1)"
UNLOCK_ONE: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_unlock($1)"

# Many keys, one round trip. `unnest` yields its rows in array order and the target list is
# evaluated once a row, in that order (tests/postgres/test_batches.py). A lock function never
# stands in a WHERE clause over rows: the planner decides how often that runs.
# The server lets a session that shares a lock share it again in spite of a writer who waits; JOIN
# does not, or readers of one client could starve a writer elsewhere for ever.
_ASK: Final[LiteralString] = """
SELECT CASE ask.op
    WHEN 0 THEN pg_catalog.pg_try_advisory_lock(ask.key)
    WHEN 1 THEN pg_catalog.pg_try_advisory_lock_shared(ask.key)
    WHEN 2 THEN pg_catalog.pg_advisory_unlock(ask.key)
    WHEN 3 THEN pg_catalog.pg_advisory_unlock_shared(ask.key)
    WHEN 4 THEN pg_catalog.pg_try_advisory_lock((ask.key >> 32)::int4, (ask.key << 32 >> 32)::int4)
    WHEN 5 THEN pg_catalog.pg_try_advisory_lock_shared(
                    (ask.key >> 32)::int4, (ask.key << 32 >> 32)::int4)
    WHEN 6 THEN pg_catalog.pg_advisory_unlock((ask.key >> 32)::int4, (ask.key << 32 >> 32)::int4)
    WHEN 7 THEN pg_catalog.pg_advisory_unlock_shared(
                    (ask.key >> 32)::int4, (ask.key << 32 >> 32)::int4)
    ELSE CASE
"""
_DECLARE: Final[LiteralString] = """
        WHEN ask.op >= 16 THEN CASE
            WHEN NOT pg_catalog.pg_try_advisory_lock_shared(ask.key) THEN false
            WHEN EXISTS (
                SELECT FROM (SELECT pg_catalog.pg_lock_status() AS held) AS every
                WHERE (held).locktype = 'advisory' AND (held).objsubid = 1
                  AND (held).database = (SELECT oid FROM pg_catalog.pg_database
                                         WHERE datname = pg_catalog.current_database())
                  AND (held).classid = ((ask.key >> 32) & 4294967295)::oid
                  AND ((held).objid::int8 # ask.key) & 4294901760 = 0
                  AND (held).objid::int8 & 65535 <> ask.key & 65535
                  AND (ask.op = 16 OR (held).objid::int8 & 65535 <> 0))
            THEN NOT pg_catalog.pg_advisory_unlock_shared(ask.key)
            ELSE true
        END
"""
_ELSE: Final[LiteralString] = """
        WHEN EXISTS (
            SELECT FROM pg_catalog.pg_locks AS held
            WHERE held.locktype = 'advisory' AND NOT held.granted
              AND held.database = (SELECT oid FROM pg_catalog.pg_database
                                   WHERE datname = pg_catalog.current_database())
              AND held.classid = ((ask.key >> 32) & 4294967295)::oid
              AND held.objid = (ask.key & 4294967295)::oid
              AND held.objsubid = CASE WHEN ask.op & 4 = 4 THEN 2 ELSE 1 END)
        THEN false
        WHEN ask.op & 4 = 4 THEN pg_catalog.pg_try_advisory_lock_shared(
                                     (ask.key >> 32)::int4, (ask.key << 32 >> 32)::int4)
        ELSE pg_catalog.pg_try_advisory_lock_shared(ask.key)
    END
END
FROM unnest($1::int2[], $2::int8[]) AS ask(op, key)
"""
BATCH: Final[LiteralString] = _ASK + _ELSE

# The same for a request in which a semaphore declares how many slots it has; apart, because to plan
# it takes twice as long. DECLARE shares a key and then looks whether anybody has one that differs
# in the last 16 bits alone; if so it lets go again. pg_lock_status() stands in a target list: in
# FROM, as in the view pg_locks, its rows would be kept for the next row of the same request
# (tests/postgres/test_slots.py).
DECLARING_BATCH: Final[LiteralString] = _ASK + _DECLARE + _ELSE

# Behind a pooler that lends us a session for good: the same on that backend, nothing on another.
# The condition has no column in it, so it decides once, before any row and any lock
# (tests/postgres/test_batches.py).
AT_HOME: Final[LiteralString] = "SELECT 1 WHERE pg_catalog.pg_backend_pid() = $1::pg_catalog.int4"
TRY_ONE_AT_HOME: Final[LiteralString] = (
    TRY_ONE + " WHERE pg_catalog.pg_backend_pid() = $2::pg_catalog.int4"
)
UNLOCK_ONE_AT_HOME: Final[LiteralString] = (
    UNLOCK_ONE + " WHERE pg_catalog.pg_backend_pid() = $2::pg_catalog.int4"
)
BATCH_AT_HOME: Final[LiteralString] = (
    BATCH + "WHERE pg_catalog.pg_backend_pid() = $3::pg_catalog.int4"
)
DECLARING_BATCH_AT_HOME: Final[LiteralString] = (
    DECLARING_BATCH + "WHERE pg_catalog.pg_backend_pid() = $3::pg_catalog.int4"
)

# Which of our own session's locks does the server know? Asked after a statement failed half-way:
# what it had taken before the error stays taken (tests/postgres/test_lock_table.py).
OWN_LOCKS: Final[LiteralString] = """
SELECT (classid::int8 << 32) | objid::int8, objsubid
FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND granted AND pid = pg_catalog.pg_backend_pid()
"""

# Connect: apply our settings, and read what the safety checks need, in one round trip and one
# transaction. First what might keep the statement itself from being carried out: a timeout, waiting
# for a safe snapshot, or somebody's own operators, as roles may have it. Then a lock of our own,
# which `SET_UP` has to find in pg_locks: servers exist whose advisory locks are stubs
# (tests/conformance/test_fakes.py).
BEGIN: Final[LiteralString] = "BEGIN ISOLATION LEVEL READ COMMITTED"
OPENING: Final[tuple[LiteralString, ...]] = (
    BEGIN,
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL search_path = pg_catalog",
)
COMMIT: Final[LiteralString] = "COMMIT"

# Where there is only the transaction of a pipeline, before its first query: under a role's default
# of another level it would not see what was committed while it waited for a lock.
READ_COMMITTED: Final[LiteralString] = "SET transaction_isolation = 'read committed'"

# A setting which an older server lacks is skipped instead of an error. $3 is the process whose
# session is ours; behind a pooler it is another's, and our settings end with the transaction.
# Not the view pg_locks but its function: a transaction that goes on would keep a lock on the view.
SET_UP: Final[LiteralString] = """
SELECT pg_catalog.pg_backend_pid(),
       pg_catalog.pg_is_in_recovery(),
       CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
            THEN (SELECT system_identifier FROM pg_catalog.pg_control_system()) END,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
             AND pg_catalog.has_function_privilege('pg_catalog.pg_current_wal_lsn()', 'EXECUTE')
             AND pg_catalog.has_function_privilege(
                     'pg_catalog.pg_walfile_name(pg_catalog.pg_lsn)', 'EXECUTE')
            THEN pg_catalog.substr(
                     pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END,
       EXISTS (SELECT FROM pg_catalog.pg_lock_status()
               WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND granted
                 AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()),
       (SELECT pg_catalog.count(pg_catalog.set_config(
                   ours.name, ours.value,
                   pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) $3::pg_catalog.int4))
        FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]),
                        pg_catalog.unnest($2::pg_catalog.text[])) AS ours(name, value)
        WHERE pg_catalog.current_setting(ours.name, true) IS NOT NULL)
"""

# Which backend answers? Two connections that are asked in turns tell a pooler's mode (`_pooling`).
BACKEND_PID: Final[LiteralString] = "SELECT pg_catalog.pg_backend_pid()"

# Does anybody hold this key? And let go of it, if it happens to be this session that does.
IS_LOCKED: Final[LiteralString] = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database())
      AND classid = (($1::int8 >> 32) & 4294967295)::oid
      AND objid = ($1::int8 & 4294967295)::oid)
"""
IS_MARKED: Final[LiteralString] = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
               WHERE pid = $1::int4 AND application_name = $2)
"""
UNLOCK_IF_OURS: Final[LiteralString] = """
SELECT CASE WHEN EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND pid = pg_catalog.pg_backend_pid()
      AND classid = (($1::int8 >> 32) & 4294967295)::oid
      AND objid = ($1::int8 & 4294967295)::oid)
THEN pg_catalog.pg_advisory_unlock($1::int8) END
"""

# A DBA's defaults must not end our session or hold back VACUUM (docs/why.md, 8). The settings by
# which the server notices that we are gone come from `_liveness.Bounds`, and this one, for a client
# that is killed while it waits.
SETTINGS: Final[dict[str, str]] = {
    "search_path": "pg_catalog",
    "exit_on_error": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # A token must not be handed out again after a crash; `on` would wait for a standby as well.
    "synchronous_commit": "local",
    "client_min_messages": "error",
    # What is prepared here means the same whatever its parameters; the server would plan a combined
    # request anew each time, which takes longer than to carry it out.
    "plan_cache_mode": "force_generic_plan",
    "client_connection_check_interval": "500ms",
}

# Wait on the server, in slices, without ever failing a statement (docs/why.md, 3): a snapshot lives
# for one slice, so VACUUM and CREATE INDEX CONCURRENTLY go on, and nothing reaches the server's
# log. A timeout that the handler catches may still have been granted (docs/why.md, 2), so pg_locks
# is asked there. DO takes no parameters, hence the settings; `advlock.op` is one of the codes
# above. COMMIT is allowed because DO is the first statement of its pipeline
# (tests/postgres/test_waiting.py).
WAIT_FOR: Final[LiteralString] = """
SELECT pg_catalog.set_config('advlock.op', $1, false),
       pg_catalog.set_config('advlock.key', $2, false),
       pg_catalog.set_config('advlock.wait', $3, false),
       pg_catalog.set_config('advlock.granted', '', false),
       pg_catalog.set_config('tcp_user_timeout', $4, false),
       CASE WHEN $5::pg_catalog.text IS NOT NULL
            THEN pg_catalog.set_config('application_name', $5, false) END
"""
WAIT: Final[LiteralString] = """
DO LANGUAGE plpgsql $advlock$
DECLARE
    op int := current_setting('advlock.op');
    key bigint := current_setting('advlock.key');
    patience numeric := nullif(current_setting('advlock.wait'), '');
    until timestamptz := clock_timestamp() + patience * interval '1 second';
    slice int := 500;
BEGIN
    LOOP
        IF until IS NOT NULL THEN
            slice := least(500, extract(epoch FROM until - clock_timestamp()) * 1000);
            EXIT WHEN slice < 1;
        END IF;
        BEGIN
            PERFORM set_config('lock_timeout', slice::text, true);
            CASE op
                WHEN 0 THEN PERFORM pg_advisory_lock(key);
                WHEN 1 THEN PERFORM pg_advisory_lock_shared(key);
                WHEN 4 THEN PERFORM pg_advisory_lock((key >> 32)::int, (key << 32 >> 32)::int);
                WHEN 5 THEN
                    PERFORM pg_advisory_lock_shared((key >> 32)::int, (key << 32 >> 32)::int);
            END CASE;
            PERFORM set_config('advlock.granted', 'yes', false);
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted
                       AND pid = pg_backend_pid()
                       AND classid = ((key >> 32) & 4294967295)::oid
                       AND objid = (key & 4294967295)::oid
                       AND objsubid = CASE WHEN op < 4 THEN 1 ELSE 2 END) THEN
                PERFORM set_config('advlock.granted', 'yes', false);
                EXIT;
            END IF;
        END;
        COMMIT;
    END LOOP;
END
$advlock$
"""
WAIT_VERDICT: Final[LiteralString] = "SELECT pg_catalog.current_setting('advlock.granted')"

# After a grant that was waited for: it may be long ago, on a network that delays. This asks whether
# the server still hears us, and lifts the short timeout of those who wait (`_liveness`). $2: how
# the session signs now; NULL where the name is the user's own.
CONFIRM: Final[LiteralString] = """
SELECT pg_catalog.set_config('tcp_user_timeout', $1, false),
       CASE WHEN $2::pg_catalog.text IS NOT NULL
            THEN pg_catalog.set_config('application_name', $2, false) END
"""

# A comment is an empty query to the server: no transaction, no snapshot, no plan; yet it ends the
# session's idling (tests/postgres/test_leases.py). It is also what pg_stat_activity shows of us.
HEARTBEAT: Final[LiteralString] = "/* advlock: heartbeat */"

# Before the next text where locks are on the session. VACUUM FULL may lock a catalog, and the
# heartbeats of all those locks would stand behind a question that waits for it.
BRIEFLY: Final[LiteralString] = """
SELECT pg_catalog.set_config('search_path', 'pg_catalog', true),
       pg_catalog.set_config('lock_timeout', '100ms', true),
       pg_catalog.set_config('statement_timeout', '1s', true)
"""

# Who holds a key, and who waits for it; of a session the same columns as `_inspect._sql.LOOK`. What
# a role may not see of it is NULL.
HOLDERS: Final[LiteralString] = """
SELECT lock.pid, activity.application_name, activity.usename,
       pg_catalog.host(activity.client_addr), activity.client_port, activity.state,
       extract(epoch FROM activity.state_change), extract(epoch FROM activity.backend_start),
       extract(epoch FROM activity.xact_start), extract(epoch FROM activity.query_start),
       pg_catalog."left"(activity.query, 1000), activity.backend_xmin IS NOT NULL,
       lock.granted, lock.mode = 'ShareLock', extract(epoch FROM lock.waitstart),
       extract(epoch FROM pg_catalog.clock_timestamp())
FROM pg_catalog.pg_locks AS lock
LEFT JOIN pg_catalog.pg_stat_activity AS activity USING (pid)
WHERE lock.locktype = 'advisory'
  AND lock.database = (SELECT oid FROM pg_catalog.pg_database
                       WHERE datname = pg_catalog.current_database())
  AND lock.classid = (($1::int8 >> 32) & 4294967295)::oid
  AND lock.objid = ($1::int8 & 4294967295)::oid
  AND lock.objsubid = $2::int2
ORDER BY lock.granted DESC, lock.waitstart, lock.pid
"""

# A fencing token: the timeline, read from the WAL's own file name, and a number that only rises,
# also across a crash (docs/why.md, 12). It comes from the sequence, where there is one; bit 47 then
# puts it above everything that was drawn before there was one. Otherwise it is the transaction
# id, with its WAL forced to disk in the same statement. Which of the two is decided where it is
# drawn: so two clients cannot differ, and who may not use the sequence gets an error. $1: draw
# nothing where the sequence is missing and we could make it.
# The last column forces the log to disk where that is behind: the value may have been covered by
# what another session has logged, and has not flushed yet (tests/conformance/test_fencing.py).
DRAW_TOKEN: Final[LiteralString] = """
SELECT pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8),
       fence.is_sound,
       CASE
           WHEN fence.is_sound THEN pg_catalog.nextval(fence.oid) | (1::int8 << 47)
           WHEN fence.oid IS NOT NULL THEN NULL
           WHEN $1::bool AND pg_catalog.has_database_privilege(
                    pg_catalog.current_database(), 'CREATE') THEN NULL
           WHEN pg_catalog.pg_logical_emit_message(true, 'advlock', '') IS NOT NULL
                THEN pg_catalog.pg_current_xact_id()::text::int8
       END,
       CASE
           WHEN fence.is_sound
                AND pg_catalog.pg_current_wal_insert_lsn() > pg_catalog.pg_current_wal_flush_lsn()
                THEN pg_catalog.pg_logical_emit_message(true, 'advlock', '')
       END
FROM (
    SELECT found.oid,
           CASE WHEN found.oid IS NOT NULL THEN EXISTS (
               SELECT FROM pg_catalog.pg_class AS class
               JOIN pg_catalog.pg_sequence AS sequence ON sequence.seqrelid = class.oid
               WHERE class.oid = found.oid AND class.relpersistence = 'p'
                 AND sequence.seqincrement = 1 AND sequence.seqcache = 1 AND NOT sequence.seqcycle
                 AND sequence.seqmin > 0 AND sequence.seqmax < 1::int8 << 47)
           END
    FROM (SELECT pg_catalog.to_regclass('advlock.fence')) AS found(oid)
) AS fence(oid, is_sound)
"""

# The one thing that advlock ever creates. Two may do so at once: the second statement lets them
# queue. CACHE 1, because a cached sequence goes backward between sessions. Everybody may draw and
# nobody but the owner may set it back. An interrupted try leaves nothing: it is one transaction.
MAKE_FENCE: Final[tuple[LiteralString, ...]] = (
    "SELECT pg_catalog.set_config('lock_timeout', '500ms', true)",
    "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('advlock: schema', 0))",
    "CREATE SCHEMA IF NOT EXISTS advlock",
    "CREATE SEQUENCE IF NOT EXISTS advlock.fence AS int8 MAXVALUE 140737488355327 CACHE 1",
    "GRANT USAGE ON SCHEMA advlock TO PUBLIC",
    "GRANT USAGE ON SEQUENCE advlock.fence TO PUBLIC",
)

# $2: for this transaction only.
SET_APPLICATION_NAME: Final[LiteralString] = (
    "SELECT pg_catalog.set_config('application_name', $1, $2::pg_catalog.bool)"
)
UNLOCK_ALL: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_unlock_all()"

# Transaction-level locks on the caller's own connection, by (shared, pair). Parameters are
# psycopg's `%s`, because its client-side cursor merges them: see `_xact._cursor`. For other drivers
# `_xact_plan.numbered` makes them `$1`.
# The first also asks whether this is a read replica, which grants locks of its own: a pooler tells
# its clients for ever what a server was when it first saw it.
XACT_TRY: Final[dict[tuple[bool, bool], LiteralString]] = {
    (False, False): (
        "SELECT pg_catalog.pg_try_advisory_xact_lock(%s), pg_catalog.pg_is_in_recovery()"
    ),
    (True, False): (
        "SELECT pg_catalog.pg_try_advisory_xact_lock_shared(%s), pg_catalog.pg_is_in_recovery()"
    ),
    (False, True): (
        "SELECT pg_catalog.pg_try_advisory_xact_lock(%s, %s), pg_catalog.pg_is_in_recovery()"
    ),
    (True, True): (
        "SELECT pg_catalog.pg_try_advisory_xact_lock_shared(%s, %s), pg_catalog.pg_is_in_recovery()"
    ),
}
XACT_WAIT: Final[dict[tuple[bool, bool], LiteralString]] = {
    (False, False): "SELECT pg_catalog.pg_advisory_xact_lock(%s)",
    (True, False): "SELECT pg_catalog.pg_advisory_xact_lock_shared(%s)",
    (False, True): "SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)",
    (True, True): "SELECT pg_catalog.pg_advisory_xact_lock_shared(%s, %s)",
}
LOCK_TIMEOUT: Final[LiteralString] = "SELECT pg_catalog.current_setting('lock_timeout')"
SET_LOCK_TIMEOUT: Final[LiteralString] = "SELECT pg_catalog.set_config('lock_timeout', %s, true)"
# What a key's bytes depend on, for drivers that do not know it from the connection's start.
SERVER_ENCODING: Final[LiteralString] = "SELECT pg_catalog.current_setting('server_encoding')"
SAVEPOINT: Final[LiteralString] = "SAVEPOINT advlock"
ROLLBACK_TO_SAVEPOINT: Final[LiteralString] = "ROLLBACK TO SAVEPOINT advlock"
RELEASE_SAVEPOINT: Final[LiteralString] = "RELEASE SAVEPOINT advlock"
