"""The SQL that `advlock keys show` hands out: for people, to be pasted into psql.

The key is put in as an expression, never as a text of unknown origin: see `_show.expression`.
"""

from __future__ import annotations

from typing import Final

# Session-level, as advlock's own locks are: they last until released, or until the session ends.
TAKE: Final = "SELECT pg_advisory_lock({key});"
TRY: Final = "SELECT pg_try_advisory_lock({key});"
RELEASE: Final = "SELECT pg_advisory_unlock({key});"

# Who holds it, who waits. The same key in another database is another lock. pg_locks has the halves
# unsigned, so a 64-bit key is put together again to be compared.
FIND: Final = (
    "SELECT pid, granted, mode, usename, application_name, client_addr, state, waitstart"
    " FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND objsubid = {objsubid}"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (classid::bigint << 32) | objid::bigint = {value};"
)
