"""The text of schedules: what H stands for, what is refused, and what is said about the rest."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock._cron._fields import ALIASES
from advlock._cron._schedule import Schedule
from advlock.errors import ConfigError

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "name", "same"),
    [
        ("H H * * *", "nightly-report", "4 23 * * *"),
        ("H H * * *", "nightly-reports", "14 17 * * *"),
        ("H/15 * * * *", "nightly-report", "4-59/15 * * * *"),
        ("H(0-29) 3 * * *", "nightly-report", "4 3 * * *"),
        ("H(0-29)/10 3 * * *", "nightly-report", "4-29/10 3 * * *"),
        ("5,h(10-20) 3 H H H", "nightly-report", "5,11 3 18 12 0"),
        ("0 0 H H(1-1) H(1-5)", "nightly-report", "0 0 18 1 1"),
    ],
)
def test_h_is_the_same_for_ever(text: str, name: str, same: str) -> None:
    """A job keeps its minute across versions: another hash would move all jobs of everybody."""
    hashed, plain = Schedule.parse(text, name=name), Schedule.parse(same)
    assert hashed._expression == plain._expression
    assert hashed.after(START) == plain.after(START)


@given(st.text(min_size=1, max_size=30))
def test_h_stays_in_its_range(name: str) -> None:
    """Whatever a job is called, H is a value that its field takes in every month."""
    schedule = Schedule.parse("H H H H H", name=name)
    minute, hour, day, month, weekday = map(int, schedule._expression.split())
    assert minute < 60
    assert hour < 24
    assert 1 <= day <= 28
    assert 1 <= month <= 12
    assert weekday < 7
    within = Schedule.parse("H(10-19) H/6 * * *", name=name)
    found = list(islice(within._after(START), 4))
    assert found[-1] - START < timedelta(days=1)
    assert {10 <= tick.minute <= 19 for tick in found} == {True}


def test_h_spreads_jobs() -> None:
    """A thousand jobs are spread over the hour, and minutes do not follow from hours."""
    found = {Schedule.parse("H H * * *", name=f"job-{n}")._expression for n in range(1000)}
    assert len(found) > 400
    minutes = [int(expression.split()[0]) for expression in found]
    assert len(set(minutes)) == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; write five fields, minute hour"),
        ("  ", "is empty"),
        ("@", "begins with an unknown word, @; there are @hourly"),
        ("* * *", "has 3 fields; write five"),
        ("daily", "has 1 field; write five"),
        ("* * * * * *", r"has six fields; .* write @every 30s"),
        ("* * * * * * *", "has 7 fields"),
        ("61 * * * *", r"has a bad minute, '61' \(out of range\); it is 0-59"),
        ("0 24 * * *", r"has a bad hour, '24' \(out of range\); it is 0-23"),
        ("0 0 0 * *", r"has a bad day-of-month, '0' \(out of range\); it is 1-31"),
        ("0 0 * 13 *", r"has a bad month, '13' \(out of range\); it is 1-12"),
        ("0 0 * JANUARY *", r"has a bad month, 'JANUARY' \(unreadable\).*JAN-DEC$"),
        ("0 0 * * 8", r"has a bad day-of-week, '8' \(out of range\); it is 0-7"),
        ("0 0 * * THURSDAY", r"has a bad day-of-week, 'THURSDAY' .*MON#2"),
        ("0 0 15W * *", "has a bad day-of-month, '15W'"),
        ("0,x 0 * * *", "has a bad minute, 'x'"),
        ("*/0 * * * *", r"has a bad minute, '\*/0'"),
        ("²,1 * * * *", "has a bad minute, '²'"),
        ("9" * 5000 + " * * * *", "has a bad minute, '999.*…'"),
        ("0 22-2 * * *", "runs backwards in its hour, 22-2; write 22-23,0-2$"),
        ("0 0 * * 6-1", "runs backwards in its day-of-week, 6-1; write 6,0-1$"),
        ("0 0 ? * 1", r"has a \? as its day-of-month; write \*"),
        ("0 0 31 2 *", "never happens: no date has day-of-month 31 and month 2"),
        ("0 0 31 4,6,9,11 *", "never happens"),
        ("0 0 */30 2 1#5", "never happens"),
        ("@reboot", "start it with the service manager, .*`advlock run`"),
        ("@START", "start it with the service manager"),
        ("@dayly", "an unknown word, @dayly; did you mean @daily"),
        ("@every1m", "did you mean @every"),
        ("@daily 5", "says more than @daily"),
        ("@every", "has no period: '' is empty; write a duration such as"),
        ("@every 5x", "has no period: '5x' has an unknown unit"),
        ("@every 1.5s", "no whole number of seconds, from 1; write @every 30s"),
        ("@every 0", "no whole number of seconds"),
        ("@every 9999d", "more than ten years"),
        ("H/0 * * * *", r"has a bad minute, 'H/0'.* an H is written H, H/15"),
        ("H(5-70) * * * *", "an H is written"),
        ("H(9-3) * * * *", "an H is written"),
        ("0 0 * * H(MON-FRI)", "an H is written"),
        ("0 0 H-5 * *", "an H is written"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_to_write(text: str, words: str) -> None:
    """The message names the field, its value and what the field may say, and stays short."""
    with pytest.raises(ConfigError, match=words) as caught:
        Schedule.parse(text, name="job")
    assert len(str(caught.value)) < 330


def test_h_needs_a_name() -> None:
    """Without a name there is nothing to hash, and every such job would run at once."""
    with pytest.raises(ConfigError, match="hash of the job's name, but has no name"):
        Schedule.parse("H 3 * * *")


@pytest.mark.parametrize(
    ("zone", "words"),
    [
        ("Europe/berlin", r"no timezone 'Europe/berlin'; did you mean Europe/Berlin\?"),
        ("Berlin", r"did you mean Europe/Berlin\?"),
        ("America/New York", r"did you mean America/New_York\?"),
        ("utc", r"did you mean UTC\?"),
        ("Europe", "no timezone 'Europe'"),
        ("", "no timezone ''; write a name such as"),
        ("../../etc/passwd", "no timezone"),
        ("/etc/localtime", "no timezone"),
        ("zone.tab", "no timezone"),
        ("a\0b", "no timezone"),
        ("x" * 5000, "no timezone 'xxx.*…'; write a name"),
        ("localtime", "not the same on every host; write a name"),
        ("right/Europe/Berlin", "not the same on every host"),
    ],
)
def test_what_is_no_timezone_is_refused_with_one_that_is(zone: str, words: str) -> None:
    """A misspelled zone gets the closest ones, a path nothing, and one host's own zone a reason."""
    with pytest.raises(ConfigError, match=words) as caught:
        Schedule.parse("@daily", zone)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 1 * MON", "day-of-month 1 and day-of-week MON are both given: .* EITHER"),
        ("*/7 * * * *", "steps that are not 7 minutes; for every 7 minutes write @every 7m"),
        ("H/45 * * * *", "for every 45 minutes write @every 45m"),
        ("*/90 * * * *", "ticks once in every hour; for every 90 minutes write @every 90m"),
        ("0 */5 * * *", "starts anew with every day.*write @every 5h"),
        ("0 0 */2 * *", "starts anew on the 1st of every month.*write @every 2d"),
    ],
)
def test_what_is_probably_not_meant_gets_a_warning(text: str, words: str) -> None:
    """Allowed, because cron allows it, and said, because hardly anybody means it."""
    (warning,) = Schedule.parse(text, name="job").warnings()
    assert re.search(words, warning)


@pytest.mark.parametrize(
    "text",
    [
        "*/15 * * * *",
        "0 */6 * * *",
        "0 0 */2 * 1",
        "0 9-17 * * 1-5",
        "*/7 3 * * *",
        "@every 7m",
        *ALIASES,
    ],
)
def test_what_is_well_gets_no_warning(text: str) -> None:
    """A warning at what is meant teaches people not to read them."""
    assert Schedule.parse(text).warnings() == []


@given(st.text("0123456789*/-,LWH#()MONJA ?@", max_size=25))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    """Nothing but ConfigError comes out, and whatever is read can be explained."""
    try:
        schedule = Schedule.parse(text, name="job")
    except ConfigError:
        return
    assert schedule.explain()
    schedule.warnings()
    assert schedule.after(datetime(2000, 1, 1, tzinfo=UTC))


def test_explained() -> None:
    """People read the times that stand behind H."""
    assert Schedule.parse("17 3 * * *").explain() == "At 03:17 every day"
    assert Schedule.parse("H 3 * * *", name="nightly-report").explain() == "At 03:04 every day"
