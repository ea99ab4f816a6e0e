"""All hosts were down for an hour: what `missed` makes of it, with a clock that is put forward."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from .hands import job, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._cron._job import Job

    from .hands import Hand, Rows

    Hands = Callable[..., Hand]

HOUR = timedelta(hours=1)
LATE = timedelta(seconds=100)  # so long after a tick the hosts are back
TICKS = 12  # in an hour


def an_hour_later(hand: Hand) -> None:
    """Come back an hour later, 100 s after a tick, with no memory."""
    last = hand.jobs.jobs["j"].schedule.last(now())
    assert last is not None
    hand.forget()
    hand.ahead = last + HOUR + LATE - now()
    hand.join()


def up_and_down(hands: Hands, before: Job, after: Job | None = None) -> Hand:
    """Run one scheduler, whose jobs nothing is due of; then another an hour later."""
    hand = hands(before)
    assert not hand.claims()
    if after is not None:
        hand = hands(after)
    an_hour_later(hand)
    return hand


POLICIES: list[tuple[dict[str, Any], dict[str, int], int]] = [
    ({"missed": "once"}, {"skipped_missed": 11, "claimed": 1}, 1),
    ({"missed": "once", "grace": 10.0}, {"skipped_missed": 11, "claimed": 1}, 1),
    ({"missed": "skip"}, {"skipped_missed": 11, "claimed": 1}, 1),
    ({"missed": "skip", "grace": 10.0}, {"skipped_missed": 12}, 0),
    ({"missed": "all"}, {"skipped_missed": 2, "queued": 10}, 10),
    ({"missed": "all", "max_missed": 3}, {"skipped_missed": 9, "queued": 3}, 3),
    ({"missed": "all", "max_missed": 99, "grace": 0.0}, {"queued": 12}, 12),
    ({"missed": "all", "overlap": "allow"}, {"skipped_missed": 2, "claimed": 10}, 10),
]


@pytest.mark.parametrize(("policies", "expected", "runs"), POLICIES, ids=str)
def test_after_an_hour_each_policy_does_what_it_says(
    hands: Hands, rows: Rows, policies: dict[str, Any], expected: dict[str, int], runs: int
) -> None:
    """Each tick has one row; as many run as the policy has it, one after the other, the newest."""
    hand = up_and_down(hands, job(**policies))
    claims = hand.claims()
    assert Counter(rows()) == expected
    claims = claims or hand.claims()  # what was queued is taken by the next pass
    ran = []
    while claims:
        assert len(claims) == 1 or policies.get("overlap") == "allow"
        for claim in claims:
            hand.run(claim)
            ran.append(claim.scheduled_at)
        claims = hand.claims()
    assert len(ran) == runs
    assert rows() == ["skipped_missed"] * (TICKS - runs) + ["succeeded"] * runs
    if policies.get("overlap") != "allow":
        assert ran == sorted(ran)


def test_a_late_tick_is_not_called_missed(hands: Hands, rows: Rows) -> None:
    """Only what is over its grace is made up for; within it, a tick is merely late."""
    up_and_down(hands, job()).turn()
    assert rows.of("j", "reason") is None
    assert rows.of("j", "extract(epoch FROM claimed_at)") is not None


def test_a_missed_tick_says_how_late_it_is(hands: Hands, rows: Rows) -> None:
    """Over its grace, the row of the tick that is made up for says so."""
    up_and_down(hands, job(grace=1.0)).turn()
    assert rows.of("j", "reason").startswith("missed; made up for 1m4")


def test_an_hour_with_little_room(hands: Hands, rows: Rows) -> None:
    """What there is no room for is run later, and no tick is lost."""
    hand = up_and_down(hands, job(missed="all", max_missed=99, overlap="allow"))
    hand.room = 5
    took = []
    for _ in range(4):
        claims = hand.claims()
        took.append(len(claims))
        for claim in claims:
            hand.run(claim)
    assert took == [5, 5, 2, 0]
    assert rows() == ["succeeded"] * TICKS


def test_another_version_with_the_same_schedule_is_made_up_for(hands: Hands, rows: Rows) -> None:
    """A change of what a job does is no reason to forget its ticks."""
    up_and_down(hands, job(), job(description="changed", retries=3)).turn()
    assert len(rows()) == TICKS


@pytest.mark.parametrize("schedule", ["*/4 * * * *", "@every 5m"])
def test_another_schedule_is_not_made_up_for(hands: Hands, rows: Rows, schedule: str) -> None:
    """The ticks of a schedule count from when somebody had it first."""
    hand = up_and_down(hands, job(), job(schedule=schedule))
    rows.set("UPDATE advlock.cron_set SET created_at = created_at + %s", hand.ahead)
    hand.turn()
    assert rows() == []


def test_a_new_job_is_not_made_up_for(hands: Hands, rows: Rows) -> None:
    """The first to see a job takes note of it, and no more."""
    hand = hands(job("other"))
    hand.turn()
    new = hands(job("j"), job("other"))
    an_hour_later(new)
    rows.set("UPDATE advlock.cron_set SET created_at = created_at + %s", new.ahead)
    new.turn()
    assert rows() == []
    assert len(rows("other")) == TICKS


def test_what_was_disabled_meanwhile_is_not_made_up_for(hands: Hands, rows: Rows) -> None:
    """Nor is it when the job is enabled again: its ticks were let pass."""
    hand = up_and_down(hands, job(), job(enabled=False))
    hand.turn()
    assert rows() == []
    again = hands(job())
    again.ahead = hand.ahead
    again.turn()
    assert rows() == []


def test_what_is_paused_is_skipped_and_says_so(hands: Hands, rows: Rows) -> None:
    """Each tick has its row, with who paused the job and why, and nothing runs."""
    hand = up_and_down(hands, job(missed="all", max_missed=99))
    rows.set(
        "INSERT INTO advlock.cron_pause VALUES ('j', now() + interval '2h', 'moving house', 'ann')"
    )
    assert not hand.claims()
    assert rows() == ["skipped_paused"] * TICKS
    assert "paused by ann until" in rows.of("j", "reason")
    assert rows.of("j", "reason").endswith("UTC: moving house")


def test_a_tick_by_hand_runs_while_the_job_is_paused(hands: Hands, rows: Rows) -> None:
    """Whoever triggers it means it; the queue of the paused job stays."""
    hand = up_and_down(hands, job(missed="all", max_missed=99))
    hand.turn()
    rows.set("INSERT INTO advlock.cron_pause VALUES ('j', now() + interval '2h')")
    assert not hand.claims()
    rows.set(
        "INSERT INTO advlock.cron_run (job, scheduled_at, state, triggered_by)"
        " VALUES ('j', clock_timestamp(), 'queued', 'me')"
    )
    (claim,) = hand.claims()
    assert claim.was is not None
    assert claim.was.by_hand


@pytest.mark.parametrize("protected", [True, False])
def test_what_was_pruned_is_not_run_again(hands: Hands, rows: Rows, protected: bool) -> None:
    """The mark says that it was decided; without the mark (the control) it runs again."""
    hand = up_and_down(hands, job(keep=1, grace=10.0))
    hand.run(*hand.claims())
    hand.turn()
    rows.set("DELETE FROM advlock.cron_run")
    if not protected:
        rows.set("UPDATE advlock.cron_set SET decided_until = now() - interval '1 minute'")
    hand.forget()
    hand.join()
    assert len(hand.claims()) == (0 if protected else 1)


def test_history_is_pruned_to_what_is_kept(hands: Hands, rows: Rows) -> None:
    """After an hour, of twelve rows three are left: the newest."""
    hand = up_and_down(hands, job(keep=3))
    hand.run(*hand.claims())
    for _ in range(2):
        hand.ahead += timedelta(minutes=5)
        hand.run(*hand.claims())
    assert rows() == ["succeeded"] * 3


def test_the_hour_before_anybody_came_is_nobodys(hands: Hands, rows: Rows) -> None:
    """Who comes first of all decides from now on."""
    hand = hands(job())
    hand.turn()
    assert rows() == []
    assert rows.ask("SELECT decided_until > now() - interval '5s' FROM advlock.cron_set")
