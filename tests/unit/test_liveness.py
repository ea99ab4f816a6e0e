"""Trust ends before the server can let go, whatever the times; a model of both sides."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock import _clock
from advlock._liveness import LONGEST, SHORTEST_LEASE, SHORTEST_LIVENESS, Bounds, Pulse

LIVENESS = st.floats(SHORTEST_LIVENESS, 600) | st.floats(SHORTEST_LIVENESS, LONGEST)
LEASE = st.none() | st.floats(SHORTEST_LEASE, LONGEST)
# How late the kernel's last probe may be: a tenth of a second at the most
# (tests/postgres/test_network.py measures it).
LATE = 0.1
# How long after an answer was sent the kernel begins to count it as unread, at the most.
UNREAD = 0.49


def last_probe(settings: dict[str, str]) -> float:
    """When the server's kernel gives an idle connection up: at the first probe after the limit."""
    probe = int(settings["tcp_keepalives_idle"]) + int(settings["tcp_keepalives_interval"])
    while probe * 1000 < int(settings["tcp_user_timeout"]):
        probe += int(settings["tcp_keepalives_interval"])
    return probe


@given(LIVENESS, LEASE)
def test_we_stop_believing_before_the_server_may_let_go(
    liveness: float, lease: float | None
) -> None:
    """With a fifth to spare for clocks that differ, and threads that are late."""
    bounds = Bounds(liveness, lease)
    settings = bounds.settings()

    assert bounds.trust <= 0.8 * int(settings["tcp_user_timeout"]) / 1000 + 0.001
    if lease is not None:
        assert bounds.trust <= 0.8 * int(settings["idle_session_timeout"]) / 1000 + 0.001


@given(LIVENESS, LEASE, st.booleans())
def test_behind_a_pooler_every_hold_is_a_lease(
    liveness: float, lease: float | None, inherited: bool
) -> None:
    """Of `liveness` where none was asked for, and an heir is no reason; trust is the same."""
    direct = Bounds(liveness, lease, inherited=inherited)
    pooled = direct.behind_a_pooler()
    settings = pooled.settings()

    assert (pooled.trust, pooled.heartbeat) == (direct.trust, direct.heartbeat)
    seconds = 0.0 if inherited and lease is None else lease or liveness
    for name in ("idle_session_timeout", "idle_in_transaction_session_timeout"):
        assert int(settings[name]) == pytest.approx(1000 * seconds, abs=1)


@given(LIVENESS)
def test_the_server_lets_go_within_the_bound(liveness: float) -> None:
    """A vanished holder, idle or with an unread answer, and a vanished waiter that is granted."""
    bounds = Bounds(liveness)
    settings = bounds.settings()
    waiting = int(bounds.waiting_timeout) / 1000

    assert last_probe(settings) + LATE <= liveness
    assert int(settings["tcp_user_timeout"]) / 1000 + UNREAD + LATE <= liveness
    gone = last_probe({**settings, "tcp_user_timeout": bounds.waiting_timeout})
    assert gone + waiting + UNREAD <= liveness


@given(LIVENESS)
def test_without_a_user_timeout_the_keepalives_come_to_the_same(liveness: float) -> None:
    """Where the system lacks it, the number of unanswered probes decides."""
    settings = Bounds(liveness).settings()
    idle, interval, count = (
        int(settings[f"tcp_keepalives_{word}"]) for word in ("idle", "interval", "count")
    )
    assert Bounds(liveness).trust < idle + interval * count < liveness
    assert 1 <= count <= 127
    assert 1 <= interval <= idle <= 32767


def test_the_numbers_of_the_default() -> None:
    """What the documentation says of ten seconds."""
    bounds = Bounds()

    assert bounds.trust == pytest.approx(6.8)
    assert bounds.heartbeat == pytest.approx(1.7)
    assert bounds.settings() == {
        "tcp_keepalives_idle": "3",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "6",
        "tcp_user_timeout": "8500",
        "idle_session_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
    }


@given(LIVENESS, LEASE, st.data())
def test_a_client_that_looks_once_a_heartbeat_never_lapses_on_a_working_network(
    liveness: float, lease: float | None, data: st.DataObject
) -> None:
    """Other exchanges fall in between at any time; the gaps stay below half of the trust."""
    bounds = Bounds(liveness, lease)
    pulse, now = Pulse(bounds), 0.0
    pulse.confirm(now)
    for _ in range(20):
        if data.draw(st.booleans()):
            pulse.confirm(now + data.draw(st.floats(0, bounds.heartbeat)))
        now += bounds.heartbeat
        assert not pulse.lapsed(now)
        assert pulse.patience(now) >= bounds.trust / 2
        if pulse.due(now):
            pulse.confirm(now)


@given(LIVENESS, st.floats(0, 1000), st.floats(0, 2000))
def test_trust_runs_from_the_start_of_an_exchange(
    liveness: float, start: float, later: float
) -> None:
    """However late the answer came; `left` and `lapsed` agree."""
    pulse = Pulse(Bounds(liveness))
    pulse.confirm(start)
    now = start + later

    assert pulse.lapsed(now) is (now - start >= pulse.bounds.trust)
    assert pulse.lapsed(start + pulse.left(start) + 0.001)


def test_an_old_answer_does_not_take_trust_back() -> None:
    """The answer to a long wait began before the heartbeats that came after it."""
    pulse = Pulse(Bounds())
    pulse.confirm(100.0)
    pulse.confirm(50.0)

    assert not pulse.lapsed(101.0)


def test_what_was_never_confirmed_is_not_believed_but_may_take_its_time() -> None:
    """A new session holds nothing, so its first exchange has the whole time of trust."""
    pulse = Pulse(Bounds())

    assert pulse.lapsed(0.0)
    assert pulse.patience(0.0) == pulse.bounds.trust


def test_a_stopped_process_is_given_one_heartbeat_to_ask() -> None:
    """Enough for an answer; silence counts as silence after that."""
    pulse = Pulse(Bounds())
    pulse.confirm(0.0)
    pulse.forgive(1000.0)

    assert not pulse.lapsed(1000.0)
    assert pulse.due(1000.0)
    assert pulse.lapsed(1000.0 + pulse.bounds.heartbeat + 0.001)


def test_the_clock_goes_on_while_the_machine_is_suspended() -> None:
    """Linux has a clock that does, and it is the one that trust runs on."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= _clock.now() <= time.clock_gettime(time.CLOCK_BOOTTIME)
