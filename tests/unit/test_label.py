"""The one line that every role of the server may read about a session: written, and read back."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from advlock import Key, _label

NAMES = st.text(min_size=1, max_size=100)
# Up to the year 2286, which is also the last with six digits in base 36 and one to spare.
THEN = datetime.fromtimestamp(1_700_000_000, UTC)
MOMENTS = st.none() | st.integers(min_value=1, max_value=9_999_999_999)


def ascii_only(text: str) -> str:
    """What PostgreSQL's `application_name` can show of a text."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


@given(NAMES, MOMENTS)
@example("a b:1 @z", None)
@example("a b:1 @z", 1_700_000_000)
@example(" ", None)
@example("@1", 1)
@example("é" * 63, 1_700_000_000)
def test_what_is_written_is_read_back(name: str, since: int | None) -> None:
    """Host, pid and second come back exactly, the name up to where it was cut, spaces and all."""
    read = _label.parse(_label.make(name, since=since))
    assert read is not None
    assert ascii_only(name).startswith(read.name)
    assert len(read.name) >= min(len(name), 12)
    assert socket.gethostname().startswith(read.host)
    assert read.pid == os.getpid()
    assert read.since == (None if since is None else datetime.fromtimestamp(since, UTC))
    assert read.waiting_since is None
    assert read.complete <= (read.name == name)


@given(NAMES, MOMENTS)
@example("a b:1 ~z", 1_700_000_000)
def test_a_waiter_says_since_when(name: str, since: int | None) -> None:
    """As for a holder; and nobody takes the one for the other."""
    read = _label.parse(_label.make(name, waiting_since=since))
    assert read is not None
    assert ascii_only(name).startswith(read.name)
    assert read.since is None
    assert read.waiting_since == (None if since is None else datetime.fromtimestamp(since, UTC))
    assert read.complete <= (read.name == name)


def test_a_name_that_fits_is_complete() -> None:
    """Only then it may be taken at its word."""
    for name, complete in (("nightly", True), ("x" * 63, False), ("é", False), ("what?", False)):
        read = _label.parse(_label.make(name, since=1_700_000_000))
        assert read is not None
        assert read.complete is complete, name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Key.of("nightly", namespace="shop"), "shop:nightly"),
        (Key.of(-42), "-42"),
        (Key.of((1, -2)), "(1, -2)"),
    ],
)
def test_a_lock_is_called_so_that_its_key_can_be_checked(key: Key, name: str) -> None:
    """By all that was hashed, namespace and all; or by the numbers that one would write."""
    assert _label.name_of(key) == name


@given(NAMES, MOMENTS)
def test_it_fits_and_passes_the_server_unchanged(name: str, since: int | None) -> None:
    """At most 63 bytes of printable ASCII: PostgreSQL would cut or replace everything else."""
    written = _label.make(name, since=since)
    assert len(written.encode("ascii")) <= 63
    assert written.isprintable()


@given(st.text(max_size=63))
@example("advlock:")
@example("advlock:x")
@example("advlock:x host:1 @")
@example("advlock:x host:1 @zzzzzzzzzzzz")
@example("advlock:x host:1 @38et6qnz")  # the last second of 9999, which is no time in Tokyo
@example("advlock:x host:1 ~-sjlxhc0")  # the first one of 0001, which is none in New York
@example("advlock:x host:\u0661")
@example("psql")
@example("advlocksmith host:1")
def test_what_others_sign_with_is_never_an_error(application_name: str) -> None:
    """Whatever another program calls itself, reading it says None or a label, and never fails.

    Its times can be shown by the clocks of any place.
    """
    read = _label.parse(application_name)
    assert read is None or application_name.startswith("advlock")
    for moment in filter(None, read[3:5] if read else ()):
        for hours in (-23, 23):
            moment.astimezone(timezone(timedelta(hours=hours)))


@pytest.mark.parametrize(
    ("signed", "name", "host", "since", "waiting_since"),
    [
        ("advlock:nightly web-2:4242 @s44we8", "nightly", "web-2", THEN, None),
        ("advlock:nightly web-2:4242 ~s44we8", "nightly", "web-2", None, THEN),
        ("advlock:nightly web-2:4242", "nightly", "web-2", None, None),
        ("advlock:two words web-2:4242", "two words", "web-2", None, None),
        ("advlock web-2:4242", "", "web-2", None, None),
    ],
)
def test_the_format_is_frozen(
    signed: str, name: str, host: str, since: datetime | None, waiting_since: datetime | None
) -> None:
    """Sessions of another version of advlock can be read: the format is a promise."""
    assert _label.parse(signed) == (name, host, 4242, since, waiting_since, True)
