"""When a job is due: five fields of cron, `@daily`, `@every 90s`, and H for a hash. Pure.

Every host must find the same ticks, whenever it starts to look: two that do not agree on what is
due can not agree on who runs it. So nothing here depends on a clock, on the host or on a start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cronsim.explain import explain

from advlock._cron._fields import lint, read_fields, refuse
from advlock._cron._ticks import Ticks
from advlock._cron._zone import zone_of
from advlock._duration import brief, seconds
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EVERY: Final = "@every"
_SECOND: Final = timedelta(seconds=1)
_LONGEST: Final = 3660 * 86400


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job is due; made by `Schedule.parse`.

    Attributes:
        text: As somebody wrote it.

        timezone: The IANA name of the zone whose clocks count.
    """

    text: str
    timezone: str
    _expression: str = field(repr=False)
    _period: int = field(repr=False)
    _ticks: Ticks | None = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, timezone: str = "UTC", *, name: str = "") -> Schedule:
        """Read a schedule.

        Args:
            text: Five fields (`0 3 * * *`), of which each may use `H`, a hash of the job's name in
                the field's range (`H 3 * * *`, `H/15 * * * *`, `H(0-29) * * * *`); `@hourly`,
                `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` or `@annually`, which
                are at minute 0; or `@every 90s`, in whole seconds that are counted from
                1970-01-01 00:00 UTC, a day being 86400 of them whatever clocks do.

            timezone: The IANA name of the zone whose clocks count; `@every` has no use for it.

            name: The job's, for `H`.

        Raises:
            ConfigError: It is no schedule, never happens, or there is no such zone.
        """
        zone = zone_of(timezone)
        stripped = text.strip()
        word, *rest = stripped.split(maxsplit=1) or ("",)
        if word.lower() == _EVERY:
            return cls(text, timezone, "", _period(stripped, "".join(rest)), None)
        expression = read_fields(stripped, name)
        return cls(text, timezone, expression, 0, Ticks(expression, zone))

    @property
    def fields(self) -> str:
        """Five fields, aliases and H written out; empty for `@every`."""
        return self._expression

    @property
    def period(self) -> int:
        """The seconds of `@every`; 0 for five fields."""
        return self._period

    def after(self, moment: datetime) -> datetime | None:
        """The first tick after a moment, in UTC; None if there is none within fifty years."""
        return next(self._after(_utc(moment)), None)

    def last(self, until: datetime) -> datetime | None:
        """The newest tick at or before a moment, in UTC; None if there is none in fifty years."""
        return next(self._until(_utc(until)), None)

    def newest(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """The newest ticks after one moment and up to another, at most `limit`, in their order.

        It goes back from `until`, so that a month without a scheduler costs no more than an hour.
        """
        found: list[datetime] = []
        if limit > 0:
            for tick in self._until(_utc(until)):
                if tick <= after:
                    break
                found.append(tick)
                if len(found) == limit:
                    break
        return found[::-1]

    def explain(self) -> str:
        """Say it in English: `At 03:17 every day`."""
        if self._period:
            return f"Every {brief(self._period)}, counted from 1970-01-01 00:00 UTC"
        return explain(self._expression)

    def warnings(self) -> list[str]:
        """What it says and probably does not mean, for people."""
        return [f"the schedule {self.text.strip()!r}: {found}" for found in lint(self.text)]

    def _after(self, moment: datetime) -> Iterator[datetime]:
        if self._ticks is not None:
            return self._ticks.after(moment)
        return self._multiples(moment, 1)

    def _until(self, moment: datetime) -> Iterator[datetime]:
        if self._ticks is not None:
            return self._ticks.until(moment)
        return self._multiples(moment, -1)

    def _multiples(self, moment: datetime, step: int) -> Iterator[datetime]:
        number = (moment - _EPOCH) // _SECOND // self._period + (step > 0)
        while True:
            try:
                tick = _EPOCH + timedelta(seconds=number * self._period)
            except OverflowError:  # the calendar ends with the year 9999
                return
            yield tick
            number += step


def _period(text: str, rest: str) -> int:
    try:
        period = seconds(rest)
    except ConfigError as error:
        refuse(text, f"has no period: {error}")
    if period < 1 or period % 1:
        refuse(text, "has no whole number of seconds, from 1; write @every 30s")
    if period > _LONGEST:
        refuse(text, "is more than ten years apart; write five fields, such as 0 0 1 1 *")
    return int(period)


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone; write datetime.now(UTC)")
    return moment.astimezone(UTC)
