"""The SQL that records what keys are called, each text with its reason. Pure."""

from __future__ import annotations

from typing import Final, LiteralString

# May this session record names? Catalogs only, and no function that fails: nobody's lock may suffer
# because names are recorded, and nobody's log (tests/names/test_quiet.py). Not `to_regclass`, which
# is refused without USAGE on the schema. The table must belong to somebody who could run code here
# anyway: a trigger on it would run with our rights, and a schema `advlock` may be planted.
LOOK: Final[LiteralString] = """
SELECT pg_catalog.current_setting('server_encoding')
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
WHERE space.nspname = 'advlock' AND class.relname = 'lock_name' AND class.relkind = 'r'
  AND pg_catalog.has_schema_privilege(space.oid, 'USAGE')
  AND pg_catalog.has_table_privilege(class.oid, 'SELECT')
  AND pg_catalog.has_table_privilege(class.oid, 'INSERT')
  AND EXISTS (SELECT FROM pg_catalog.pg_language
              WHERE lanname = 'plpgsql' AND pg_catalog.has_language_privilege(oid, 'USAGE'))
  AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_roles AS owner, pg_catalog.pg_roles AS me
      WHERE owner.oid IN (class.relowner, space.nspowner) AND me.rolname = current_user
        AND owner.oid <> me.oid AND NOT owner.rolsuper
        AND (me.rolsuper OR owner.oid <> (SELECT datdba FROM pg_catalog.pg_database
                                          WHERE datname = pg_catalog.current_database())))
"""

# Before all that follows, in its transaction. Even catalogs may be locked, by VACUUM FULL: whoever
# waited for one here would keep the heartbeats of every lock on the session from it. And behind a
# pooler the search_path is still what the owner of the database wants, whose operators would run
# with our rights.
BRIEFLY: Final[LiteralString] = """
SELECT pg_catalog.set_config('search_path', 'pg_catalog', true),
       pg_catalog.set_config('lock_timeout', '10ms', true),
       pg_catalog.set_config('statement_timeout', '250ms', true)
"""

# For the next text, which takes no parameters, and whose commit waits for no disk. $1: the names,
# as JSON; $2: so many rows may stay.
SETTINGS: Final[LiteralString] = """
SELECT pg_catalog.set_config('synchronous_commit', 'off', true),
       pg_catalog.set_config('advlock.names', $1, true),
       pg_catalog.set_config('advlock.most', $2, true),
       pg_catalog.set_config('advlock.recorded', '', true)
"""

# Whatever goes wrong is caught there, so that it never gets into the server's log. A trigger would
# run with our rights, and whoever may make one, as after GRANT ALL, need not be the table's owner;
# the lock lets nobody make one meanwhile. What is there is not written again; once a day it is
# noted that it is still in use. What nobody has used for a month goes, a bounded number at a time,
# and so does the oldest of too many: names such as `user:{id}` must not grow the table for ever.
# That is counted only where the table is large. Rows that somebody else works on are left to them.
RECORD: Final[LiteralString] = """
DO LANGUAGE plpgsql $advlock$
DECLARE
    given jsonb;
    most int := current_setting('advlock.most');
    horizon timestamptz := clock_timestamp() - interval '30 days';
    fresh boolean;
BEGIN
    LOCK TABLE ONLY advlock.lock_name IN ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'advlock.lock_name'::regclass) THEN
        RAISE insufficient_privilege;
    END IF;
    given := current_setting('advlock.names');
    INSERT INTO advlock.lock_name (key, name, scheme, seed, seen_at)
    SELECT key, name, scheme, seed, clock_timestamp()
    FROM jsonb_to_recordset(given) AS new(key int8, name text, scheme text, seed int8)
    WHERE NOT EXISTS (SELECT FROM advlock.lock_name AS old
                      WHERE old.key = new.key AND old.name = new.name)
    ORDER BY key, name
    ON CONFLICT DO NOTHING;
    fresh := FOUND;
    IF has_table_privilege('advlock.lock_name', 'UPDATE')
       AND has_table_privilege('advlock.lock_name', 'DELETE') THEN
        UPDATE advlock.lock_name AS old SET seen_at = clock_timestamp()
        FROM (SELECT key, name FROM advlock.lock_name
              JOIN jsonb_to_recordset(given) AS new(key int8, name text) USING (key, name)
              WHERE seen_at < clock_timestamp() - interval '1 day'
              FOR UPDATE OF lock_name SKIP LOCKED) AS due
        WHERE old.key = due.key AND old.name = due.name;
        IF fresh THEN
            IF pg_relation_size('advlock.lock_name') > most * 40::int8 THEN
                horizon := greatest(horizon, (SELECT seen_at FROM advlock.lock_name
                                              ORDER BY seen_at DESC OFFSET most LIMIT 1));
            END IF;
            DELETE FROM advlock.lock_name AS old
            USING (SELECT key, name FROM advlock.lock_name WHERE seen_at <= horizon
                   ORDER BY seen_at LIMIT 1000 FOR UPDATE SKIP LOCKED) AS stale
            WHERE old.key = stale.key AND old.name = stale.name;
        END IF;
    END IF;
    PERFORM set_config('advlock.recorded', 'yes', true);
EXCEPTION WHEN query_canceled OR OTHERS THEN
    PERFORM set_config('advlock.recorded', SQLSTATE, true);
END
$advlock$
"""
RECORDED: Final[LiteralString] = "SELECT pg_catalog.current_setting('advlock.recorded')"
