"""`advlock cron` as it would be without the row of a tick, and with a wrong idea of the time.

    python -m chaos.cron_naive SECONDS with-rows|without-rows run FILE

To its schedulers the database's clock is SECONDS ahead. Without rows, a tick that is there already
is claimed again, and nobody believes what others have decided: all that is left is the lock.
"""

from __future__ import annotations

import sys
from typing import Any

from advlock import cli
from advlock._cron import _sql

_NOT_CLAIMED_YET = """
      AND scheduled_at > coalesce((SELECT decided_until FROM advlock.cron_set WHERE hash = $2),
                                  '-infinity')
      AND NOT EXISTS (SELECT FROM advlock.cron_run AS run
                      WHERE run.job = tick.job AND run.scheduled_at = tick.scheduled_at)
"""
_CLAIMED_AGAIN = """\
ON CONFLICT (job, scheduled_at) DO UPDATE
    SET state = excluded.state, run_id = excluded.run_id, claimed_at = clock_timestamp()
"""
_NOW = "'now', clock_timestamp()"


def main(seconds: str, rows: str, *words: str) -> int:
    """Take the row away, or not, and run."""
    sql: dict[str, Any] = vars(_sql)
    skewed = f"{_NOW} + interval '{float(seconds)} s'"
    sql["LOOK"] = _replaced(sql["LOOK"], _NOW, skewed)
    if rows == "without-rows":
        # Its second parameter is used by the condition alone.
        claim = _replaced(sql["CLAIM"], _NOT_CLAIMED_YET, "\n      AND $2::text IS NOT NULL\n")
        sql["CLAIM"] = _replaced(claim, "ON CONFLICT DO NOTHING\n", _CLAIMED_AGAIN)
        sql["MARK"] = _replaced(sql["MARK"], "WHERE hash = $1", "WHERE false AND hash = $1")
    return cli.main(["cron", *words])


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is not what it was; adapt the control"
    return text.replace(old, new)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
