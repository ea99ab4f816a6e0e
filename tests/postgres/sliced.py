"""The wait in slices: a DO block, its parameters before it, its verdict behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from waiting import eventually

from .helpers import answers, sqlstate, value, waits

if TYPE_CHECKING:
    from psycopg import Connection

SLICE_MS = 500

# COMMIT ends the slice's snapshot; it may not stand inside the block that catches the error.
# pg_locks is asked in the handler because the error may arrive together with the grant.
SLICED_WAIT = b"""
DO $$
DECLARE wanted bigint := current_setting('advlock.key');
BEGIN
  LOOP
    BEGIN
      PERFORM pg_advisory_lock(wanted);
      PERFORM set_config('advlock.verdict', 'granted', false);
      EXIT;
    EXCEPTION WHEN lock_not_available THEN
      IF EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND granted
                 AND locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = wanted)
      THEN
        PERFORM set_config('advlock.verdict', 'granted with an error', false);
        EXIT;
      END IF;
      IF clock_timestamp() > current_setting('advlock.deadline')::timestamptz THEN
        PERFORM set_config('advlock.verdict', 'timed out', false);
        EXIT;
      END IF;
    END;
    COMMIT;
  END LOOP;
END $$"""

PARAMETERS = b"""
SELECT set_config('advlock.key', $1, false), set_config('lock_timeout', $2, false),
       set_config('advlock.deadline', (clock_timestamp() + $3::interval)::text, false),
       set_config('advlock.verdict', '', false)"""


def send_sliced_wait(
    session: Connection[Any], key: int, slice_ms: int = SLICE_MS, wait: str = "60s"
) -> None:
    """Send parameters, wait and verdict in one flush; the parameters end with their own sync."""
    pgconn = session.pgconn
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(PARAMETERS, [str(key).encode(), str(slice_ms).encode(), wait.encode()])
    pgconn.pipeline_sync()
    pgconn.send_query_params(SLICED_WAIT, None)
    pgconn.send_query_params(b"SELECT current_setting('advlock.verdict', true)", None)
    pgconn.pipeline_sync()
    pgconn.flush()


def sliced_verdict(session: Connection[Any]) -> str | None:
    """Return the verdict of `send_sliced_wait`; raise when the server answered with an error."""
    for result in answers(session):
        assert sqlstate(result) is None, result.error_message
    do, select, _ = answers(session)
    session.pgconn.exit_pipeline_mode()
    assert sqlstate(do) is None, do.error_message
    return value(select)


def start_sliced_wait(witness: Connection[Any], session: Connection[Any], key: int) -> None:
    """Send the sliced wait and return once the server has queued it."""
    send_sliced_wait(session, key)
    eventually(lambda: waits(witness, session, key), message="the sliced waiter shows in pg_locks")
