"""The ticks of five cron fields, as instants. Pure, and the same from wherever one starts to look.

cronsim knows which times of a clock on the wall match; what becomes of the hours that such a clock
shows twice or never is decided here, by the rules of Debian's cron:

* A schedule with a `*` at the start of its minutes or hours (`0 * * * *`, `*/10 2 * * *`) follows
  the time that passes: it ticks whenever the clock shows a match, twice if it does so twice.
* Any other (`30 2 * * *`) is for times of the day: it ticks the first time the clock shows one, and
  for one that is skipped at the moment when the clock goes on. No day is without its tick.

cronsim has the same rules, but decides by the moment from which it was started: begun inside a
repeated hour it goes back in time, and where clocks move by half an hour (Australia/Lord_Howe)
or at midnight (Africa/Cairo) it misses and invents ticks. Given a clock without a zone it is exact.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cronsim import CronSim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import tzinfo

_NONE: Final = timedelta(0)
_SECOND: Final = timedelta(seconds=1)
# No clock of any zone was ever set back by as much, nor twice within it.
_DAY: Final = timedelta(days=1)
_ANY: Final = datetime(2000, 1, 1)  # noqa: DTZ001


class Ticks:
    """The instants at which the clocks of a zone show what five cron fields ask for."""

    __slots__ = ("_backward", "_every_pass", "_forward", "_zone")

    def __init__(self, expression: str, zone: tzinfo) -> None:
        # Parsed once and copied for each use: parsing costs more than the next tick does.
        self._forward = CronSim(expression, _ANY)
        self._backward = CronSim(expression, _ANY, reverse=True)
        self._zone = zone
        minute, hour = expression.split()[:2]
        self._every_pass = minute.startswith("*") or hour.startswith("*")

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks after a moment in UTC, the earliest first."""
        with suppress(OverflowError):
            wall = self._wall(moment)
            early = self._instants(_walk(self._forward, wall), fold=0)
            if not self._every_pass or self._zone is UTC:
                yield from _distinct(tick for tick in early if tick > moment)
                return
            late = self._instants(_walk(self._forward, wall - self._repeats(moment, _DAY)), fold=1)
            yield from _distinct(tick for tick in heapq.merge(early, late) if tick > moment)

    def until(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks at or before a moment in UTC, the newest first."""
        with suppress(OverflowError):
            wall = self._wall(moment).replace(microsecond=0) + _SECOND
            wall += self._repeats(moment, -_DAY)
            early = self._instants(_walk(self._backward, wall), fold=0)
            if not self._every_pass or self._zone is UTC:
                yield from _distinct(tick for tick in early if tick <= moment)
                return
            late = self._instants(_walk(self._backward, wall), fold=1)
            both = heapq.merge(early, late, reverse=True)
            yield from _distinct(tick for tick in both if tick <= moment)

    def _instants(self, walls: Iterable[datetime], *, fold: int) -> Iterator[datetime]:
        """Yield when clocks show these for the first (0) or last (1) time, in the same order."""
        zone = self._zone
        if zone is UTC:
            for wall in walls:
                yield wall.replace(tzinfo=UTC)
            return
        for wall in walls:
            before = wall.replace(tzinfo=zone).utcoffset()
            behind = wall.replace(tzinfo=zone, fold=1).utcoffset()
            assert before is not None
            assert behind is not None
            if before >= behind:  # PEP 495: equal on most days, greater in a repeated hour…
                yield (wall - (behind if fold else before)).replace(tzinfo=UTC)
            elif not self._every_pass:  # …and less in one that is skipped
                yield self._end_of_gap(wall, before, behind)

    def _end_of_gap(self, wall: datetime, before: timedelta, behind: timedelta) -> datetime:
        """When clocks go on that never show `wall`: everything they skip has this one instant."""
        start = (wall - behind).replace(tzinfo=UTC)
        seconds = range(int((behind - before).total_seconds()) + 1)
        passed = bisect_left(
            seconds, 1, key=lambda s: self._offset(start + timedelta(seconds=s)) != before
        )
        return start + timedelta(seconds=passed)

    def _repeats(self, moment: datetime, towards: timedelta) -> timedelta:
        """How far clocks are set back, if what they show at `moment` they show again by that.

        Towards the future, times from before `moment` are then shown once more after it; towards
        the past, times from after it were shown already.
        """
        if self._zone is UTC:
            return _NONE
        here, there = self._offset(moment), self._offset(moment + towards)
        back = here - there if towards > _NONE else there - here
        if back <= _NONE:
            return _NONE
        near = moment + back if towards > _NONE else moment - back
        return _NONE if self._offset(near) == here else back

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None, fold=0)

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset


def _walk(sim: CronSim, wall: datetime) -> Iterator[datetime]:
    walker = copy(sim)
    walker.dt = wall.replace(microsecond=0)
    with suppress(OverflowError):  # the calendar ends with the year 9999
        yield from walker


def _distinct(ticks: Iterable[datetime]) -> Iterator[datetime]:
    previous = None
    for tick in ticks:
        if tick != previous:
            yield tick
        previous = tick
