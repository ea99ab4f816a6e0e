"""A run loses its own session, and its command takes its time to end: nobody runs beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from waiting import eventually

from .crons import Crons, shell

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["cli.cron_fixtures"]

# It hears TERM, and cleans up for longer than the next tick is away.
_SLOW_TO_END = """
trap 'sleep 2.5; echo end >> {log}; exit 0' TERM
echo begin >> {log}
while :; do sleep 0.1; done
"""
_END_ITS_SESSION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'advlock:cron:%' AND datname = current_database()
"""


def beside(log: Path) -> int:
    """How many runs began while another was at work."""
    count = at_work = 0
    for line in log.read_text().split():
        count += line == "begin" and at_work > 0
        at_work += 1 if line == "begin" else -1
    return count


def test_a_run_that_lost_its_session_is_waited_for(crons_once: Crons) -> None:
    """Two hosts: the one whose run it was says when it has ended, and only then another begins."""
    crons = crons_once
    log = crons.directory / "slow.log"
    jobs = {"slow": shell(_SLOW_TO_END.format(log=log)) | {"schedule": "@every 1s"}}
    first, second = (crons.run(jobs, "--wait", "100ms") for _ in range(2))
    eventually(log.exists, within=10)
    for _ in range(2):
        ended = log.read_text().count("end")
        eventually(lambda: crons.admin.execute(_END_ITS_SESSION).fetchall(), within=10)
        eventually(lambda n=ended: log.read_text().count("end") > n, within=10)
        eventually(lambda: log.read_text().split()[-1] == "begin", within=10)
    assert beside(log) == 0
    for scheduler in (first, second):
        scheduler.process.terminate()
    for scheduler in (first, second):
        assert scheduler.process.wait(30) == 0
    states = {row.state for row in crons.rows("slow")}
    assert {"lost", "skipped_overlap"} <= states
