"""The one line that every role of the server may read about a session: written, and read back."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from advlock import _label

NAMES = st.text(min_size=1, max_size=100)
# Up to the year 2286, which is also the last with six digits in base 36 and one to spare.
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
@example("advlock:x host:\u0661")
@example("psql")
@example("advlocksmith host:1")
def test_what_others_sign_with_is_never_an_error(application_name: str) -> None:
    """Whatever another program calls itself, reading it says None or a label, and never fails."""
    read = _label.parse(application_name)
    assert read is None or application_name.startswith("advlock")


@pytest.mark.parametrize(
    ("signed", "name", "host", "pid", "since"),
    [
        ("advlock:nightly web-2:4242 @s44we8", "nightly", "web-2", 4242, 1_700_000_000),
        ("advlock:nightly web-2:4242", "nightly", "web-2", 4242, None),
        ("advlock:two words web-2:4242", "two words", "web-2", 4242, None),
        ("advlock web-2:4242", "", "web-2", 4242, None),
    ],
)
def test_the_format_is_frozen(
    signed: str, name: str, host: str, pid: int, since: int | None
) -> None:
    """Sessions of another version of advlock can be read: the format is a promise."""
    moment = None if since is None else datetime.fromtimestamp(since, UTC)
    assert _label.parse(signed) == (name, host, pid, moment)
