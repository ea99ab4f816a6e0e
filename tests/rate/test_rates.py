"""How a rate is written, and what cannot be one."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest

from advlock import ConfigError, LockError, Locks, Permit, RateLimited
from advlock._rate._rate import Rate, permits, rate

from .windows import most_in_a_window


@pytest.mark.parametrize(
    ("limit", "per", "expected"),
    [
        (100, 60, (100, 60.0)),
        (100, "1m", (100, 60.0)),
        (100, timedelta(minutes=1), (100, 60.0)),
        ("100/60s", None, (100, 60.0)),
        ("100/60", None, (100, 60.0)),
        ("100/minute", None, (100, 60.0)),
        ("100/min", None, (100, 60.0)),
        ("10 per hour", None, (10, 3600.0)),
        ("10/2 hours", None, (10, 7200.0)),
        ("5/100ms", None, (5, 0.1)),
        ("1 per day", None, (1, 86400.0)),
        ("7/s", None, (7, 1.0)),
    ],
)
def test_a_rate_can_be_written_in_many_ways(
    limit: Any, per: Any, expected: tuple[int, float]
) -> None:
    """As the durations of advlock, and as the users of `limits` write it."""
    assert rate(limit, per)[:2] == expected


@pytest.mark.parametrize(
    ("limit", "per"),
    [
        (0, 1),
        (-1, 1),
        (True, 1),
        (1.5, 1),
        (10**9 + 1, 1),
        (100, None),
        (100, 0),
        (100, "0.1ms"),
        (100, "367d"),
        ("100", None),
        ("100/", None),
        ("/60s", None),
        ("100/fortnight", None),
        ("100/60s", 60),
        ("9" * 5000 + "/1s", None),
        ("100/month", None),
    ],
)
def test_what_cannot_be_a_rate_is_refused(limit: Any, per: Any) -> None:
    """With a word on what to write."""
    with pytest.raises(ConfigError, match=r"limit|rate|per|duration"):
        rate(limit, per)


@pytest.mark.parametrize("n", [0, -1, True, 1.0, "1", 101])
def test_more_than_the_limit_is_never_to_be_had(n: Any) -> None:
    """Waiting for it would last for ever."""
    with pytest.raises(ConfigError):
        permits(n, Rate(100, 60.0))


@pytest.mark.parametrize("name", ["", 5, None, ("a", "b")])
def test_a_limit_has_a_name(name: Any) -> None:
    """Numbers and pairs are keys, and a limit has none of its own."""
    with Locks("postgresql://nowhere") as locks, pytest.raises(ConfigError, match="name"):
        locks.rate_limit(name, 100, 60)


def test_an_answer_is_true_if_it_was_granted() -> None:
    """And says when to try again if not."""
    assert Permit(1, granted=True)
    refused = Permit(2, granted=False, retry_after=1.5)
    assert not refused
    assert "retry after 1.5" in repr(refused)


def test_the_error_keeps_what_it_knows() -> None:
    """It is a timeout, and a task queue may carry it."""
    error = RateLimited("no", name="x", limit=3, per=1.0, wait=0.5, retry_after=0.7)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, TimeoutError)
    assert isinstance(again, LockError)
    assert (again.retry_after, again.limit, str(again)) == (0.7, 3, "no")


def test_the_checker_sees_a_full_window() -> None:
    """The judge of the other tests: half-open, and every window."""
    assert most_in_a_window([(0, 1), (10, 1)], 10) == 1
    assert most_in_a_window([(0, 1), (9, 1)], 10) == 2
    assert most_in_a_window([(0, 5), (5, 1), (14, 4), (15, 9)], 10) == 13
    assert most_in_a_window([], 10) == 0
