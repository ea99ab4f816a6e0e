"""The plan for a slot, driven by hand, and by many at once against a model of the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from driven import drive
from hypothesis import given
from hypothesis import strategies as st

from advlock import ConfigError, DatabaseUnavailable, Key
from advlock._inspect._naming import Namer, spelled
from advlock._semaphore._keys import Keys, disagreement
from advlock._semaphore._plan import Look, Nap, Queue, Refuse, Take, View, look, pauses, seek

FREE = View(frozenset(), waited=False, others=frozenset())
FULL = View(frozenset({0, 1}), waited=False, others=frozenset())


def keys(slots: int = 2) -> Keys:
    """Those of a semaphore."""
    return Keys(slots, lambda n: Key.slot("gpu", n), "utf-8")


def test_a_free_slot_needs_no_look() -> None:
    """The guess was right."""
    assert drive(seek(2, 1, patient=True), True) == ([Take(1, first=False)], True)


def test_a_wrong_guess_looks_for_the_free_one() -> None:
    """Then it is known which one is free."""
    view = View(frozenset({1}), waited=False, others=frozenset())
    asked, got = drive(seek(2, 1, patient=False), False, view, True)
    assert asked == [Take(1, first=False), Look(), Take(0, first=False)]
    assert got


@pytest.mark.parametrize("view", [FULL, FREE._replace(waited=True)], ids=["full", "waited for"])
def test_an_attempt_does_not_wait_and_does_not_overtake(view: View) -> None:
    """It ends with the look, also where a slot is free and others wait for it."""
    assert drive(seek(2, 0, patient=False), False, view)[1] is False


def test_who_waits_queues_and_is_the_first_before_it_looks() -> None:
    """From then on it takes slots as the first."""
    asked, got = drive(seek(2, 0, patient=True), False, FULL, True, FULL, True, True, FREE, True)
    kinds = [type(step) for step in asked]
    assert kinds == [Take, Look, Queue, Look, Nap, Queue, Look, Take]
    assert asked[-1].first
    assert got


def test_time_runs_out_in_the_queue_and_behind_it() -> None:
    """Either way there is no slot."""
    assert drive(seek(2, 0, patient=True), False, FULL, False)[1] is False
    assert drive(seek(2, 0, patient=True), False, FULL, True, FULL, False)[1] is False


def test_a_server_that_restarts_is_waited_for_only_by_who_waits() -> None:
    """Who has just come is told."""
    away = DatabaseUnavailable("away")
    with pytest.raises(DatabaseUnavailable):
        drive(seek(2, 0, patient=True), away)
    asked, got = drive(seek(2, 0, patient=True), False, FULL, away, True, True, FREE, True)
    assert [type(step) for step in asked][2:] == [Queue, Nap, Queue, Look, Take]
    assert got


def test_who_waits_long_looks_less_often() -> None:
    """Quick at first; then it loses a fiftieth of its time; ten times a second it looks anyway."""
    waited, naps = 0.0, pauses()
    while waited < 60:
        nap = next(naps)
        assert nap <= 1.5 * min(max(0.02, waited / 50), 0.1)
        assert nap < 0.031 or waited > 1
        waited += nap
    assert nap >= 0.05
    assert next(pauses()) <= 0.003


def test_others_are_refused_or_gone() -> None:
    """`Refuse` raises where they are still there; where not, it is tried again."""
    view = FREE._replace(others=frozenset({3}))
    asked, got = drive(seek(2, 0, patient=False), False, view, None, True, FREE, True)
    assert asked[2] == Refuse(frozenset({3}))
    assert got
    with pytest.raises(ConfigError):
        drive(seek(2, 0, patient=False), False, view, ConfigError("3"))
    assert disagreement(keys(), 3, []) is None


def test_what_a_look_shows() -> None:
    """Slots that are held, whether somebody waits, and who says otherwise; not what only waits."""
    rows = [("1", "77", "t"), ("0", "5", "f"), (None, "2", "t"), (None, "3", "f"), (None, "4", "t")]
    asked, view = drive(look(keys()), [rows])
    assert view == View(frozenset({1}), waited=False, others=frozenset({4}))
    assert len(asked) == 1
    assert drive(look(keys()), [[(None, "0", "f")]])[1].waited


def test_the_keys_and_what_they_are_called() -> None:
    """Slot n is the hash with seed n; what all agree on differs in the last 16 bits alone."""
    made = keys(3)
    assert made.slots[2] == Key.slot("gpu", 2)
    assert {made.agreed.value >> 16, made.queue.value >> 16} == {made.agreed_by(9).value >> 16}
    assert [key.value & 0xFFFF for key in (made.agreed, made.queue)] == [3, 0]
    names = [spelled(key) for key in (*made.slots[:2], made.agreed, made.queue)]
    assert names == ["gpu", "gpu (slot 1)", "gpu (of 3)", "gpu (queue)"]
    assert made.agreed.sql == "hashtextextended('gpu', -1) & -65536 | 3"
    assert Namer()._make("gpu", "hashtextextended", -4) == made.agreed
    for wrong in (-1, 1 << 16, True, "3"):
        with pytest.raises(ConfigError):
            Key.agreed("gpu", wrong)  # type: ignore[arg-type]


# -- many at once ----------------------------------------------------------------------------------


@dataclass
class Model:
    """A server: who has which slot, who is in the queue, in order."""

    slots: int
    taken: dict[int, int] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)

    def answer(self, who: int, step: Any) -> Any:
        """Carry out one step; None where it is not its turn yet."""
        match step:
            case Take(slot, first):
                if self.queue != [who, *self.queue[1:]] if first else self.queue:
                    return False
                if slot in self.taken:
                    return False
                self.taken[slot] = who
                return True
            case Look():
                return View(frozenset(self.taken), bool(self.queue), frozenset())
            case Queue():
                if who not in self.queue:
                    self.queue.append(who)
                return True if self.queue[0] == who else None
        return True


@given(st.integers(1, 3), st.integers(2, 6), st.data())
def test_everybody_gets_in_and_in_turn(slots: int, crowd: int, data: st.DataObject) -> None:
    """In whatever order they act: never two in a slot, and who queues is not overtaken."""
    model = Model(slots)
    plans = {who: seek(slots, 0, patient=True) for who in range(crowd)}
    steps: dict[int, Any] = {who: next(plan) for who, plan in plans.items()}
    inside: set[int] = set()
    order: list[int] = []
    for _ in range(500):
        if not plans and not inside:
            break
        who = data.draw(st.sampled_from(sorted({*plans, *inside})))
        if who in inside:
            inside.remove(who)
            model.taken = {slot: holder for slot, holder in model.taken.items() if holder != who}
            continue
        if (answer := model.answer(who, steps[who])) is None:
            continue
        ahead = model.queue[: model.queue.index(who)] if who in model.queue else model.queue[:]
        try:
            steps[who] = plans[who].send(answer)
        except StopIteration:
            assert who in model.taken.values()
            assert not ahead
            model.queue = [one for one in model.queue if one != who]
            inside.add(who)
            order.append(who)
            del plans[who]
        assert len(inside) <= slots
    assert sorted([*order, *plans]) == list(range(crowd))
