"""The SQL of semaphores, besides the `DECLARE` of `advlock._sql.DECLARING_BATCH`. Pure."""

from __future__ import annotations

from typing import Final, LiteralString

# Which slots are taken, how many of them others say that there are, and does anybody wait? Takes
# nothing, so it may be asked at any time. $1: one of the keys by which all agree; they differ in
# their last 16 bits alone. $2: the keys of the slots. All rows are of one moment: the server keeps
# its lock table still while it makes them.
LOOK: Final[LiteralString] = """
SELECT slot.n - 1, held.objid::int8 & 65535, held.granted
FROM pg_catalog.pg_locks AS held
LEFT JOIN pg_catalog.unnest($2::int8[]) WITH ORDINALITY AS slot(key, n)
    ON held.classid = ((slot.key >> 32) & 4294967295)::oid
   AND held.objid = (slot.key & 4294967295)::oid
WHERE held.locktype = 'advisory' AND held.objsubid = 1
  AND held.database = (SELECT oid FROM pg_catalog.pg_database
                       WHERE datname = pg_catalog.current_database())
  AND (slot.n IS NOT NULL
       OR (held.classid = (($1::int8 >> 32) & 4294967295)::oid
           AND (held.objid::int8 # $1::int8) & 4294901760 = 0))
"""
