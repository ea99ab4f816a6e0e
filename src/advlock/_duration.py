"""Durations as people write and read them: `30s` in, `2h05m` out. Pure."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final, NoReturn

from advlock.errors import ConfigError

SPELLINGS: Final = "5, 30s, 1.5m, 2h, 1d, 100ms"

_SHOWN: Final = 60
_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)([A-Za-z]*)", re.ASCII)


def seconds(x: float | str | timedelta) -> float:
    """Return a duration in seconds.

    Args:
        x: Seconds as a number, a `timedelta`, or a string such as `5`, `30s`, `1.5m`, `2h`,
            `1d`, `100ms`. A bare number is seconds. The float `inf` passes; the string does not.

    Raises:
        ConfigError: It is negative, no number, or spelled in another way.
    """
    if isinstance(x, str):
        return _parsed(x)
    if isinstance(x, timedelta):
        return _checked(x.total_seconds(), x)
    if isinstance(x, bool) or not isinstance(x, int | float):
        _refuse(repr(x), "is no duration" if x is None else f"is a {type(x).__name__}")
    try:
        return _checked(float(x), x)
    except OverflowError:
        _refuse("that number", "is more seconds than a float can count")


def brief(seconds: float) -> str:
    """Return a duration for people, in at most two units: `3s`, `1.5s`, `12m`, `2h05m`, `3d04h`.

    Args:
        seconds: A length of time; a negative one (clocks do step back) reads as `0s`.
    """
    if math.isinf(seconds) and seconds > 0:
        return "forever"
    # Rounded before the unit is chosen, so that 0.9996 is `1s` and never `1000ms`.
    milliseconds = round(max(seconds, 0.0) * 1000)
    if 0 < milliseconds < 1000:  # noqa: PLR2004
        return f"{milliseconds}ms"
    if milliseconds < 10_000:  # noqa: PLR2004
        return f"{round(milliseconds / 1000, 1):g}s"
    whole = milliseconds // 1000
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    for big, unit, small, lesser in (
        (days, "d", h, "h"),
        (hours, "h", m, "m"),
        (minutes, "m", s, "s"),
    ):
        if big:
            return f"{big}{unit}{small:02d}{lesser}" if small else f"{big}{unit}"
    return f"{whole}s"


def _parsed(text: str) -> float:
    stripped = text.strip()
    match = _DURATION.fullmatch(stripped)
    if match is None:
        negative = stripped.startswith("-")
        _refuse(
            repr(text), "is negative" if negative else "is no duration" if stripped else "is empty"
        )
    number, unit = match.groups()
    if unit not in _UNITS:
        _refuse(repr(text), f"has an unknown unit, {unit!r}")
    value = float(number) * _UNITS[unit]
    if math.isinf(value):
        _refuse("that number", "is more seconds than a float can count")
    return value


def _checked(value: float, x: object) -> float:
    if math.isnan(value):
        _refuse(repr(x), "is no number")
    if value < 0:
        _refuse(repr(x), "is negative")
    return value


def _refuse(what: str, why: str) -> NoReturn:
    shown = what if len(what) <= _SHOWN else what[: _SHOWN - 1] + "…"
    raise ConfigError(f"{shown} {why}; write a duration such as {SPELLINGS}")
