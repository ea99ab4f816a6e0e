"""What both shells have to tell, each thing once until it changes."""

from __future__ import annotations

import logging
import os
import uuid
from typing import TYPE_CHECKING, Any, Final

from advlock import _observe
from advlock._cron._agenda import Host
from advlock._cron._decide import utc
from advlock.errors import ConfigError, DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from datetime import datetime

    from advlock._plan import Refused

log = logging.getLogger("advlock.cron")

_SKEW: Final = 1.0  # seconds; by so much a host's clock may differ without a word
_SET_BACK: Final = 5.0
_SLOW: Final = 0.5  # a pass that took so long says nothing about clocks


def here() -> Host:
    """Who we are."""
    return Host(str(uuid.uuid4()), os.uname().nodename, os.getpid())


def refused(refusal: Refused) -> LockError:
    """Say what the server's refusal means, and what to do."""
    if refusal.sqlstate == "42501":
        return ConfigError(
            f"the tables of advlock are not for this role: {refusal.message}. Have their owner "
            f"allow it: advlock init --sql --role ROLE | psql",
            sqlstate=refusal.sqlstate,
        )
    if refusal.sqlstate in {"42P01", "3F000"}:
        return ConfigError(
            f"the tables of advlock are not in this database ({refusal.message}); the cron makes "
            f"them when it runs (advlock cron run FILE), or: advlock init",
            sqlstate=refusal.sqlstate,
        )
    if refusal.sqlstate == "42703":
        return ConfigError(
            f"the tables of advlock are not as they should be: {refusal.message}. Make them anew: "
            f"advlock init",
            sqlstate=refusal.sqlstate,
        )
    return DatabaseUnavailable(
        f"the server refused ({refusal.sqlstate}: {refusal.message}); trying again",
        sqlstate=refusal.sqlstate,
    )


class Watch:
    """Warns of clocks, of other versions of the jobs, and of a database that is away."""

    def __init__(self) -> None:
        self._skewed = self._ahead = False
        self._trouble: str | None = None
        self._others: set[str] = set()

    def clock(self, ours: float, theirs: datetime, took: float) -> None:
        """Compare this host's clock with the database's."""
        ahead = ours - theirs.timestamp()
        if took > _SLOW:
            return
        skewed = abs(ahead) > _SKEW
        if skewed and not self._skewed:
            _warn(
                {"event": "cron.clock", "ahead": ahead},
                "this host's clock is %.1f s %s the database's; ticks go by the database's",
                abs(ahead),
                "ahead of" if ahead > 0 else "behind",
            )
        self._skewed = skewed

    def mark(self, until: datetime, now: datetime) -> None:
        """Warn if ticks were decided that are yet to come: somebody has set the clock back."""
        ahead = (until - now).total_seconds()
        if ahead > _SET_BACK and not self._ahead:
            _warn(
                {"event": "cron.mark", "ahead": ahead},
                "all ticks until %s were decided already, so nothing runs until then: the "
                "database's clock was ahead, or was set back",
                utc(until),
            )
        self._ahead = ahead > _SET_BACK

    def other(self, message: str) -> None:
        """Warn of another scheduler's version of the jobs."""
        if message not in self._others:
            self._others.add(message)
            _warn({"event": "cron.drift"}, "%s", message)

    def trouble(self, error: Exception) -> None:
        """Warn that a pass failed, once for a row of them."""
        if self._trouble is None:
            words = str(error) or "the database did not answer in time"
            _warn({"event": "cron.trouble"}, "no pass: %s", words)
        self._trouble = str(error)

    def well(self) -> None:
        """Note that a pass went well."""
        if self._trouble is not None:
            _warn({"event": "cron.back"}, "the database is back")
        self._trouble = None


def _warn(facts: dict[str, Any], message: str, *args: object) -> None:
    _observe.tell(logging.WARNING, facts, message, *args, to=log)
