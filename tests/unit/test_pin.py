"""What is sent on a pinned session: every request, after every answer, on a model of the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.driven import drive

from advlock import _pin, _plan, _sql
from advlock._liveness import Bounds
from advlock._pin import Moved, Place, Request, compose
from advlock._plan import Refused, Script, SessionLost, Step
from advlock._set_up import Identity, settings

BOUNDS = Bounds()
HOME = Identity("7300", 10)
TRY, UNLOCK, QUERY, SETTING = "try", "unlock", "SELECT … FROM pg_locks", "SELECT set_config(…)"


class Pinned:
    """A server session in the eyes of a pooler: locks, and the transaction around them.

    Attributes:
        locks: Those of the session. No end of a transaction or savepoint takes one back.

        snapshot: Whether it has one left, which VACUUM would wait for.

        tables: Whether it has locks on tables left.
    """

    def __init__(self) -> None:
        self.place = Place.OUTSIDE
        self.locks: set[str] = set()
        self.savepoints = 0
        self.snapshot = self.tables = False

    def perform(self, steps: tuple[Step, ...], fails_at: int | None) -> bool:
        """Carry out a pipeline with one Sync; an error skips what is behind it."""
        for number, step in enumerate(steps):
            if number == fails_at:
                self.place = Place.OUTSIDE if self.place is Place.OUTSIDE else Place.FAILED
                return False
            self._perform(step)
        return True

    def _perform(self, step: Step) -> None:
        assert not step.sync, "a pooler takes the first answer for the end of the request"
        assert self.place is not Place.FAILED or step.sql == _sql.ROLLBACK_TO_SAVEPOINT
        match step.sql:
            case _sql.BEGIN:
                assert self.place is Place.OUTSIDE
                self.place = Place.INSIDE
            case _sql.COMMIT:
                assert not self.locks, "they stay in the pool, with nobody"
                self.place, self.savepoints = Place.OUTSIDE, 0
                self.snapshot = self.tables = False
            case _sql.SAVEPOINT:
                self.savepoints += 1
            case _sql.RELEASE_SAVEPOINT:
                assert self.savepoints
                self.savepoints -= 1
                self.snapshot = False
            case _sql.ROLLBACK_TO_SAVEPOINT:
                assert self.savepoints
                self.place = Place.INSIDE
                self.snapshot = self.tables = False
            case _sql.UNLOCK_ALL:
                self.locks.clear()
            case _:
                self._ask(step)

    def _ask(self, step: Step) -> None:
        inside = self.place is Place.INSIDE
        self.snapshot = self.snapshot or inside
        self.tables = self.tables or (inside and step.sql == QUERY)
        if step.sql == TRY:
            assert inside, "on whatever session the pooler has at hand"
            self.locks.update(map(str, step.params))
        elif step.sql == UNLOCK:
            self.locks.difference_update(map(str, step.params))


def script(kind: str, names: list[str], held: set[str]) -> Script:
    """Make what a wire asks for: it says when a script locks, and when it frees everything."""
    if kind == TRY:
        return Script((Step(TRY, tuple(names)),), locks=True)
    if kind == UNLOCK:
        return Script((Step(UNLOCK, tuple(names)),), frees=held <= set(names))
    if kind == "unpin":
        return Script((), frees=not held)
    if kind == "heartbeat":
        return Script(())
    return Script((Step(kind),), keeps=kind == SETTING)


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([TRY, TRY, UNLOCK, QUERY, SETTING, "heartbeat", "unpin"]),
        st.lists(st.sampled_from("abc"), unique=True, min_size=1),
        st.none() | st.integers(0, 8),
    ),
    max_size=20,
)


@given(REQUESTS)
def test_whatever_is_asked_and_fails(requests: list[tuple[str, list[str], int | None]]) -> None:
    """No COMMIT while something is held; no lock outside; an idle transaction holds nothing up."""
    server = Pinned()
    for kind, names, fails_at in requests:
        asked = script(kind, names, server.locks)
        before, held = server.place, set(server.locks)
        request = compose(asked, before, BOUNDS)
        done = server.perform(request.steps, fails_at)
        check_frame(request, asked, before)
        assert server.locks == held or kind in (TRY, UNLOCK)
        if done:
            assert server.place is request.leaves_to
            assert not server.snapshot
            assert not server.tables
            assert server.savepoints == (server.place is Place.INSIDE)
        if not server.savepoints and server.place is Place.FAILED:
            return  # it had hardly begun: the next request is refused, and the session ends


def check_frame(request: Request, asked: Script, before: _pin.Place) -> None:
    """What was asked for is in it, and its facts are the first thing that the session says."""
    inside = asked.locks or before is not Place.OUTSIDE
    assert request.steps[request.asked] == (asked.steps if inside or not asked.frees else ())
    if before is Place.OUTSIDE and asked.locks:
        assert request.facts == len(_sql.OPENING)
        assert request.steps[request.facts] == Step(_sql.SET_UP, settings(0, BOUNDS))
        assert tuple(step.sql for step in request.steps[:3]) == _sql.OPENING
    else:
        assert request.facts is None
        assert _sql.BEGIN not in [step.sql for step in request.steps]


# -- where it has begun ----------------------------------------------------------------------------


def facts(
    *, replica: str = "f", system: str = "7300", timeline: str = "0000000A", locks: str = "f"
) -> tuple[str | None, ...]:
    """What `_sql.SET_UP` answers."""
    return ("42", replica, system, timeline, locks, "14")


def test_a_transaction_may_begin_on_any_backend_of_the_server() -> None:
    """The pooler has many; the server is the same, a primary, and the session carries nothing."""
    _pin.check(facts(), HOME)


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        (facts(system="9900"), Moved, "another server"),
        (facts(timeline="0000000B"), Moved, "another server"),
        (facts(replica="t"), SessionLost, "read replica"),
        (facts(locks="t"), SessionLost, "left a session-level lock"),
    ],
)
def test_a_transaction_must_not_begin_elsewhere(
    row: tuple[str | None, ...], error: type[SessionLost], says: str
) -> None:
    """Another server, a replica, or a session on which a lock would be granted once more."""
    with pytest.raises(error, match=says) as caught:
        _pin.check(row, HOME)

    assert type(caught.value) is error


# -- beside it -------------------------------------------------------------------------------------


def test_a_plan_beside_the_transaction_brings_its_settings_each_time() -> None:
    """Each of its scripts may be answered by another backend: settings first, for this one only."""
    undecided, drawn = ("00000001", None, None, None), ("00000001", "t", "7", None)
    answers = ([[], [facts()], [undecided]], Refused("42501", "no"), [[], [facts()], [drawn]])
    asked, token = drive(_pin.aside(_plan.token(), BOUNDS, HOME), *answers)

    assert len(asked) == 3
    lead = (Step(_sql.READ_COMMITTED), Step(_sql.SET_UP, settings(0, BOUNDS)))
    assert {each.steps[:2] for each in asked} == {lead}
    assert token == (1 << 48) + 7


def test_a_plan_beside_the_transaction_ends_on_another_server() -> None:
    """What another server says has nothing to do with the lock."""
    answer = [[], [facts(system="9900")], [("00000001", "t", "7", None)]]

    with pytest.raises(Moved):
        drive(_pin.aside(_plan.token(), BOUNDS, HOME), answer)


def test_what_a_plan_does_not_understand_beside_the_transaction_is_passed_on() -> None:
    """A refusal that the plan does not catch is its caller's to judge."""
    with pytest.raises(Refused):
        drive(_pin.aside(_plan.token(), BOUNDS, HOME), Refused("42501", "permission denied"))


def test_a_confirmation_asks_nothing_of_the_server() -> None:
    """Inside, it is the frame alone that is answered: the transaction is still there."""
    asked, _ = drive(_pin.confirm(), [])

    assert compose(asked[0], Place.INSIDE, BOUNDS).steps == (Step(_sql.ROLLBACK_TO_SAVEPOINT),)
