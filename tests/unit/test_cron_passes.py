"""Passes of several schedulers over a model of the tables: in any order, and through any death."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta

import pytest
from cron_model import PATIENCE, START, Tables, job, schedulers
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from advlock._cron import _decide
from advlock._cron._life import Begun

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _same_numbers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have run_ids, and so the order in which a host wants ticks, follow from Hypothesis' seed."""
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4))


# -- several schedulers --------------------------------------------------------------------------

JOBS = (
    job("fast", "@every 7s", keep=10_000),
    job("all", "@every 11s", missed="all", max_missed=10_000, keep=10_000, grace=1e6),
    job("wide", "@every 5s", overlap="allow", keep=10_000),
    job("shaken", "@every 13s", jitter=12.0, keep=10_000),
    job("forgetful", "@every 3s", keep=1),
    job("again", "@every 17s", on_crash="rerun", keep=10_000),
)
LONG = settings(
    max_examples=50,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class Hosts(RuleBasedStateMachine):
    """Three schedulers that look, act, start, finish and die in any order, while time goes on."""

    broken = ""

    @initialize(rooms=st.lists(st.integers(0, 6), min_size=3, max_size=3))
    def begin(self, rooms: list[int]) -> None:
        self.tables = Tables(broken=self.broken)
        self.hosts = schedulers(self.tables, 3, *JOBS)
        for host, room in zip(self.hosts, rooms, strict=True):
            host.room = room

    @rule(seconds=st.floats(0.01, 30))
    def time_goes_on(self, seconds: float) -> None:
        self.tables.now += timedelta(seconds=seconds)

    @rule(which=st.integers(0, 2))
    def look(self, which: int) -> None:
        self.hosts[which].look()

    @rule(which=st.integers(0, 2))
    def act(self, which: int) -> None:
        if self.hosts[which].half_way:
            self.hosts[which].act()

    @rule(which=st.integers(0, 2), seconds=st.floats(0.001, 2))
    def turn(self, which: int, seconds: float) -> None:
        self.tables.now += timedelta(seconds=seconds)
        self.hosts[which].look()
        if self.hosts[which].half_way:
            self.hosts[which].act()

    @rule()
    def claims_grow_old(self) -> None:
        """Whoever has claimed and not started by now is given up, and has not heard of it."""
        for _ in range(2):
            self.tables.now += PATIENCE
            for host in self.hosts:
                host.look()
                host.act()

    @precondition(lambda self: any(host.claims for host in self.hosts))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from([host for host in self.hosts if host.claims]))
        host.start(data.draw(st.sampled_from(host.claims)))

    @precondition(lambda self: any(host.running for host in self.hosts))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from([host for host in self.hosts if host.running]))
        host.finish(data.draw(st.sampled_from(host.running)))

    @rule(which=st.integers(0, 2))
    def die(self, which: int) -> None:
        self.hosts[which].die()

    @rule()
    def server_restarts(self) -> None:
        """All locks are gone; those who have them are told, and end what they run."""
        self.tables.server_since = self.tables.now
        for host in self.hosts:
            for claim in [*host.running]:
                host.finish(claim, "lost")

    @invariant()
    def nobody_decides_a_tick_twice(self) -> None:
        assert max(self.tables.inserted.values(), default=1) == 1, self.tables.inserted

    @invariant()
    def no_tick_starts_twice(self) -> None:
        for (name, tick), count in self.tables.starts.items():
            most = 1 + _decide.RERUNS if name == "again" else 1
            assert count <= most, (name, tick)

    @invariant()
    def what_is_made_up_for_is_not_skipped(self) -> None:
        rows = [row for row in self.tables.runs.values() if row["job"] == "all"]
        assert not [row for row in rows if row["state"] == "skipped_missed"], rows

    @invariant()
    def no_job_overlaps_itself(self) -> None:
        names = [c.job.name for h in self.hosts for c in h.running if c.job.overlap != "allow"]
        assert len(names) == len(set(names)), names

    def teardown(self) -> None:
        """Whatever went before: with room and time, every tick up to the mark has its row."""
        if not hasattr(self, "tables"):
            return
        for host in self.hosts:
            host.room = 1000
            host.turn()
        self.tables.now += 6 * SECOND
        for host in self.hosts:
            host.turn()
        for one in JOBS:
            mark = self.tables.decided(one.name)
            assert mark > START + 5 * SECOND, "nothing was decided"
            ticks = one.schedule.newest(START, mark, 10_000)
            if one.keep > 1:
                missing = [tick for tick in ticks if (one.name, tick) not in self.tables.inserted]
                assert not missing, (one.name, mark, missing)


Hosts.TestCase.settings = LONG
TestHosts = Hosts.TestCase


@pytest.mark.parametrize("broken", ["key", "prune"])
def test_without_a_protection_ticks_are_decided_twice(broken: str) -> None:
    """The controls: without the primary key, or with rows pruned early, the histories are red."""

    class Broken(Hosts):
        pass

    Broken.broken = broken
    quick = settings(LONG, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=quick)


# -- single histories ----------------------------------------------------------------------------


def test_one_who_looked_long_ago_decides_nothing() -> None:
    """A scheduler that was stopped between its look and its word leaves the ticks undecided."""
    tables = Tables()
    (one,) = schedulers(tables, 1, job(schedule="@every 30s"))
    one.turn()
    tables.now += 30 * SECOND
    one.look()
    tables.now += 10.5 * SECOND
    assert not one.act().claims
    assert tables.decided("j") < START + 30 * SECOND
    assert len(one.turn().claims) == 1


def test_who_has_no_room_leaves_it_to_others() -> None:
    """Its mark stays before what it did not take, and it comes back to that later."""
    tables = Tables()
    jobs = [job(f"j{number}", "@every 30s") for number in range(10)]
    full, other = schedulers(tables, 2, *jobs)
    full.room = 3
    for host in (full, other):
        host.turn()
    tables.now += 30 * SECOND
    assert len(full.turn().claims) == 3
    assert tables.decided("j1") < START.replace(second=30)
    other.room = 4
    assert len(other.turn().claims) == 4
    assert len(full.turn().claims) == 3
    assert set(tables.inserted.values()) == {1}
    assert len(tables.inserted) == 10
    assert tables.decided("j1") < START.replace(second=30)


def test_who_has_no_room_for_all_is_through_once_others_have_them() -> None:
    """It does not ask for the same ticks for ever: the mark goes on, and the next pass is short."""
    tables = Tables()
    jobs = [job(f"j{number}", "@every 30s") for number in range(10)]
    small, other = schedulers(tables, 2, *jobs)
    small.room = 3
    small.turn(), other.turn()
    tables.now += 30 * SECOND
    other.turn()
    assert not small.turn().claims
    assert not small.turn().decided
    tables.now += 6 * SECOND
    small.turn()
    assert tables.decided("j1") == tables.now


def test_one_scheduler_with_little_room_comes_to_an_end() -> None:
    """It takes what it has room for, again and again, until nothing is left; then it sleeps."""
    tables = Tables()
    (one,) = schedulers(tables, 1, *(job(f"j{number}", "@every 30s") for number in range(250)))
    one.turn()
    tables.now += 30 * SECOND
    claimed, passes = 0, []
    for _ in range(10):
        passes.append(one.turn())
        claimed += len(passes[-1].claims)
    assert claimed == 250
    assert [len(each.claims) for each in passes[:4]] == [100, 100, 50, 0]
    assert not passes[-1].decided
    assert passes[-1].sleep > 0


@pytest.mark.parametrize("broken", ["", "state"])
def test_a_claim_that_nobody_starts_is_taken_up(broken: str) -> None:
    """Another starts it after some seconds, and its first owner may not; but for the control."""
    tables = Tables(broken=broken)
    dead, other = schedulers(tables, 2, job(schedule="@every 30s"))
    dead.turn(), other.turn()
    tables.now += 30 * SECOND
    (claim,) = dead.turn().claims
    tables.now += PATIENCE
    assert not other.turn().claims
    (again,) = other.turn().claims
    assert again.scheduled_at == claim.scheduled_at
    assert other.start(again) is Begun.YES
    other.finish(again)
    assert dead.start(claim) is (Begun.YES if broken else Begun.GONE)
    assert max(tables.starts.values()) == (2 if broken else 1)


@pytest.mark.parametrize("broken", ["", "mark"])
def test_one_who_looked_before_others_does_not_repeat_what_was_pruned(broken: str) -> None:
    """The row of the tick is gone, but not the mark; without it (the control) it runs twice."""
    tables = Tables(broken=broken)
    slow, other = schedulers(tables, 2, job(schedule="@every 3s", keep=1))
    slow.turn(), other.turn()
    tables.now += 2 * SECOND
    slow.look()
    for _ in range(2):
        (claim,) = other.turn().claims
        other.start(claim)
        other.finish(claim)
        tables.now += 3 * SECOND
    slow.act()
    assert max(tables.inserted.values()) == (2 if broken else 1)


def test_a_jittered_tick_waits_and_is_not_lost_with_its_scheduler() -> None:
    """The mark stays before a tick whose time is not over; whoever comes later finds it."""
    tables = Tables(now=START.replace(minute=4))
    one = job(jitter=240.0, missed="skip", grace=5.0)
    first, second = schedulers(tables, 2, one)
    first.turn()
    tick = START.replace(minute=5, second=0)
    tables.now = tick + SECOND
    assert not first.turn().claims
    assert tables.decided("j") < tick < one.due(tick)
    first.die()
    tables.now = one.due(tick) - 0.01 * SECOND
    assert not second.turn().claims
    tables.now = one.due(tick) + 0.01 * SECOND
    assert [claim.scheduled_at for claim in second.turn().claims] == [tick]


def test_jitter_ends_before_the_next_tick_and_is_the_same_everywhere() -> None:
    """However long it is, ticks keep their order, and all hosts agree."""
    one, other = job(jitter=3600.0), job(jitter=3600.0)
    ticks = one.schedule.newest(START - timedelta(days=1), START, 1000)
    dues = [one.due(tick) for tick in ticks]
    assert dues == [other.due(tick) for tick in ticks] == sorted(dues)
    late = [(due - tick).total_seconds() for due, tick in zip(dues, ticks, strict=True)]
    assert min(late) >= 0
    assert max(late) < 300
    assert max(late) - min(late) > 200


def test_a_reload_forgets_what_a_job_that_is_gone_had_to_wait_for() -> None:
    """Else its jitter would hold the mark of all others back for ever."""
    tables = Tables(now=START.replace(minute=4))
    shaken, plain = job("shaken", jitter=240.0), job("plain", "@every 1s")
    (one,) = schedulers(tables, 1, shaken, plain)
    one.turn()
    tables.now = START.replace(minute=5, second=1)
    one.turn()
    (without,) = schedulers(tables, 1, plain)
    one.agenda.reload(without.jobs)
    tables.drive(one.agenda.join())
    tables.now += 60 * SECOND
    one.turn()
    assert tables.sets[without.jobs.digest()][2] == tables.now


@pytest.mark.parametrize("missed", ["once", "all"])
def test_a_claim_that_nobody_started_in_time_is_made_up_for(missed: str) -> None:
    """To die between claim and start is no other reason to miss a tick than to die before it."""
    tables = Tables()
    (one,) = schedulers(tables, 1, job(schedule="@every 1h", missed=missed))
    one.turn()
    tables.now = START.replace(hour=13)
    assert one.turn().claims
    one.die()
    tables.now += PATIENCE
    one.turn()
    one.die()
    tables.now += timedelta(minutes=20)
    assert one.turn().claims or one.turn().claims
