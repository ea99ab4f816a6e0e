"""The SQL by which a session is ended, each text with its reason. Pure.

A function that signals is called in a CASE of the target list, over one row that is always there:
in a WHERE clause the planner would decide how often, and for whom, it runs (docs/why.md, 5).
"""

from __future__ import annotations

from typing import Final, LiteralString

# The last look and the deed in one statement: the process ids of sessions that ended are given to
# new ones, and a pooled session changes hands. $1: the process; $2: since when its session exists
# (NULL: this role may not see it); $3, $4: its role (NULL: it cannot be spelled in this database's
# encoding) and what it signs with; $5-$8: the lock, in the numbers of pg_locks and the name of the
# database, '' for none; $9: whether it has it or waits for it; $10: cancel what it runs, and do not
# end it. Materialized, so that what is answered is what was acted upon.
# The answer: its process is there, it is the same session, it has to do with this lock as it had,
# it is our own, and whether the signal was sent (NULL: it was not tried).
SIGNAL: Final[LiteralString] = """
WITH seen(there, same, locked, ours) AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = $1::pg_catalog.int4),
           EXISTS (
               SELECT FROM pg_catalog.pg_stat_activity
               WHERE pid = $1::pg_catalog.int4
                 AND ($2::pg_catalog.timestamptz IS NULL
                      OR backend_start BETWEEN $2::pg_catalog.timestamptz - interval '1 ms'
                                           AND $2::pg_catalog.timestamptz + interval '1 ms')
                 AND coalesce(usename::pg_catalog.text, '')
                     = coalesce($3::pg_catalog.text, usename::pg_catalog.text, '')
                 AND coalesce(application_name, '') = $4::pg_catalog.text),
           EXISTS (
               SELECT FROM pg_catalog.pg_locks AS held
               LEFT JOIN pg_catalog.pg_database AS home ON home.oid = held.database
               WHERE held.locktype = 'advisory' AND held.pid = $1::pg_catalog.int4
                 AND held.classid = $5::pg_catalog.int8::pg_catalog.oid
                 AND held.objid = $6::pg_catalog.int8::pg_catalog.oid
                 AND held.objsubid = $7::pg_catalog.int2
                 AND coalesce(home.datname::pg_catalog.text, '') = $8::pg_catalog.text
                 AND held.granted = $9::pg_catalog.bool),
           $1::pg_catalog.int4 = pg_catalog.pg_backend_pid()
)
SELECT seen.there, seen.same, seen.locked, seen.ours,
       CASE WHEN NOT (seen.same AND seen.locked) OR seen.ours THEN NULL
            WHEN $10::pg_catalog.bool THEN pg_catalog.pg_cancel_backend($1::pg_catalog.int4)
            ELSE pg_catalog.pg_terminate_backend($1::pg_catalog.int4)
       END
FROM seen
"""

# Afterwards, again and again: is it there, and has it still to do with the lock? $1, $2:
# the process and since when its session exists; $3-$7: the lock, as above.
# A session that ends frees its locks a moment before its process is gone from pg_stat_activity.
STILL: Final[LiteralString] = """
SELECT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity
           WHERE pid = $1::pg_catalog.int4
             AND ($2::pg_catalog.timestamptz IS NULL
                  OR backend_start BETWEEN $2::pg_catalog.timestamptz - interval '1 ms'
                                       AND $2::pg_catalog.timestamptz + interval '1 ms')),
       EXISTS (
           SELECT FROM pg_catalog.pg_locks AS held
           LEFT JOIN pg_catalog.pg_database AS home ON home.oid = held.database
           WHERE held.locktype = 'advisory' AND held.pid = $1::pg_catalog.int4
             AND held.classid = $3::pg_catalog.int8::pg_catalog.oid
             AND held.objid = $4::pg_catalog.int8::pg_catalog.oid
             AND held.objsubid = $5::pg_catalog.int2
             AND coalesce(home.datname::pg_catalog.text, '') = $6::pg_catalog.text
             AND held.granted = $7::pg_catalog.bool)
"""

# Why the server refused: whether the session $1 is a superuser's, and who we are. Every role may
# read both.
RIGHTS: Final[LiteralString] = """
SELECT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS activity
           JOIN pg_catalog.pg_roles AS role ON role.oid = activity.usesysid
           WHERE activity.pid = $1::pg_catalog.int4 AND role.rolsuper),
       pg_catalog.quote_ident(CURRENT_USER),
       (SELECT pg_catalog.quote_ident(usename) FROM pg_catalog.pg_stat_activity
        WHERE pid = $1::pg_catalog.int4)
"""
