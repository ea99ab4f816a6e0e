"""Durations: what people type, and what they read."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock._duration import SPELLINGS, brief, seconds
from advlock.errors import ConfigError


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ("5", 5),
        ("30s", 30),
        ("1.5m", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("100ms", 0.1),
        (".5s", 0.5),
        ("5.", 5),
        (" 5s\n", 5),
        ("0", 0),
        (5, 5),
        (0.25, 0.25),
        (math.inf, math.inf),
        (timedelta(minutes=1, milliseconds=500), 60.5),
    ],
)
def test_accepted_spellings(x: Any, expected: float) -> None:
    """Numbers are seconds, and strings carry flock's and systemd's usual units."""
    answer = seconds(x)
    assert type(answer) is float
    assert answer == pytest.approx(expected)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("-5", "negative"),
        ("-1.5m", "negative"),
        (-1, "negative"),
        (-0.001, "negative"),
        (timedelta(seconds=-1), "negative"),
        ("inf", "no duration"),
        ("nan", "no duration"),
        ("1e3", "unknown unit|no duration"),
        ("1_000", "no duration"),
        ("5 s", "no duration"),
        ("٣", "no duration"),
        ("s", "no duration"),
        ("5w", "unknown unit, 'w'"),
        ("5M", "unknown unit, 'M'"),
        ("9" * 400, "more seconds"),
        ("9" * 308 + "d", "more seconds"),
        (10**400, "more seconds"),
        (math.nan, "no number"),
        (True, "bool"),
        (None, "no duration"),
        (b"5", "bytes"),
        ("x" * 999, "…"),
    ],
)
def test_everything_else_is_refused_with_the_accepted_spellings(x: Any, words: str) -> None:
    """The message says what was wrong and shows what may be typed instead."""
    with pytest.raises(ConfigError, match=words) as caught:
        seconds(x)
    assert SPELLINGS in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.25, "250ms"),
        (0.9996, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (3, "3s"),
        (9.97, "10s"),
        (59.9, "59s"),
        (60, "1m"),
        (90, "1m30s"),
        (720, "12m"),
        (3599.9, "59m59s"),
        (3600, "1h"),
        (7500, "2h05m"),
        (86_400, "1d"),
        (90_000, "1d01h"),
        (math.inf, "forever"),
    ],
)
def test_brief(length: float, text: str) -> None:
    """At most two units, and none that says nothing."""
    assert brief(length) == text


@given(st.floats(0, 1e9))
def test_brief_never_runs_ahead_and_stays_short(length: float) -> None:
    """What is shown loses less than one of its smaller unit, in a handful of characters."""
    text = brief(length)
    assert len(text) <= 9
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    parts = re.findall(r"([\d.]+)([a-z]+)", text)
    shown = sum(float(number) * units[unit] for number, unit in parts)
    smaller = 3600 if "d" in text else 60 if "h" in text else 1
    assert abs(length - shown) < smaller
