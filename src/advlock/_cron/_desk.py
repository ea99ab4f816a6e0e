"""Where a scheduler's runs check in."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from advlock import _observe
from advlock._cron import _life

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._checkins._send import CheckIn
    from advlock._cron._facts import Claim
    from advlock._cron._job import Job
    from advlock._cron._life import Outcome

log = logging.getLogger("advlock.cron")


class Desk:
    """Tells monitors of runs, from any thread; nobody waits for it but the scheduler's end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[CheckIn] = []

    def look(self, jobs: Iterable[Job]) -> None:
        """Warn of jobs whose monitors cannot be told."""
        if not any(job.sentry_monitor for job in jobs):
            return
        from advlock._cron import _monitors  # noqa: PLC0415 - few jobs have any

        if words := _monitors.unheard(jobs, os.environ):
            _observe.tell(logging.WARNING, {"event": "cron.checkin_failed"}, "%s", words, to=log)

    def begun(self, claim: Claim) -> Visit | None:
        """Tell that a run has begun; None if nobody is to be told of it."""
        if claim.job.ping is None and claim.job.sentry_monitor is None:
            return None
        from advlock._checkins._send import CheckIn  # noqa: PLC0415 - few jobs have any
        from advlock._cron import _monitors  # noqa: PLC0415

        def complain(words: str) -> None:
            facts = {"event": "cron.checkin_failed"} | _life.described(claim)
            _observe.tell(logging.WARNING, facts, "%s: %s", claim.job.name, words, to=log)

        checkin = CheckIn(_monitors.monitors(claim.job, os.environ), claim.run_id, complain)
        with self._lock:
            self._open = [*(one for one in self._open if not one.idle), checkin]
        checkin.begun()
        return Visit(claim, checkin)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return all(one.idle for one in self._open)

    def wait(self, seconds: float) -> None:
        """Wait for what is on its way, `seconds` at most; what is left is said to be given up."""
        until = time.monotonic() + seconds
        for one in self._open:
            one.wait(max(0.0, until - time.monotonic()))
            one.give_up()


class Visit:
    """One run that the monitors know of."""

    def __init__(self, claim: Claim, checkin: CheckIn) -> None:
        self._claim = claim
        self._checkin = checkin
        self._began = time.monotonic()

    def over(self, outcome: Outcome) -> None:
        """Tell how the run ended; only the first time."""
        from advlock._cron import _monitors  # noqa: PLC0415 - it is loaded

        seconds = time.monotonic() - self._began
        self._checkin.ended(_monitors.ending(self._claim, outcome, os.uname().nodename, seconds))
