"""The sync and the async client are twins: the same verbs, the same parameters."""

from __future__ import annotations

import inspect

import pytest

import advlock

TWINS = [
    (advlock.Locks, advlock.AsyncLocks),
    (advlock.Held, advlock.AsyncHeld),
    (advlock.Lock, advlock.AsyncLock),
    (advlock.Semaphore, advlock.AsyncSemaphore),
    (advlock.Slot, advlock.AsyncSlot),
    (advlock.RateLimit, advlock.AsyncRateLimit),
    (advlock.Scheduler, advlock.AsyncScheduler),
    (advlock.Leader, advlock.AsyncLeader),
    (advlock.Term, advlock.AsyncTerm),
    (advlock.Todo, advlock.AsyncTodo),
]
# A thread cannot be cancelled.
ONLY_FOR_TASKS = dict.fromkeys(("hold", "attempt", "hold_all", "term"), "cancel_on_lost")


ALSO_FOR_TASKS = {advlock.AsyncTerm: {"cancel_on_lost"}}


def _verbs(cls: type) -> dict[str, object]:
    return {n: getattr(cls, n) for n in dir(cls) if not n.startswith("_")}


@pytest.mark.parametrize(("sync", "twin"), TWINS)
def test_twins_have_the_same_verbs(sync: type, twin: type) -> None:
    """No verb is missing in one world, and none is named otherwise."""
    assert set(_verbs(sync)) == set(_verbs(twin)) - ALSO_FOR_TASKS.get(twin, set())


@pytest.mark.parametrize(("sync", "twin"), TWINS)
def test_twins_have_the_same_parameters(sync: type, twin: type) -> None:
    """The same names, kinds and defaults, in the same order, but for what threads cannot have."""
    for name, verb in _verbs(sync).items():
        if callable(verb):
            ours = inspect.signature(verb).parameters
            theirs = dict(inspect.signature(getattr(twin, name)).parameters)
            if ONLY_FOR_TASKS.get(name):
                theirs.pop(ONLY_FOR_TASKS[name])
            assert str(dict(ours)) == str(theirs), name
    assert str(inspect.signature(sync)) == str(inspect.signature(twin)).replace("Async", "")


@pytest.mark.parametrize("cls", [cls for pair in TWINS for cls in pair])
def test_every_verb_is_documented(cls: type) -> None:
    """A verb without a docstring does not exist."""
    for name, verb in _verbs(cls).items():
        assert inspect.getdoc(verb), name
