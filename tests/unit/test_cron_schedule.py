"""Schedules: the same ticks on every host, whatever clocks do."""

from __future__ import annotations

import pickle
import time
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from advlock._cron._fields import ALIASES
from advlock._cron._schedule import Schedule
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

BERLIN = "Europe/Berlin"
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ZONES = (
    "Africa/Cairo",  # goes on at midnight
    "America/New_York",
    "America/Santiago",  # at midnight, too
    "America/Sao_Paulo",
    "Antarctica/Troll",  # two hours at once
    "Asia/Beirut",  # at midnight, too
    "Asia/Kolkata",  # never, and half an hour off
    "Australia/Lord_Howe",  # half an hour
    BERLIN,
    "Pacific/Auckland",
)


def ticks(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    """All ticks after one moment and up to another, each found from the one before."""

    def each() -> Iterator[datetime]:
        tick = schedule.after(after)
        while tick is not None:
            yield tick
            tick = schedule.after(tick)

    return list(takewhile(lambda tick: tick <= until, each()))


def local(text: str, zone: str, day: date) -> list[str]:
    """The ticks of one calendar day of a zone, as its clocks show them."""
    start = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    found = ticks(
        Schedule.parse(text, zone), start.astimezone(UTC) - timedelta(seconds=1), _next(start)
    )
    return [tick.astimezone(start.tzinfo).strftime("%H:%M%z")[:8] for tick in found]


def _next(start: datetime) -> datetime:
    return (start + DAY).astimezone(UTC) - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "day", "expected"),
    [
        ("30 2 * * *", SPRING, ["03:00+02"]),
        ("30 2 * * *", AUTUMN, ["02:30+02"]),
        ("0 2,3 * * *", SPRING, ["03:00+02"]),
        ("0 2,3 * * *", AUTUMN, ["02:00+02", "03:00+01"]),
        ("0,30 2-3 * * *", SPRING, ["03:00+02", "03:30+02"]),
        ("0 3 * * *", SPRING, ["03:00+02"]),
        ("0 3 * * *", AUTUMN, ["03:00+01"]),
        ("*/30 2 * * *", SPRING, []),
        ("*/30 2 * * *", AUTUMN, ["02:00+02", "02:30+02", "02:00+01", "02:30+01"]),
        ("0 */2 * * 7", SPRING, [f"{h:02}:00+{1 + (h > 2):02}" for h in range(0, 24, 2) if h != 2]),
        ("@daily", SPRING, ["00:00+01"]),
        ("@daily", AUTUMN, ["00:00+02"]),
        ("0 12 29 3 *", SPRING, ["12:00+02"]),
    ],
)
def test_the_two_odd_days_of_berlin(text: str, day: date, expected: list[str]) -> None:
    """Times of the day come once a day, whatever clocks do; a star follows the time that passes."""
    assert local(text, BERLIN, day) == expected


@pytest.mark.parametrize(("day", "count"), [(SPRING, 23), (AUTUMN, 25), (date(2026, 5, 1), 24)])
@pytest.mark.parametrize("text", ["0 * * * *", "@hourly", "17 * * * *"])
def test_every_hour_of_an_odd_day(text: str, day: date, count: int) -> None:
    """An hourly job ticks once in every hour that passes, an hour apart."""
    start = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)
    found = local(text, BERLIN, day)
    assert len(found) == len(set(found)) == count
    schedule = Schedule.parse(text, BERLIN)
    assert {b - a for a, b in pairwise(ticks(schedule, start, start + 2 * DAY))} == {HOUR}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 LW * *", ["2026-01-30", "2026-02-27", "2026-03-31"]),
        ("0 0 * * 5L", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * MON#2", ["2026-01-12", "2026-02-09", "2026-03-09"]),
        ("0 0 * * 1", ["2026-01-05", "2026-01-12", "2026-01-19"]),
        ("0 0 * * 7", ["2026-01-04", "2026-01-11", "2026-01-18"]),
        ("0 0 * * 0", ["2026-01-04", "2026-01-11", "2026-01-18"]),
        ("0 0 * * mon-tue", ["2026-01-05", "2026-01-06", "2026-01-12"]),
        ("0 0 1 * MON", ["2026-01-01", "2026-01-05", "2026-01-12"]),
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("@weekly", ["2026-01-04", "2026-01-11", "2026-01-18"]),
        ("@monthly", ["2026-01-01", "2026-02-01", "2026-03-01"]),
        ("@yearly", ["2026-01-01", "2027-01-01", "2028-01-01"]),
        ("@Annually", ["2026-01-01", "2027-01-01", "2028-01-01"]),
        ("@every 36h", ["2026-01-01", "2026-01-02", "2026-01-04"]),
    ],
)
def test_days(text: str, expected: list[str]) -> None:
    """Last days, n-th weekdays, names, either number of Sunday, and the aliases."""
    schedule = Schedule.parse(text)
    found = islice(schedule._after(datetime(2025, 12, 31, 23, 59, tzinfo=UTC)), 3)
    assert [tick.date().isoformat() for tick in found] == expected


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_are_at_minute_0_and_once_a_day(alias: str) -> None:
    """No alias stands for a hash: whoever writes @daily means midnight."""
    tick = Schedule.parse(alias, name="any").after(datetime(2026, 1, 1, 5, 3, tzinfo=UTC))
    assert tick is not None
    assert (tick.minute, tick.second) == (0, 0)
    assert alias == "@hourly" or tick.hour == 0


# Odd days of every zone, within a span that the model below looks at minute by minute.
ODD = {
    "Africa/Cairo": (date(2026, 4, 24), date(2026, 10, 30)),
    "America/Havana": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/Santiago": (date(2026, 9, 6), date(2026, 4, 5)),
    "America/Sao_Paulo": (date(2018, 11, 4), date(2019, 2, 17)),
    "Antarctica/Troll": (date(2026, 3, 29), date(2026, 10, 25)),
    "Asia/Beirut": (date(2026, 3, 29), date(2026, 10, 25)),
    "Asia/Kolkata": (date(2026, 3, 29),),
    "Atlantic/Azores": (date(2026, 3, 29), date(2026, 10, 25)),
    "Australia/Lord_Howe": (date(2026, 10, 4), date(2026, 4, 5)),
    BERLIN: (SPRING, AUTUMN),
    "UTC": (SPRING,),
}


@cache
def minutes_around(zone: str, day: date) -> list[tuple[datetime, datetime]]:
    """Every minute of seven days: in UTC, and what clocks show."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - 3 * DAY
    every = (start + n * MINUTE for n in range(7 * 24 * 60))
    return [(t, t.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for t in every]


def model(
    zone: str, day: date, hours: list[int], minutes: list[int], *, star: bool
) -> set[datetime]:
    """The ticks in these days, by looking at the clock in every minute."""
    around = minutes_around(zone, day)
    if star:
        return {t for t, wall in around if wall.hour in hours and wall.minute in minutes}
    start = around[0][1].replace(hour=0, minute=0) + DAY
    asked = sorted(
        start + d * DAY + h * HOUR + m * MINUTE for d in range(5) for h in hours for m in minutes
    )
    found, position = set(), 0
    for t, wall in around:  # the first minute in which the clock has come so far
        while position < len(asked) and wall >= asked[position]:
            found.add(t)
            position += 1
    return found


@st.composite
def odd_schedules(draw: st.DrawFn) -> tuple[Schedule, set[datetime], datetime]:
    """A schedule in a zone around a day on which its clocks change, its ticks, and a moment."""
    zone = draw(st.sampled_from(sorted(ODD)))
    day = draw(st.sampled_from(ODD[zone]))
    every_hour, every_minute = draw(st.booleans()), draw(st.booleans())
    hour = st.one_of(st.integers(0, 4), st.integers(0, 23))
    hours = list(range(24)) if every_hour else sorted(draw(st.sets(hour, min_size=1, max_size=4)))
    minutes = sorted(draw(st.sets(st.integers(0, 59), min_size=1, max_size=3)))
    if every_minute:
        minutes = list(range(0, 60, draw(st.sampled_from([10, 15, 30]))))
    step = minutes[1] - minutes[0] if every_minute else 0
    text = f"{f'*/{step}' if step else ','.join(map(str, minutes))}"
    text += f" {'*' if every_hour else ','.join(map(str, hours))} * * *"
    middle = datetime(day.year, day.month, day.day, tzinfo=UTC)
    offset = draw(st.integers(-86_400, 86_400))
    moment = middle + timedelta(seconds=offset, microseconds=draw(st.sampled_from([0, 1])))
    found = model(zone, day, hours, minutes, star=every_hour or every_minute)
    return Schedule.parse(text, zone), found, moment


@given(odd_schedules())
def test_ticks_are_the_same_from_wherever_one_looks(
    example: tuple[Schedule, set[datetime], datetime],
) -> None:
    """Forwards and backwards, from any moment, there are the ticks that the clock itself shows."""
    schedule, expected, moment = example
    ahead = sorted(tick for tick in expected if tick > moment)[:6]
    assert list(islice(schedule._after(moment), len(ahead))) == ahead
    assert ticks(schedule, moment, ahead[-1]) == ahead if ahead else True
    behind = sorted(tick for tick in expected if moment - DAY < tick <= moment)
    assert schedule.newest(moment - DAY, moment, 999) == behind
    assert schedule.newest(moment - DAY, moment, 3) == behind[-3:]
    if behind:
        assert schedule.last(moment) == behind[-1]


@pytest.mark.parametrize("zone", ZONES)
def test_no_daily_job_is_skipped_or_doubled(zone: str) -> None:
    """In five years, whatever clocks do, there is one tick on every date, about a day apart."""
    info = ZoneInfo(zone)
    first = datetime(2023, 1, 1, 12, tzinfo=UTC)
    for text in ("0 0", "30 0", "30 1", "0 2", "47 23"):
        schedule = Schedule.parse(f"{text} * * *", zone)
        found = list(takewhile(lambda t: t.year < 2028, schedule._after(first)))
        dates = [tick.astimezone(info).date() for tick in found]
        assert dates == [dates[0] + n * DAY for n in range(len(dates))]
        assert len(dates) >= 5 * 365
        assert all(22 * HOUR <= b - a <= 26 * HOUR for a, b in pairwise(found))


@given(
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    start=st.datetimes(datetime(2022, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001
)
def test_no_daily_job_is_skipped_or_doubled_at_any_time(
    zone: str, hour: int, minute: int, start: datetime
) -> None:
    """The same for any time of the day, in sixty days from anywhere, each asked for by itself."""
    begin = start.replace(tzinfo=UTC)
    found = ticks(Schedule.parse(f"{minute} {hour} * * *", zone), begin, begin + 60 * DAY)
    dates = [tick.astimezone(ZoneInfo(zone)).date() for tick in found]
    assert dates == [dates[0] + n * DAY for n in range(len(dates))]
    assert all(22 * HOUR <= b - a <= 26 * HOUR for a, b in pairwise(found))


FIELDS = st.tuples(
    st.sampled_from(["*", "*/7", "0", "5,35", "10-20"]),
    st.sampled_from(["*", "*/5", "0", "2", "1-3", "23"]),
    st.sampled_from(["*", "1", "L", "31", "*/10"]),
    st.sampled_from(["*", "2", "1,3,5"]),
    st.sampled_from(["*", "1", "5L", "MON#2"]),
)


@given(
    fields=FIELDS,
    zone=st.sampled_from(sorted(ODD)),
    until=st.datetimes(datetime(2020, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001
    hours=st.integers(0, 24 * 5),
    limit=st.integers(0, 20),
)
def test_newest_is_the_end_of_all(
    fields: tuple[str, ...], zone: str, until: datetime, hours: int, limit: int
) -> None:
    """Going back finds what going forward through everything finds at its end."""
    try:
        schedule = Schedule.parse(" ".join(fields), zone)
    except ConfigError:  # the 31st of February
        return
    end = until.replace(tzinfo=UTC)
    start = end - timedelta(hours=hours)
    every = list(takewhile(lambda t: t <= end, schedule._after(start)))
    assert schedule.newest(start, end, limit) == (every[-limit:] if limit else [])


@pytest.mark.parametrize("text", ["* * * * *", "@every 60s", "* * * 1 *", "0 0 29 2 *"])
def test_the_newest_of_many_years_cost_no_more_than_those_of_an_hour(text: str) -> None:
    """After any outage only what is wanted is looked at."""
    schedule = Schedule.parse(text, BERLIN)
    until = datetime(2026, 12, 24, tzinfo=UTC)
    begin = time.monotonic()
    found = schedule.newest(until - 30 * 365 * DAY, until, 5)
    assert time.monotonic() - begin < 1  # one by one it would be a minute
    assert len(found) == 5
    assert schedule.last(until) == found[-1]


def test_every_counts_from_1970_on_every_host() -> None:
    """@every has no start of its own, in any time zone, and no day that is longer than others."""
    schedule = Schedule.parse("  @Every\t90s ", BERLIN)
    moment = datetime(2026, 10, 25, 0, 0, 1, tzinfo=UTC)
    found = ticks(schedule, moment, moment + 5 * HOUR)
    assert len(found) == 200
    assert all(tick.timestamp() % 90 == 0 for tick in found)
    assert schedule.newest(moment, moment + 5 * HOUR, 999) == found
    assert schedule.last(found[3]) == found[3]
    assert schedule.after(found[3]) == found[4]
    assert schedule.last(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == datetime(
        1969, 12, 31, 23, 58, 30, tzinfo=UTC
    )
    assert schedule.explain() == "Every 1m30s, counted from 1970-01-01 00:00 UTC"


def test_a_schedule_is_a_value() -> None:
    """Equal, hashed and pickled by what it says; H makes it another one for another job."""
    a, b = (
        Schedule.parse("H 3 * * *", BERLIN, name="a"),
        Schedule.parse("H 3 * * *", BERLIN, name="b"),
    )
    assert a == Schedule.parse("H 3 * * *", BERLIN, name="a") != b
    assert len({a, b, pickle.loads(pickle.dumps(a))}) == 2
    assert repr(a) == "Schedule(text='H 3 * * *', timezone='Europe/Berlin')"
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert pickle.loads(pickle.dumps(a)).after(moment) == a.after(moment)


def test_moments_have_a_time_zone() -> None:
    """A moment in another zone is the same moment, and one without is refused."""
    schedule = Schedule.parse("0 3 * * *", BERLIN)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert schedule.after(moment.astimezone(ZoneInfo("Asia/Tokyo"))) == schedule.after(moment)
    assert schedule.after(moment) == datetime(2026, 1, 1, 2, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"datetime\.now\(UTC\)"):
        schedule.after(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("text", ["* * * * *", "0 0 29 2 *", "@every 1d"])
@pytest.mark.parametrize("zone", ["UTC", BERLIN])
def test_the_calendar_ends(text: str, zone: str) -> None:
    """At the end of the calendar there is no tick, and no error either."""
    schedule = Schedule.parse(text, zone)
    assert schedule.after(datetime.max.replace(tzinfo=UTC)) is None
    assert schedule.last(datetime.min.replace(tzinfo=UTC) + MINUTE) in {
        None,
        datetime.min.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC) + MINUTE,
    }


def test_cronsim_alone_depends_on_where_it_starts() -> None:
    """Why it gets no zone: within the repeated hour it goes back, and half hours lose ticks."""
    within = datetime(2026, 10, 25, 1, 10, tzinfo=UTC).astimezone(ZoneInfo(BERLIN))
    assert next(CronSim("30 2 * * *", within)).astimezone(UTC) < within
    howe = ZoneInfo("Australia/Lord_Howe")
    before = datetime(2026, 10, 4, 0, 50, tzinfo=howe)
    assert next(CronSim("*/15 3 * * *", before)).strftime("%H:%M") == "03:30"
    first = Schedule.parse("*/15 3 * * *", "Australia/Lord_Howe").after(before)
    assert first is not None
    assert first.astimezone(howe).strftime("%H:%M") == "03:00"
