"""After a long outage of many jobs: passes stay short, and what is due now runs meanwhile."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from .hands import job, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from .hands import Hand, Rows

JOBS, HOURS, KEEP = 200, 5, 100
PASS = 5.0  # seconds; a pass that takes ten is given up


def test_a_long_outage_of_many_jobs_is_worked_off_pass_by_pass(
    hands: Callable[..., Hand], rows: Rows
) -> None:
    """Twenty thousand ticks were missed. No pass takes on all, each job runs once, all get rows."""
    jobs = [job(f"j{n}", "* * * * *", keep=KEEP) for n in range(JOBS)]
    hand = hands(*jobs)
    hand.turn()
    hand.forget()
    hand.ahead = jobs[0].schedule.last(now()) + timedelta(hours=HOURS, seconds=20) - now()
    hand.join()
    ran: list[str] = []
    passes = 0
    while len(ran) < JOBS:
        began = time.monotonic()
        result = hand.turn()
        assert time.monotonic() - began < PASS
        passes += 1
        for claim in result.claims:
            hand.run(claim)
            ran.append(claim.job.name)
        assert result.claims or result.sleep == 0, "there is more to decide, so it comes at once"
    assert sorted(ran) == sorted(one.name for one in jobs)
    assert passes > 1
    assert rows.ask("SELECT count(*) FROM advlock.cron_run WHERE state <> 'succeeded'") == JOBS * (
        KEEP - 1
    )
    hand.turn()
    mark = rows.ask("SELECT decided_until FROM advlock.cron_set")
    assert mark > now() + timedelta(hours=HOURS - 1)
