"""The text of a schedule: what each of cron's five fields may say, and what was meant. Pure."""

from __future__ import annotations

import difflib
import hashlib
import re
from datetime import datetime
from typing import Final, NamedTuple, NoReturn

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

from advlock.errors import ConfigError

FIVE: Final = "minute hour day-of-month month day-of-week"
ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SHOWN: Final = 60
_SOME_DAY: Final = datetime(2000, 1, 1)  # noqa: DTZ001
_AT_START: Final = ("@reboot", "@start")


class _Kind(NamedTuple):
    field: Field
    name: str
    low: int
    high: int  # what H reaches: every month has 28 days, and Sunday is 0 only
    allowed: str


_KINDS: Final = (
    _Kind(Field.MINUTE, "minute", 0, 59, "0-59, * or */15"),
    _Kind(Field.HOUR, "hour", 0, 23, "0-23, * or */6"),
    _Kind(Field.DAY, "day-of-month", 1, 28, "1-31, *, L (the last day) or LW (the last weekday)"),
    _Kind(Field.MONTH, "month", 1, 12, "1-12, * or JAN-DEC"),
    _Kind(
        Field.DOW,
        "day-of-week",
        0,
        6,
        "0-7 (0 and 7 are Sunday), * or SUN-SAT, 5L (the last Friday) or MON#2 (the second Monday)",
    ),
)
_H: Final = re.compile(r"H(?:\((\d{1,3})-(\d{1,3})\))?(?:/(\d{1,5}))?", re.ASCII | re.IGNORECASE)
_NUMBERS: Final = re.compile(r"[\d/*-]+", re.ASCII)
_WORD: Final = re.compile(r"[A-Z]{2,}", re.ASCII | re.IGNORECASE)
_RANGE: Final = re.compile(r"(\d{1,3})-(\d{1,3})", re.ASCII)
_STEP: Final = re.compile(r"(?:\*|H|0-59|0-23|1-31)/(\d{1,5})", re.ASCII | re.IGNORECASE)


def read_fields(text: str, name: str) -> str:
    """Return five fields that cronsim understands: aliases written out, H replaced.

    Args:
        text: Five fields or an alias; not `@every`.

        name: The job's, of which H is a hash.

    Raises:
        ConfigError: It is no schedule.
    """
    if text.startswith("@"):
        return _alias(text)
    fields = text.split()
    if len(fields) != len(_KINDS):
        _refuse_number(text, fields)
    pairs = zip(_KINDS, fields, strict=True)
    plain = [_field(kind, field, text, name) for kind, field in pairs]
    expression = " ".join(plain)
    try:
        never = next(CronSim(expression, _SOME_DAY), None) is None  # cronsim tries fifty years
    except CronSimError:  # each field is sound by itself
        never = True
    if never:
        days = zip(_KINDS[2:], plain[2:], strict=True)
        date = " and ".join(f"{kind.name} {field}" for kind, field in days if field != "*")
        refuse(text, f"never happens: no date has {date}; L is the last day of any month")
    return expression


def refuse(text: str, why: str) -> NoReturn:
    """Say what is wrong with a schedule, and what to write."""
    raise ConfigError(f"the schedule {shortened(text)!r} {why}")


def shortened(text: str) -> str:
    """As much of what somebody wrote as a message has room for."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def lint(text: str) -> list[str]:
    """What five fields, or an alias, say and probably do not mean."""
    fields = text.split()
    if len(fields) != len(_KINDS):
        return []
    minute, hour, day, month, weekday = fields
    found = []
    if not day.startswith("*") and not weekday.startswith("*"):
        found.append(
            f"day-of-month {day} and day-of-week {weekday} are both given: cron runs when"
            " EITHER matches; if that is not meant, write * for one of them"
        )
    if hour == "*":
        found += _uneven(minute, 60, "minute", "hour")
    if (day, month, weekday) == ("*", "*", "*"):
        found += _uneven(hour, 24, "hour", "day")
    if (step := _STEP.fullmatch(day)) and int(step[1]) > 1 and weekday == "*":
        found.append(
            f"{day} starts anew on the 1st of every month, so the last step of a month is shorter;"
            f" for every {step[1]} days write @every {step[1]}d"
        )
    return found


def _uneven(field: str, whole: int, unit: str, larger: str) -> list[str]:
    step = _STEP.fullmatch(field)
    if step is None or whole % int(step[1]) == 0:
        return []
    n = int(step[1])
    what = f"ticks once in every {larger}" if n > whole else f"has steps that are not {n} {unit}s"
    anew = f"{field} starts anew with every {larger}, so it {what}"
    return [f"{anew}; for every {n} {unit}s write @every {n}{unit[0]}"]


def _alias(text: str) -> str:
    word = text.split(maxsplit=1)[0]
    if word.lower() in _AT_START:
        refuse(
            text,
            "is no time; start it with the service manager, as a unit that runs `advlock run`",
        )
    if word.lower() not in ALIASES:
        known = (*ALIASES, "@every")
        close = difflib.get_close_matches(word.lower(), known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        refuse(text, f"begins with an unknown word, {shortened(word)}; {meant}")
    if word != text:
        refuse(text, f"says more than {word}; leave out what follows it")
    return ALIASES[word.lower()]


def _refuse_number(text: str, fields: list[str]) -> NoReturn:
    five = f"write five fields, {FIVE}, such as 0 3 * * *"
    if not fields:
        refuse(text, f"is empty; {five}, or @daily")
    if len(fields) == len(_KINDS) + 1:
        refuse(
            text,
            f"has six fields; cron counts minutes, with five: {FIVE}. Which one of six is the"
            " seconds is not the same everywhere; for seconds write @every 30s",
        )
    refuse(text, f"has {len(fields)} field{'s' * (len(fields) > 1)}; {five}, or @daily")


def _field(kind: _Kind, field: str, text: str, name: str) -> str:
    items = [_item(kind, item, text, name) for item in field.split(",")]
    return ",".join(items)


def _item(kind: _Kind, item: str, text: str, name: str) -> str:
    if match := _H.fullmatch(item):
        if not name:
            refuse(text, "has an H, which stands for a hash of the job's name, but has no name")
        return _hashed(kind, match, text, name)
    try:
        kind.field.parse(item.upper())
    except (CronSimError, ValueError):  # ValueError: more digits than Python reads
        _refuse_item(kind, item, text)
    return item


def _hashed(kind: _Kind, match: re.Match[str], text: str, name: str) -> str:
    """Replace an H as Jenkins does: one value of the range, or with a step where to begin."""
    low, high = (int(n) for n in match.groups(default="")[:2]) if match[1] else kind[2:4]
    step = int(match[3]) if match[3] else 0
    if low > high or (match[3] and step == 0):
        _refuse_item(kind, match[0], text)
    for bound in (low, high):
        try:
            kind.field.int(str(bound))
        except CronSimError:
            _refuse_item(kind, match[0], text)
    # The salt keeps hour and minute of one name from going together. sha256: hash() differs
    # from process to process, and every host must find the same.
    seed = hashlib.sha256(f"{name}\0{kind.name}".encode()).digest()
    width = high - low + 1
    start = low + int.from_bytes(seed[:8], "big") % (min(step, width) or width)
    # To cronsim, 29-29/30 is 29/30, which goes on to the field's end.
    return f"{start}-{high}/{step}" if step and start + step <= high else str(start)


def _refuse_item(kind: _Kind, item: str, text: str) -> NoReturn:
    if item == "?":
        refuse(text, f"has a ? as its {kind.name}; write *")
    if forwards := _forwards(kind, item):
        refuse(text, f"runs backwards in its {kind.name}, {item}; write {forwards}")
    why = "out of range" if _NUMBERS.fullmatch(item) else "unreadable"
    allowed = kind.allowed
    if "H" in item.upper() and kind.field is not Field.MONTH and not _WORD.fullmatch(item):
        allowed += "; an H is written H, H/15, H(0-29) or H(0-29)/10"
    refuse(text, f"has a bad {kind.name}, {shortened(item)!r} ({why}); it is {allowed}")


def _forwards(kind: _Kind, item: str) -> str:
    """How to write a range such as 22-2, of which people mean that it goes on past midnight."""
    match = _RANGE.fullmatch(item)
    low, high = (int(n) for n in match.groups()) if match else (0, 0)
    last = 31 if kind.field is Field.DAY else kind.high
    if not kind.low <= high < low <= last:
        return ""
    ends = ((low, last), (kind.low, high))
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in ends)
