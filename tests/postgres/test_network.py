"""What the server does about a host that vanished: packets stop, and nobody is told.

`tests/postgres/vanishing.py` cuts off sessions of every kind at once; each test reads what became
of one kind, and of its control. A release is seen by two looks, the last that saw the lock and the
first that missed it; a test fails when both contradict it, however busy the machine is.
"""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from netns import network

from .lan import Lan, Watch, lan
from .vanishing import (
    ALL_ACKNOWLEDGED,
    ANSWER_AFTER,
    BOUND,
    LONG,
    SHORT,
    Vanished,
    vanish,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Probes go out once a second, so an idle session ends up to a second late. One that waits for an
# acknowledgement starts to count with its first retransmission, after two timers of 0.2 s or more.
LATE = 1.0
SLACK = 0.5  # for the machine

# What a session asks for to be let go within 10 s.
DEFAULTS = {
    "tcp_user_timeout": "8500",
    "tcp_keepalives_idle": "3",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "6",
}


@pytest.fixture(scope="module")
def office(dsn: str) -> Iterator[Lan]:
    """Give a server, and a host that reaches it over a network to cut."""
    with psycopg.connect(dsn, autocommit=True) as superuser, lan(superuser) as made:
        yield made


@pytest.fixture(scope="module")
def vanished(office: Lan) -> Vanished:
    """Cut the network once for all tests that look at what became of a session."""
    return vanish(office)


def test_a_cut_network_is_silent_and_goes_on_when_healed() -> None:
    """Bytes go both ways, none goes through a cut in its direction, and none is lost for good."""
    with network() as cable, socket.create_server((cable.near, 0)) as listener:
        with cable.inside():
            client = socket.create_connection(listener.getsockname(), timeout=5)
        server, _ = listener.accept()
        with client, server:
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(b"1")
                receiver.settimeout(5)
                assert receiver.recv(9) == b"1"
            time.sleep(ALL_ACKNOWLEDGED)
            cable.cut(to_far=False)
            server.sendall(b"2")
            assert client.recv(9) == b"2"
            client.sendall(b"2")
            server.settimeout(0.3)
            with pytest.raises(TimeoutError):
                server.recv(9)
            cable.heal()
            server.settimeout(5)
            assert server.recv(9) == b"2"


def test_a_vanished_idle_holder_is_let_go_in_time(vanished: Vanished) -> None:
    """With keepalives and a user timeout it ends after the timeout, counted from its last packet.

    The control is a session without them: it has its lock when all others have lost theirs.
    """
    earliest, latest = vanished.freed_after("both")
    assert latest >= BOUND
    assert earliest <= BOUND + LATE + SLACK
    assert vanished.held("none")


def test_the_user_timeout_alone_does_nothing_for_an_idle_holder(vanished: Vanished) -> None:
    """Nothing is unacknowledged, so nothing times out; with keepalives as well, something does."""
    assert vanished.held("timeout alone")
    assert not vanished.held("both")


def test_an_answer_in_flight_ends_a_vanished_holder(vanished: Vanished) -> None:
    """An answer that nobody acknowledges ends the session after the timeout from its sending."""
    earliest, latest = (seconds - ANSWER_AFTER for seconds in vanished.freed_after("answer"))
    assert latest >= BOUND
    assert earliest <= BOUND + LATE


def test_keepalives_alone_do_nothing_while_an_answer_is_in_flight(vanished: Vanished) -> None:
    """No probe is sent meanwhile; the same settings do end a session that was idle."""
    assert vanished.held("answer, keepalives alone")
    assert not vanished.held("keepalives alone")


def test_a_vanished_waiter_is_granted_the_lock_and_keeps_it_for_its_timeout(
    vanished: Vanished,
) -> None:
    """A ghost gets the lock in its turn, and has it until its answer times out."""
    for name, seconds in (("waiter", BOUND), ("short waiter", SHORT)):
        earliest, latest = vanished.kept_for(name)
        assert latest >= seconds, name
        assert earliest <= seconds + LATE, name


def test_a_ghost_granted_at_the_last_moment_is_gone_in_twice_its_timeout(
    vanished: Vanished,
) -> None:
    """Granted just before the keepalives would have ended it, it is gone in 2 x timeout + 1 s."""
    earliest, latest = vanished.freed_after("late waiter")
    assert latest >= BOUND
    assert earliest <= 2 * BOUND + 1 + SLACK


def test_a_live_session_can_change_its_user_timeout(vanished: Vanished) -> None:
    """What set_config says last counts, be it shorter or longer than before."""
    for name, seconds in (("shortened", BOUND), ("lengthened", LONG)):
        earliest, latest = vanished.freed_after(name)
        assert latest >= seconds, name
        assert earliest <= seconds + LATE + SLACK, name


def test_a_frozen_process_keeps_its_lock(vanished: Vanished) -> None:
    """The kernel of a stopped process answers the probes; only a silent host is let go."""
    assert vanished.held("frozen")
    assert not vanished.held("both")


def test_the_settings_for_ten_seconds_end_a_vanished_holder_within_ten(office: Lan) -> None:
    """With 8.5 s, 3 s, 1 s and 6 a vanished idle holder is let go 8.5 to 10 s after it spoke."""
    watch = Watch(office.witness)
    with closing(office.far(DEFAULTS)) as session:
        pid, last = session.info.backend_pid, time.monotonic()
        session.execute("SELECT pg_advisory_lock(-2)")
        watch.look()
        time.sleep(ALL_ACKNOWLEDGED)
        office.network.cut()
        try:
            while pid not in watch.freed and time.monotonic() < last + 12:
                time.sleep(0.01)
                watch.look()
        finally:
            office.network.heal()
    assert watch.freed[pid] - last >= 8.5
    assert watch.held[pid] - last <= 10
