"""Several beats, of which one sends.

The rules:

1. Only the leader ticks, and it looks whether it still leads right before each message.
2. When an entry was sent last is in the database, in its row of `advlock.once`: by that the next
   leader goes. A schedule file is of one host.
3. It is recorded after the message was sent. A beat that is killed between the two leaves a message
   that the next leader sends again, with the same task id.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from celery import beat

from advlock import _observe
from advlock._celery import _settings
from advlock._celery._campaign import Campaign
from advlock.errors import LockError, LockNotHeld

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from advlock._leader._leader import Term
    from advlock._locks import Locks

# How long the beat sleeps at most, and a standby waits, in seconds: it has to notice a new term,
# and that it should end (the embedded beat of `celery worker -B` is only told by a flag).
LOOK: Final = 1.0
# How long the row of an entry may be locked by somebody else, in seconds.
PATIENCE: Final = 10.0
# What is due is for the schedule to say; so a window that is over as soon as it has begun. (With
# none the entry would be sent once, ever.)
WINDOW: Final = 1e-6
# The clocks of two hosts differ. Where the schedule names moments (`crontab`), a new leader takes
# what was sent less than this before a moment for that moment's.
SKEW: Final = timedelta(seconds=1)
# What Celery logs, as debug, where it logs the id of a message; 5.3 does not take None.
_NOT_SENT: Final = SimpleNamespace(id="none: not sent")
_IDS: Final = uuid.UUID("5b8f5a0e-52e6-4f0c-9f3c-0d6a9f1f8a51")

log = logging.getLogger("advlock.celery")


class Leads:
    """What `leading` puts before a scheduler's own methods."""

    app: Any
    schedule: Any
    max_interval: float
    old_schedulers: Any
    _campaign: Campaign | None = None
    _locks: Locks
    _term: Term | None = None
    _standing_by = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._made: dict[str, Any] = {}  # the entries that are due next, by name
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Tick if we lead; otherwise wait for that, up to a second."""
        campaign = self._campaign or self._begin()
        term = campaign.wait(min(self.max_interval, LOOK))
        if term is None:
            if not self._standing_by:
                self._tell("beat.standby", "not leading; standing by", logging.INFO)
            self._standing_by = True
            return 0
        try:
            self._take_over(term)
        except LockError as error:
            self._tell("beat.unavailable", f"cannot tell what was sent: {error}", logging.WARNING)
            return LOOK
        delay = super().tick(*args, **kwargs)  # type: ignore[misc]
        return LOOK if delay is None else min(float(delay), LOOK)

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        """Send what is due, if we lead and nobody has sent it."""
        term, name = self._term, self._lock_name()
        if term is None or entry.name not in self._sent:
            raise LockNotHeld(f"{entry.name!r} is not sent: this beat does not lead", name=name)
        failed: list[Exception] = []
        result: Any = _NOT_SENT
        try:
            with self._locks.once(self._row(entry.name), per=WINDOW, wait=PATIENCE) as todo:
                if todo:
                    token = todo.token()
                    with _task_id(entry, f"{self._row(entry.name)}:{self._sent[entry.name]}"):
                        # The last look. Before it the broker may have been waited for.
                        term.check()
                        try:
                            result = super().apply_async(  # type: ignore[misc]
                                entry, *args, **kwargs
                            )
                        except Exception as error:  # noqa: BLE001 - raised again, below
                            # As in Celery: it had its turn, and comes again when it is due next.
                            # It may have been sent: what fails after that is writing a schedule.
                            failed.append(error)
        except LockError as error:
            self._term = None  # look what is on record, before anything else is sent
            self._tell("beat.interrupted", f"{entry.name!r}: {error}", logging.WARNING)
            return _NOT_SENT
        if todo:
            self._sent[entry.name] = token
            self._fresh.discard(entry.name)
        else:
            self._term = None
        if failed:
            raise failed[0]
        return result

    def reserve(self, entry: Any) -> Any:
        """Note what we make ourselves: any other new entry was read anew, from somewhere."""
        made = self._made[entry.name] = super().reserve(entry)  # type: ignore[misc]
        return made

    def close(self) -> None:
        """Sync, and let another beat lead. Bounded; may be called again."""
        try:
            super().close()  # type: ignore[misc]
        finally:
            if self._campaign is not None:
                self._campaign.close()

    # -- the lead ----------------------------------------------------------------------------------

    def _begin(self) -> Campaign:
        # Not before the first tick: a scheduler is also made to look at, and before forks.
        self._sent: dict[str, int] = {}  # the token of whoever sent an entry last
        self._fresh: set[str] = set()  # those that nobody has sent yet, as far as we know
        self._seen: dict[str, Any] = {}  # the entries as they were at the last look
        self._locks = _settings.make(self.app, lease=_settings.LEASE)
        self._campaign = Campaign(self._locks, self._lock_name())
        return self._campaign

    def _take_over(self, term: Term) -> None:
        """Learn when each entry was sent last, by whomever: all of a new term, then new ones.

        Also those that were read anew, as `DatabaseScheduler` does after a change: its table may
        not know what an earlier leader has sent.
        """
        if self._term is not term:
            self._sent.clear()
            self._fresh.clear()
        entries = self.schedule
        unknown = [name for name, entry in entries.items() if self._is_unknown(name, entry)]
        for name in unknown:
            entry = entries[name]
            with self._locks.once(self._row(name), wait=PATIENCE) as found:
                if found:
                    self._sent[name] = found.token()  # first seen, and on record from now on
                    self._fresh.add(name)
                else:
                    self._sent[name] = found.token
                    entry.last_run_at = _as_last_run(entry, found.started_at)
        for name in self._sent.keys() - set(entries):
            del self._sent[name]
            self._fresh.discard(name)
        self._seen = dict(entries)
        if unknown:
            # The heap is made anew. Not by taking it away: `schedules_equal` of `DatabaseScheduler`
            # would not be asked, and have it made a second time, with what was sent meanwhile.
            self.old_schedulers = None
        if self._term is not term:
            self._term, self._standing_by = term, False
            self._tell("beat.leading", "this beat sends", logging.INFO)

    def _is_unknown(self, name: str, entry: Any) -> bool:
        if name not in self._sent:
            return True
        ours = entry is self._seen.get(name) or entry is self._made.get(name)
        return not (ours or name in self._fresh)

    def _lock_name(self) -> str:
        return str(_settings.setting(self.app, "name", _settings.NAME))

    def _row(self, entry_name: str) -> str:
        return f"{self._lock_name()}:{entry_name}"

    def _tell(self, event: str, what: str, level: int) -> None:
        name = self._lock_name()
        facts = {"event": event, "lock": name}
        _observe.tell(level, facts, "%r: %s", name, what, to=log)


class Scheduler(Leads, beat.Scheduler):
    """For `celery beat -S advlock.celery.Scheduler`: of all beats that say so, one sends.

    The others stand by, and one of them goes on when the first one ends, is killed or cut off.
    What was sent is on record in the table `advlock.once`; there is no schedule file.

    Settings of the app: `advlock_dsn` (otherwise the environment is asked), `advlock_name` (the
    lock, and the prefix of the rows; `celery-beat`), `advlock_lease` (30 seconds),
    `advlock_liveness`, `advlock_namespace`, `advlock_registry`, `advlock_strict`.
    """


def leading(base: type[beat.Scheduler]) -> type[beat.Scheduler]:
    """Make a scheduler of which one leads, of any other: `leading(DatabaseScheduler)`.

    Args:
        base: A subclass of `celery.beat.Scheduler` that sends by `apply_async`, as all known ones.
    """
    about = {"__doc__": f"`{base.__name__}`, of which one leads.", "__module__": base.__module__}
    return type(f"Leading{base.__name__}", (Leads, base), about)


@contextlib.contextmanager
def _task_id(entry: Any, key: str) -> Iterator[None]:
    # The next entry shares the dictionary, so it is replaced, and put back.
    before = entry.options
    entry.options = {"task_id": str(uuid.uuid5(_IDS, key)), **before}
    try:
        yield
    finally:
        entry.options = before


def _as_last_run(entry: Any, moment: datetime) -> datetime:
    """Bring a moment of the server's clock into the entry's time zone."""
    if not hasattr(entry.schedule, "run_every"):
        moment += SKEW
    zone = entry.default_now().tzinfo
    there = moment.astimezone(zone)
    return there.replace(tzinfo=None) if zone is None else there
