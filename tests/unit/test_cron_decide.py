"""What becomes of ticks: each policy by itself, and all of them over a model of the tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cron_model import START, job

from advlock._cron import _decide
from advlock._cron._facts import Active, Facts, Pause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._cron._decide import Fate, Move

NOW = START
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def decide(minutes: Sequence[float], pause: Pause | None = None, **policies: Any) -> list[Fate]:
    """The fates of ticks that are so many minutes old."""
    ticks = [NOW - age * MINUTE for age in minutes]
    return list(_decide.fates(job(**policies), ticks, NOW, pause))


def states(fates: Sequence[Fate | Move]) -> list[str]:
    """What is to become of each."""
    return [fate.state for fate in fates]


# -- ticks that nobody has decided ---------------------------------------------------------------

C, Q, M, P = "claimed", "queued", "skipped_missed", "skipped_paused"
TABLE: list[tuple[dict[str, Any], list[float], list[str]]] = [
    ({"missed": "once"}, [], []),
    ({"missed": "once"}, [0], [C]),
    ({"missed": "once"}, [4.9], [C]),
    ({"missed": "once"}, [5], [C]),
    ({"missed": "once"}, [61], [C]),
    ({"missed": "once"}, [61, 56], [M, C]),
    ({"missed": "once"}, [11, 6, 1], [M, M, C]),
    ({"missed": "once"}, [2, 1], [M, C]),
    ({"missed": "skip"}, [0], [C]),
    ({"missed": "skip"}, [5], [C]),
    ({"missed": "skip"}, [5.01], [M]),
    ({"missed": "skip"}, [61, 56], [M, M]),
    ({"missed": "skip"}, [61, 1], [M, C]),
    ({"missed": "skip", "grace": 7200.0}, [61, 56], [M, C]),
    ({"missed": "skip", "grace": 0.0}, [0.001], [M]),
    ({"missed": "all"}, [0], [C]),
    ({"missed": "all"}, [600], [C]),
    ({"missed": "all"}, [11, 6, 1], [Q, Q, Q]),
    ({"missed": "all", "max_missed": 2}, [11, 6, 1], [M, Q, Q]),
    ({"missed": "all", "max_missed": 1}, [11, 6, 1], [M, M, Q]),
    ({"missed": "all", "max_missed": 3}, [11, 6, 1], [Q, Q, Q]),
    ({"missed": "all", "overlap": "allow"}, [11, 6, 1], [C, C, C]),
    ({"missed": "all", "overlap": "allow", "max_missed": 2}, [11, 6, 1], [M, C, C]),
    ({"missed": "once", "overlap": "allow"}, [6, 1], [M, C]),
    ({"enabled": False}, [61, 1], []),
    ({"enabled": False, "missed": "all"}, [61, 1], []),
]


@pytest.mark.parametrize(("policies", "minutes", "expected"), TABLE)
def test_each_policy_decides_as_documented(
    policies: dict[str, Any], minutes: list[float], expected: list[str]
) -> None:
    """Late within grace runs, missed goes by `missed`, and each tick gets one fate, in order."""
    fates = decide(minutes, **policies)
    assert states(fates) == expected
    if expected:
        assert [fate.scheduled_at for fate in fates] == [NOW - age * MINUTE for age in minutes]


@pytest.mark.parametrize("missed", ["once", "skip", "all"])
def test_a_paused_job_says_who_paused_it(missed: str) -> None:
    """Every tick of a paused job is skipped, whatever its policy, with who, until when and why."""
    pause = Pause(NOW + MINUTE, "moving house", "ann")
    fates = decide([61, 6, 1], pause, missed=missed)
    assert states(fates) == [P, P, P]
    assert {fate.reason for fate in fates} == {
        "paused by ann until 2026-03-02 12:01:01 UTC: moving house"
    }


def test_disabled_counts_more_than_paused() -> None:
    """A job that is switched off leaves no rows, also while it is paused."""
    assert decide([1], Pause(NOW + MINUTE, None, None), enabled=False) == []


def test_a_tick_that_is_made_up_for_says_so() -> None:
    """Who reads the history sees how late a tick was, and which one ran instead of the others."""
    late, newest = decide([65, 60])
    assert late.reason == (
        "nobody began it in time, or had room to: seen 1h05m late; "
        "the tick of 11:00:01 runs instead"
    )
    assert newest.reason == "missed; made up for 1h later"
    (skipped,) = decide([60], missed="skip")
    assert skipped.reason == "seen 1h late, over the grace of 5m"
    (over, _) = decide([2, 1], missed="all", max_missed=1)
    assert over.reason == "more than 1 ticks were missed at a time (max_missed)"
    (older, newest) = decide([120, 60], missed="skip")
    assert "instead" not in f"{older.reason} {newest.reason}"


def test_grace_counts_from_when_a_jittered_tick_is_due() -> None:
    """Jitter is no lateness: what starts when its jitter is over is not late."""
    one = job(missed="skip", grace=0.5, jitter=299.0)
    tick = START.replace(second=0)
    due = one.due(tick)
    assert tick < due < tick + 5 * MINUTE
    assert states(list(_decide.fates(one, [tick], due, None))) == [C]
    assert states(list(_decide.fates(one, [tick], due + SECOND, None))) == [M]


# -- ticks that are not over ---------------------------------------------------------------------


def active(state: str, **more: Any) -> Active:
    """A tick that is not over, of a minute ago."""
    return Active("j", NOW - MINUTE, state, "run", **more)


LONG_AGO = NOW - timedelta(days=9)
OLD, NEW = NOW - 6 * SECOND, NOW - 4 * SECOND
MOVES: list[tuple[str, Active, dict[str, Any], list[str]]] = [
    ("runs", active("running", started_at=OLD, locked=True), {}, []),
    ("lost", active("running", started_at=OLD), {}, ["lost"]),
    ("rerun", active("running", started_at=OLD), {"on_crash": "rerun"}, [Q]),
    ("twice", active("running", started_at=OLD, losses=2), {"on_crash": "rerun"}, [Q]),
    ("enough", active("running", started_at=OLD, losses=3), {"on_crash": "rerun"}, ["lost"]),
    ("just claimed", active("claimed", claimed_at=NEW), {}, []),
    ("not started", active("claimed", claimed_at=OLD), {}, [Q]),
    ("about to", active("claimed", claimed_at=OLD, locked=True), {}, []),
    ("waits", active("queued"), {}, []),
    ("waits for a while", active("queued", expires_at=NOW + SECOND), {}, []),
    ("waited too long", active("queued", expires_at=NOW - SECOND), {}, [M]),
]


@pytest.mark.parametrize(
    ("row", "policies", "expected"), [c[1:] for c in MOVES], ids=[c[0] for c in MOVES]
)
def test_what_makes_no_progress_is_moved(
    row: Active, policies: dict[str, Any], expected: list[str]
) -> None:
    """A run whose lock is free is lost; a claim that nobody starts goes to the queue."""
    facts = Facts(NOW, LONG_AGO, active=[row])
    assert states(list(_decide.moves({"j": job(**policies)}, facts, LONG_AGO))) == expected


@pytest.mark.parametrize("state", ["running", "claimed", "queued"])
def test_the_ticks_of_another_file_are_left_to_its_schedulers(state: str) -> None:
    """Who does not know a job's `on_crash` and `grace` does not decide for those who do."""
    row = active(state, started_at=OLD, claimed_at=OLD, expires_at=NOW - SECOND)
    facts = Facts(NOW, LONG_AGO, active=[row])
    assert states(list(_decide.moves({}, facts, LONG_AGO))) == []


DOUBTS = [
    (-1, 0, True),  # it began before all sessions ended, which was just now
    (-1, 19.9, True),
    (-1, 20.1, False),
    (1, 1.5, False),  # it began afterwards: so its session is none of those
]


@pytest.mark.parametrize(("started", "asked", "expected"), DOUBTS)
def test_a_run_is_in_doubt_for_a_while_after_all_sessions_ended(
    started: float, asked: float, expected: bool
) -> None:
    """A server that restarts ends all locks before anybody hears of it: nobody is lost at once."""
    line = NOW
    row = active("running", started_at=line + started * SECOND)
    one = job(kill_after=10.0)
    assert _decide.in_doubt(row, one, line + asked * SECOND, line) is expected
    facts = Facts(line + asked * SECOND, LONG_AGO, active=[row])
    assert bool(list(_decide.moves({"j": one}, facts, line))) is not expected


def test_without_the_doubt_a_run_is_lost_that_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: it is `in_doubt` that keeps a run from being lost while it may go on."""
    monkeypatch.setattr(_decide, "in_doubt", lambda *_: False)
    row = active("running", started_at=NOW - SECOND)
    assert states(list(_decide.moves({"j": job()}, Facts(NOW, NOW, active=[row]), NOW))) == ["lost"]


# -- the queue -----------------------------------------------------------------------------------


def queue(*rows: tuple[str, float, str], **more: Any) -> list[Active]:
    """Ticks by job, age in minutes, and state."""
    return [Active(name, NOW - age * MINUTE, state, **more) for name, age, state in rows]


def taken(rows: list[Active], pauses: dict[str, Pause] | None = None, **policies: Any) -> list[Any]:
    """What leaves the queue, by job and age."""
    jobs = {name: job(name, **policies) for name in "abj"}
    facts = Facts(NOW, LONG_AGO, pauses=pauses or {}, active=rows)
    return [(row.job, (NOW - row.scheduled_at) / MINUTE) for row in _decide.takes(jobs, facts)]


PAUSED = {"a": Pause(NOW + MINUTE, None, None)}


def test_the_oldest_of_each_job_leaves_the_queue() -> None:
    """A job's ticks run one after the other, in their order; jobs do not wait for each other."""
    assert taken(queue(("a", 9, Q), ("a", 8, Q), ("b", 7, Q))) == [("a", 9), ("b", 7)]


@pytest.mark.parametrize("state", ["claimed", "running"])
def test_nothing_leaves_the_queue_while_the_job_runs(state: str) -> None:
    """One that was claimed counts as one that runs."""
    assert taken(queue(("a", 9, Q), ("a", 8, state), ("b", 7, Q))) == [("b", 7)]
    assert taken(queue(("a", 9, Q), ("a", 8, state)), overlap="allow") == [("a", 9)]


def test_the_queue_waits_for_a_pause_and_for_a_lock() -> None:
    """A paused job's ticks stay in the queue, but one by hand runs; a held lock is waited for."""
    assert taken(queue(("a", 9, Q)), PAUSED) == []
    assert taken(queue(("a", 9, Q), by_hand=True), PAUSED) == [("a", 9)]
    assert taken(queue(("a", 9, Q)), enabled=False) == []
    assert taken(queue(("a", 9, Q), by_hand=True), enabled=False) == [("a", 9)]
    assert taken(queue(("a", 9, Q), locked=True)) == []
    assert taken(queue(("other", 9, Q))) == []


def test_held_up_is_what_waits_for_a_lock_that_no_run_holds() -> None:
    """It is worth coming again soon: the server is yet to hear that the lock is free."""
    jobs = {"a": job("a")}

    def ask(rows: list[Active]) -> bool:
        return _decide.held_up(jobs, Facts(NOW, LONG_AGO, active=rows))

    assert ask(queue(("a", 9, Q), locked=True))
    assert not ask(queue(("a", 9, Q)))
    assert not ask([*queue(("a", 9, Q), locked=True), *queue(("a", 8, "running"), locked=True)])
    assert not ask(queue(("other", 9, Q), locked=True))


def test_a_scheduler_that_lives_reports_its_runs_itself() -> None:
    """A run without a lock is lost if its scheduler is dead, or if it is ours and we have none."""
    began = NOW - timedelta(minutes=1)
    run = Active("j", began, "running", "r", started_at=began, owner=7)
    jobs, line = {"j": job()}, NOW - timedelta(hours=1)

    def lost(row: Active, us: _decide.Us) -> bool:
        facts = Facts(NOW, line, active=[row])
        return [move.state for move in _decide.moves(jobs, facts, line, us)] == ["lost"]

    assert lost(run, _decide.Us(owner=1))
    assert not lost(replace(run, owned=True), _decide.Us(owner=1))
    assert lost(replace(run, owned=True), _decide.Us(owner=7))
    assert not lost(replace(run, owned=True), _decide.Us(owner=7, running=["r"]))


def test_the_rows_of_a_job_that_others_have_are_theirs() -> None:
    """Only what nobody has had for a day is given up by somebody else."""
    waiting = Active("theirs", NOW - timedelta(days=2), "queued")
    facts = Facts(NOW, NOW, active=[waiting])
    assert [move.state for move in _decide.moves({}, facts, NOW)] == ["skipped_missed"]
    assert not list(_decide.moves({}, facts, NOW, _decide.Us(known=["theirs"])))


def test_what_is_new_does_not_overtake_what_waits() -> None:
    """With `overlap="queue"` a tick stands behind those in the queue, whatever `missed` says."""
    for missed in ("once", "skip", "all"):
        (fate,) = _decide.fates(job(overlap="queue", missed=missed), [NOW], NOW, None, waiting=3)
        assert fate.state == "queued", missed
