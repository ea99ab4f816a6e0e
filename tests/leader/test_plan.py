"""The decisions of a candidate: what it asks for next, and how soon."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock import DatabaseUnavailable, Key
from advlock._leader._plan import STEADY, Pace, campaign
from advlock._ledger import QUEUED, Ticket
from advlock._plan import Nap, Try, Turn, Wait, Waited
from advlock.cli._lead_rules import End, Policy, Restart

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE = 1.0


def ticket(*, queued: bool) -> Ticket:
    """Something to lead with."""
    made = Ticket(Key.of("lead"), "lead", shared=False, owner=None)
    if queued:
        made.state = QUEUED
    return made


def drive(
    answers: Iterator[Any], *, queued: bool, away: bool, closed_after: int
) -> tuple[list[Any], bool | None]:
    """Drive a campaign; its steps, and its verdict, or None if the database was away."""
    steps: list[Any] = []
    over = lambda: len(steps) >= closed_after  # noqa: E731
    plan = campaign(ticket(queued=queued), over=over, away=lambda: away)
    try:
        step = next(plan)
        while True:
            steps.append(step)
            kind = {Wait: Waited, Try: bool, Nap: bool, Turn: bool}[type(step)]
            step = plan.send(next(answer for answer in answers if isinstance(answer, kind)))
    except StopIteration as stop:
        return steps, bool(stop.value)
    except DatabaseUnavailable:
        return steps, None


@given(
    answers=st.lists(st.sampled_from([*Waited, True, False]), min_size=400, max_size=400),
    queued=st.booleans(),
    away=st.booleans(),
    closed_after=st.integers(0, 30),
)
def test_a_campaign_leads_only_with_a_grant(
    answers: list[Any], queued: bool, away: bool, closed_after: int
) -> None:
    """Its verdict is that of its last step, it naps between any two tries, and it ends."""
    endless = iter(answers * 50 + [Waited.GRANTED, True, True] * 50)
    steps, verdict = drive(endless, queued=queued, away=away, closed_after=closed_after)
    kinds = [type(step) for step in steps]
    # Not even that for a leader that is closed: nobody would end the wait.
    assert kinds.count(Turn) == (queued and closed_after > 0)
    assert all(b is Nap for a, b in pairwise(kinds) if a is Wait)
    assert all(b is Wait for a, b in pairwise(kinds) if a is Try)
    if verdict:
        assert kinds[-1] in (Wait, Try)
    if verdict is None:
        assert away
    assert len(steps) <= max(closed_after, 1) + 2


def test_a_standby_never_tries_on_the_shared_session() -> None:
    """It would open a second one: it waits on the server, again after its session broke."""
    answers = iter([Waited.BROKEN, True, Waited.BROKEN, True, Waited.GRANTED])
    steps, verdict = drive(answers, queued=False, away=True, closed_after=99)
    assert verdict is True
    assert [type(step) for step in steps] == [Wait, Nap, Wait, Nap, Wait]


def test_beyond_the_budget_it_polls() -> None:
    """No session to wait on, and the database is there: it asks on the shared one."""
    answers = iter([Waited.NO_SESSION, True, False, Waited.IMPOSSIBLE, True, True])
    steps, verdict = drive(answers, queued=False, away=False, closed_after=99)
    assert verdict is True
    assert [type(step) for step in steps] == [Wait, Nap, Try, Wait, Nap, Try]


# -- how soon again --------------------------------------------------------------------------------


def test_others_come_first_after_a_term_that_we_ended() -> None:
    """For as long as asked for, and no longer."""
    pace = Pace(PAUSE)
    assert pace.left(100.0) == 0
    pace.given_up(100.0)
    assert pace.left(100.0) == PAUSE
    assert pace.left(100.0 + PAUSE) == 0
    pace.given_up(200.0)
    pace.forget()
    assert pace.left(200.0) == 0


@given(lasted=st.lists(st.floats(0, 2 * STEADY), min_size=1, max_size=30))
def test_losses_back_off_and_recover(lasted: list[float]) -> None:
    """Never longer than two seconds, never at once, and from the start after a steady term."""
    pace, now = Pace(PAUSE), 1000.0
    for seconds in lasted:
        pace.lost(now, seconds)
        assert 0.05 <= pace.left(now) <= 2.0
        if seconds >= STEADY:
            assert pace.left(now) <= 0.1
        now += 100.0
    for _ in range(10):
        pace.refused(now)
    assert 1.0 <= pace.left(now) <= 2.0


# -- advlock lead ----------------------------------------------------------------------------------

ENDS = st.builds(
    End,
    code=st.integers(0, 255),
    ran=st.none() | st.floats(0, 1000),
    lost=st.booleans(),
    resigned=st.booleans(),
    asked=st.booleans(),
)


@given(end=ENDS, restart=st.sampled_from(Restart))
def test_when_a_command_is_run_again(end: End, restart: Restart) -> None:
    """Never when asked to end, always after a loss; else as `--restart` says."""
    again = Policy(restart).again(end)
    if end.asked:
        assert not again
    elif end.lost or end.resigned:
        assert again
    elif end.ran is None:
        assert not again
    elif restart is Restart.ALWAYS:
        assert again
    else:
        assert again == (restart is Restart.ON_FAILURE and end.code != 0)


@pytest.mark.parametrize("end", [End(1, 0.5), End(0, 0.5), End(74, resigned=True)])
def test_a_command_that_keeps_ending_is_left_alone_for_longer(end: End) -> None:
    """Doubling up to a minute, and from the start after one that ran for a minute."""
    policy = Policy(Restart.ALWAYS)
    assert [policy.pause(end) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.pause(End(74, 5.0, lost=True)) == 1
    assert policy.pause(end) == 60
    assert policy.pause(End(1, 61.0)) == 1
