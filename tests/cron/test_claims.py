"""Many claim, take, start and finish at once: each tick runs once, and nobody waits in a circle."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from advlock._cron import _act, _decide, _sql
from advlock._cron._decide import Move
from advlock._cron._facts import Active
from advlock._cron._life import Begun
from advlock._plan import Script, Step

from .hands import Hand, job, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._cron._facts import Claim

    from .hands import Rows

    Hands = Callable[..., Hand]

HOUR = timedelta(hours=1)
STALE = "UPDATE advlock.cron_run SET claimed_at = claimed_at - interval '6 seconds'"


def due(hand: Hand, ticks: int = 1) -> Hand:
    """Have so many ticks of hourly jobs become due."""
    if not hand.ahead:
        hand.turn()
    hand.ahead += ticks * HOUR
    return hand


AT = {"minute": 0}  # past each hour


@pytest.fixture(autouse=True)
def half_an_hour_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs of a test are due at the same time, also if a minute ends while they are made."""
    monkeypatch.setitem(AT, "minute", (now().minute + 30) % 60)


def hourly(name: str = "j", **policies: Any) -> Any:
    """Make a job of which `due` knows when it is due: in half an hour, so not by itself."""
    return job(name, f"{AT['minute']} * * * *", **policies)


def claimed(hands: Hands, **policies: Any) -> tuple[Hand, Claim]:
    """A scheduler that has claimed a tick of its only job."""
    hand = due(hands(hourly(**policies)))
    (claim,) = hand.claims()
    return hand, claim


# -- a thousand ticks ------------------------------------------------------------------------------


def race(crew: list[Hand]) -> list[list[str]]:
    """Have all of them make passes at once until nothing is left; what each has claimed."""
    gate = threading.Barrier(len(crew))

    def passes(hand: Hand) -> list[str]:
        gate.wait()
        got: list[str] = []
        while True:
            result = hand.turn()
            got += [claim.job.name for claim in result.claims]
            hand.room -= len(result.claims)
            if not result.claims:
                return got

    with ThreadPoolExecutor(len(crew)) as pool:
        return [*pool.map(passes, crew)]


def test_each_of_a_thousand_ticks_is_claimed_once(hands: Hands, rows: Rows) -> None:
    """Four schedulers want all of them in the same second: the primary key shares them out."""
    jobs = [hourly(f"j{number}") for number in range(1000)]
    crew = [due(hands(*jobs, room=1000)) for _ in range(4)]
    got = race(crew)
    assert Counter(name for each in got for name in each) == Counter(one.name for one in jobs)
    assert rows.ask("SELECT count(*) FROM advlock.cron_run WHERE state = 'claimed'") == 1000
    assert all(got)


def test_a_pass_is_two_requests_however_many_ticks_there_are(hands: Hands) -> None:
    """One look, and one word: the number of statements does not grow with the ticks."""
    counted = []
    for number in (1, 300):
        hand = due(hands(*(hourly(f"j{number}-{each}") for each in range(number))))
        hand.turn()
        before = len(hand.scripts)
        due(hand).turn()
        counted.append([len(script) for script in hand.scripts[before:]])
    few, many = counted
    assert len(few) == len(many) == 2
    assert few[0] == many[0] == 1
    assert max(few[1], many[1]) <= 8
    assert abs(few[1] - many[1]) <= 3  # whether it was time for a sign of life


def test_nothing_due_is_one_request(hands: Hands) -> None:
    """Who has nothing to do asks once."""
    hand = due(hands(hourly()))
    hand.turn()
    before = len(hand.scripts)
    hand.turn()
    assert hand.scripts[before:] == [[_sql.LOOK]]


def test_room_is_kept_to_and_others_take_the_rest(hands: Hands) -> None:
    """A host with little room takes no more than that, also in several passes."""
    jobs = [hourly(f"j{number}") for number in range(60)]
    crew = [due(hands(*jobs, room=room)) for room in (7, 0, 100)]
    small, none, large = race(crew)
    assert len(small) <= 7
    assert none == []
    assert len(small) + len(large) == 60


# -- one claim -------------------------------------------------------------------------------------


def test_a_claim_whose_scheduler_died_is_taken_up(hands: Hands, rows: Rows) -> None:
    """After CLAIM_PATIENCE another runs it; the first, if it lives after all, is refused."""
    first, claim = claimed(hands)
    other = hands(hourly())
    assert not other.claims()
    assert not other.claims()
    rows.set(STALE)
    assert not other.claims()
    assert rows() == ["queued"]
    assert rows.of("j", "reason") == _decide.NOT_STARTED
    (again,) = other.claims()
    assert again.scheduled_at == claim.scheduled_at
    assert other.begin(again) is Begun.YES
    assert first.begin(claim) is Begun.GONE
    other.finish(again)
    assert first.begin(claim) is Begun.GONE
    assert rows() == ["succeeded"]


def test_a_claim_in_the_queue_is_not_started(hands: Hands, rows: Rows) -> None:
    """Given up and not yet taken again, it is not its first owner's any more."""
    first, claim = claimed(hands)
    rows.set(STALE)
    hands(hourly()).turn()
    assert first.begin(claim) is Begun.GONE
    assert rows() == ["queued"]


def test_a_claim_whose_lock_is_held_is_not_given_up(hands: Hands, rows: Rows) -> None:
    """Its scheduler lives, and is about to start it."""
    first, claim = claimed(hands)
    rows.set(STALE)
    with first.client.hold(claim.job.lock_name(claim.scheduled_at)):
        hands(hourly()).turn()
        assert rows() == ["claimed"]


def test_a_claim_starts_once(hands: Hands, rows: Rows) -> None:
    """A second START is refused, whatever became of the first."""
    hand, claim = claimed(hands)
    assert hand.begin(claim) is Begun.YES
    assert hand.begin(claim) is Begun.GONE
    hand.finish(claim, "failed")
    assert hand.begin(claim) is Begun.GONE
    assert rows() == ["failed"]


def test_starts_at_once_begin_one_run(hands: Hands) -> None:
    """Of many that START the same claim in the same moment one may."""
    hand, claim = claimed(hands)
    crew = [hand, *(hands(hourly()) for _ in range(3))]
    with ThreadPoolExecutor(4) as pool:
        begun = [*pool.map(lambda one: one.begin(claim), crew)]
    assert sorted(begun, key=str) == sorted([Begun.YES, *[Begun.GONE] * 3], key=str)


def two_ticks(hands: Hands, **policies: Any) -> tuple[Hand, Claim, Claim]:
    """A scheduler that runs one tick, without a lock, and has claimed the next."""
    hand, running = claimed(hands, **policies)
    assert hand.begin(running) is Begun.YES
    other = hands(hourly(**policies))
    other.ahead = hand.ahead
    with hand.client.hold(running.job.lock_name(running.scheduled_at)):
        other.turn()
        (following,) = due(other).claims()
    return other, running, following


def test_who_holds_the_lock_puts_down_the_one_before_as_lost(hands: Hands, rows: Rows) -> None:
    """A run that is still down as running has lost its lock to whoever starts now."""
    hand, before, claim = two_ticks(hands)
    assert hand.begin(claim) is Begun.YES
    assert rows() == ["lost", "running"]
    assert rows.of("j", "reason", before.scheduled_at) == "its lock was found free"
    assert rows.of("j", "finished_at", before.scheduled_at) is not None


def test_nothing_starts_while_the_one_before_may_go_on(hands: Hands, rows: Rows) -> None:
    """All sessions have ended since it began: its host may not know it yet, for a while."""
    age = "SELECT clock_timestamp() - pg_postmaster_start_time() > interval '7s'"
    # A server that was just started is a reason for doubt, too.
    eventually(lambda: rows.ask(age), within=10)
    hand, before, claim = two_ticks(hands, kill_after=-4.0)  # so the doubt is over after 6 s
    assert hand.begin(claim, line=now()) is Begun.DOUBT
    assert rows() == ["running", "claimed"]
    assert rows.of("j", "losses", before.scheduled_at) == 0
    rows.set("UPDATE advlock.cron_run SET started_at = started_at - interval '1 minute'")
    assert hand.begin(claim, line=now() - timedelta(seconds=1.5)) is Begun.DOUBT
    assert hand.begin(claim, line=now() - timedelta(seconds=6.1)) is Begun.YES


def test_a_run_that_began_after_the_line_is_in_no_doubt(hands: Hands, rows: Rows) -> None:
    """Its session is none of those that ended then."""
    hand, before, claim = two_ticks(hands)
    began = rows.of("j", "started_at", before.scheduled_at)
    assert hand.begin(claim, line=began - timedelta(seconds=1)) is Begun.YES


def test_allowed_to_overlap_nobody_is_put_down_as_lost(hands: Hands, rows: Rows) -> None:
    """With overlap="allow" each tick has a lock of its own, and says nothing of the others."""
    hand = due(hands(hourly(overlap="allow", missed="all")), 2)
    first, second = hand.claims()
    assert hand.begin(first) is Begun.YES
    assert hand.begin(second, line=now()) is Begun.YES
    assert rows() == ["running", "running"]


def test_a_lost_run_is_run_again_three_times_at_most(hands: Hands, rows: Rows) -> None:
    """With on_crash="rerun" what kills its host is not run for ever."""
    hand, claim = claimed(hands, on_crash="rerun")
    runs = 0
    while True:
        assert hand.begin(claim) is Begun.YES
        runs += 1
        assert not hand.claims()  # it is found
        claims = hand.claims()
        if not claims:
            break
        (claim,) = claims
    assert runs == 1 + _decide.RERUNS
    assert rows() == ["lost"]
    assert rows.of("j", "losses") == 4


def test_a_lost_run_is_not_run_again_by_default(hands: Hands, rows: Rows) -> None:
    """At most once: the next tick runs, as with every cron."""
    hand, claim = claimed(hands)
    assert hand.begin(claim) is Begun.YES
    assert not hand.claims()
    assert not hand.claims()
    assert rows() == ["lost"]
    assert rows.of("j", "reason") == _decide.FOUND_FREE


def test_who_finishes_after_all_tells_the_truth(hands: Hands, rows: Rows) -> None:
    """Its lock was found free while it worked; what came of it, it knows best."""
    hand, claim = claimed(hands)
    hand.begin(claim)
    hand.turn()
    assert rows() == ["lost"]
    hand.finish(claim, "succeeded")
    assert rows() == ["succeeded"]
    assert rows.of("j", "losses") == 1


def test_who_finishes_after_another_took_over_changes_nothing(hands: Hands, rows: Rows) -> None:
    """Its tick runs again elsewhere by now, and is the other's to judge."""
    hand, claim = claimed(hands, on_crash="rerun")
    hand.begin(claim)
    hand.turn()
    (again,) = hand.claims()
    hand.finish(claim, "failed")
    assert rows() == ["claimed"]
    hand.begin(again)
    hand.finish(claim, "failed")
    assert rows() == ["running"]
    hand.finish(again)
    assert rows() == ["succeeded"]


@pytest.mark.parametrize(("on_crash", "expected"), [("next_tick", "lost"), ("rerun", "queued")])
def test_who_knows_that_its_lock_is_lost_says_so(
    hands: Hands, rows: Rows, on_crash: str, expected: str
) -> None:
    """It is the same as if others had found that: lost, or back in the queue; and counted once."""
    hand, claim = claimed(hands, on_crash=on_crash)
    hand.begin(claim)
    hand.finish(claim, "lost")
    assert rows() == [expected]
    assert rows.of("j", "losses") == 1


def test_the_rows_of_another_file_are_left_alone(hands: Hands, rows: Rows) -> None:
    """Another file's scheduler in the same database does not know what is to become of them."""
    hand, claim = claimed(hands, on_crash="rerun")
    stranger = hands(hourly("other"))
    rows.set(STALE)
    stranger.turn()
    assert rows() == ["claimed"]
    hand.begin(claim)
    stranger.turn()
    assert rows() == ["running"]


# -- the mark --------------------------------------------------------------------------------------


def test_who_looked_too_long_ago_decides_nothing(hands: Hands, rows: Rows) -> None:
    """Ten seconds between a look and its word are too many: nothing is claimed or lost."""
    hand = due(hands(hourly()))
    mark = rows.ask("SELECT decided_until FROM advlock.cron_set")
    rows.set("UPDATE advlock.cron_set SET decided_until = decided_until - interval '1 hour'")
    hand.ahead = -timedelta(seconds=10.5)
    hand.forget()
    hand.join()
    assert not hand.claims()
    assert rows() == []
    assert rows.ask("SELECT decided_until FROM advlock.cron_set") < mark
    hand.ahead = timedelta()
    assert len(hand.claims()) == 1


def test_what_no_mark_covers_is_not_pruned(hands: Hands, rows: Rows) -> None:
    """Else whoever comes next would decide that tick again; later it goes."""
    hand, claim = claimed(hands, keep=1)
    hand.run(claim)
    (following,) = due(hand).claims()
    rows.set("UPDATE advlock.cron_set SET decided_until = decided_until - interval '3 hours'")
    hand.run(following)
    assert rows() == ["succeeded"] * 2
    (third,) = due(hand).claims()
    hand.run(third)
    assert rows() == ["succeeded"]


# -- in any time zone ------------------------------------------------------------------------------


def test_a_lock_is_called_the_same_whatever_the_time_zone_of_the_session(
    hands: Hands, rows: Rows
) -> None:
    """Else nobody would see that a tick's lock is held, and it would run again."""
    name = rows.ask("SELECT current_database()")
    rows.set(f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'")
    try:
        hand, claim = claimed(hands, overlap="allow", on_crash="rerun")
        with hand.client.hold(claim.job.lock_name(claim.scheduled_at)):
            assert hand.begin(claim) is Begun.YES
            hand.turn()
            assert rows() == ["running"]
        assert claim.scheduled_at.utcoffset() == timedelta()
    finally:
        rows.set(f"ALTER DATABASE {name} RESET timezone")


# -- all at once -----------------------------------------------------------------------------------

NAMES = [f"j{number}" for number in range(6)]


def test_nobody_waits_in_a_circle(hands: Hands, rows: Rows) -> None:
    """Passes that move, take, claim and prune the same rows in any order meet no deadlock."""
    jobs = [hourly(name, missed="all", max_missed=4, keep=2) for name in NAMES]
    crew = [hands(*jobs[turn:], *jobs[:turn]) for turn in range(5)]
    for hand in crew:
        hand.turn()
        hand.agenda._beaten = None
    gate = threading.Barrier(len(crew))

    def storm(hand: Hand) -> int:
        done = 0
        for _ in range(40):
            gate.wait()
            hand.ahead += 2 * HOUR
            for claim in hand.claims():
                hand.begin(claim)
                if hash(claim.run_id) % 3:
                    hand.finish(claim)
                done += 1
        return done

    with ThreadPoolExecutor(len(crew)) as pool:
        assert sum(pool.map(storm, crew)) > 100  # a deadlock is Refused: 40P01
    assert rows.ask("SELECT count(DISTINCT state) > 1 FROM advlock.cron_run")


# -- the controls ----------------------------------------------------------------------------------


def test_without_its_state_check_start_begins_two_runs(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: START asks whether the tick is claimed, and by whom."""
    check = "AND run.run_id = $3::uuid\n      AND run.state = 'claimed'"
    assert check in _sql.START
    monkeypatch.setattr(_sql, "START", _sql.START.replace(check, "AND $3::uuid IS NOT NULL"))
    hand, claim = claimed(hands)
    assert [hand.begin(claim), hand.begin(claim)] == [Begun.YES, Begun.YES]


@pytest.mark.parametrize("protected", [True, False])
def test_of_two_who_have_looked_one_claims(
    hands: Hands, rows: Rows, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """The primary key is what remembers; without it (the control) both run the tick."""
    crew = [due(hands(hourly())) for _ in range(2)]
    if not protected:
        rows.set("ALTER TABLE advlock.cron_run DROP CONSTRAINT cron_run_pkey")
        checks = ("AND NOT EXISTS (SELECT FROM advlock.cron_run", "AND scheduled_at > coalesce(")
        assert all(check in _sql.CLAIM for check in checks)
        text = _sql.CLAIM
        start, end = text.index("      AND scheduled_at > coalesce("), text.index("), chosen AS")
        monkeypatch.setattr(_sql, "CLAIM", text[:start] + "AND $2::text <> ''\n" + text[end:])
    gate = threading.Barrier(2)
    for hand in crew:
        hand.gate = gate
    with ThreadPoolExecutor(2) as pool:
        claims = [claim for each in pool.map(Hand.claims, crew) for claim in each]
    assert len({claim.scheduled_at for claim in claims}) == 1
    assert len(claims) == (1 if protected else 2)


def test_without_the_doubt_a_run_that_may_go_on_is_lost(
    hands: Hands, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a pass asks `in_doubt` before it believes that a free lock means the end."""
    hand, claim = claimed(hands)
    hand.begin(claim)
    hand.agenda.broken = True
    rows.set("UPDATE advlock.cron_run SET started_at = now(), owner = NULL")  # not our own
    hand.ahead += timedelta(seconds=1)
    hand.turn()
    assert rows() == ["running"]
    monkeypatch.setattr(_decide, "in_doubt", lambda *_: False)
    hand.turn()
    assert rows() == ["lost"]


ENDS = ("min", "max")


def test_moves_in_any_order_do_deadlock(hands: Hands, rows: Rows) -> None:
    """The control of the storm: what keeps moves from a circle is the order of their rows."""
    one, other = hands(hourly()), hands(hourly())
    for tick in ("2026-01-01", "2026-01-02"):
        rows.set(
            "INSERT INTO advlock.cron_run (job, scheduled_at, state) VALUES ('j', %s, 'queued')",
            tick,
        )
    ticks = [rows.ask(f"SELECT {which}(scheduled_at) FROM advlock.cron_run") for which in ENDS]

    def plan(first: Any, second: Any) -> Any:
        moves = [Move(Active("j", tick, "queued"), "lost", "x") for tick in (first, second)]
        steps = [Step(_sql.MOVE, (_act.move_rows([move]),)) for move in moves]
        slow = Step("SELECT pg_catalog.pg_sleep(1.5)")
        yield Script((steps[0], slow, steps[1]))

    with ThreadPoolExecutor(2) as pool:
        outcomes = [
            pool.submit(one.ask, plan(*ticks)),
            pool.submit(other.ask, plan(*reversed(ticks))),
        ]
        errors = [getattr(each.exception(), "sqlstate", None) for each in outcomes]
    assert "40P01" in errors
