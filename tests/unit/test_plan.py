"""The plans, driven by hand: every answer that a server or a clock can give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.driven import drive
from unit.model import ModelServer

from advlock import _plan, _sql
from advlock._key import Key
from advlock._ledger import ASKING, HELD, QUEUED, RELEASING, Op, Ticket
from advlock._liveness import Bounds
from advlock._plan import Nap, Refused, Try, Turn, Unanswered, Wait, Waited
from advlock._set_up import Greeting, Identity, looks_direct, set_up
from advlock.errors import DatabaseUnavailable, LockError, TooManyLocks, UnsafeServer

OUT_OF_MEMORY = Refused("53200", "out of shared memory")


def ticket(name: str = "nightly", *, shared: bool = False) -> Ticket:
    """Make a ticket whose turn it is."""
    made = Ticket(Key.of(name), name, shared=shared, owner=None)
    made.state = ASKING
    return made


# -- a contended acquire ---------------------------------------------------------------------------


def test_a_queued_ticket_waits_for_its_turn_and_then_tries_before_it_waits() -> None:
    """The turn comes first; a lock that is free by then costs no session."""
    waiting = ticket()
    waiting.state = QUEUED

    asked, verdict = drive(_plan.contend(waiting), True, True)

    assert [Turn(), Try()] == asked
    assert verdict is True


def test_the_queue_s_patience_is_the_caller_s() -> None:
    """When time runs out in our own queue, the server is not asked at all."""
    waiting = ticket()
    waiting.state = QUEUED

    assert ([Turn()], False) == drive(_plan.contend(waiting), False)


@pytest.mark.parametrize(
    ("waited", "verdict"), [(Waited.GRANTED, True), (Waited.TIME_IS_UP, False)]
)
def test_the_server_s_verdict_is_final(waited: Waited, verdict: bool) -> None:
    """Granted is held, and time is up is not."""
    assert ([Wait()], verdict) == drive(_plan.contend(ticket()), waited)


def test_beyond_the_budget_it_polls_and_asks_for_a_session_again() -> None:
    """No session left: nap, try, and look whether one has become free."""
    answers = (Waited.NO_SESSION, True, False, Waited.NO_SESSION, True, True)

    asked, verdict = drive(_plan.contend(ticket()), *answers)

    kinds = [type(step) for step in asked]
    assert [Wait, Nap, Try, Wait, Nap, Try] == kinds
    assert verdict is True


def test_without_plpgsql_it_only_polls() -> None:
    """A server that cannot wait for us is not asked to again."""
    asked, _ = drive(_plan.contend(ticket()), Waited.IMPOSSIBLE, True, False, True, False, True)

    assert [Wait, Nap, Try, Nap, Try, Nap] == [type(step) for step in asked[:6]]


def test_a_waiter_whose_server_restarts_carries_on_within_its_deadline() -> None:
    """A broken session, then no connection for a while: it naps and tries again, then waits."""
    away = DatabaseUnavailable("starting up")
    answers = (Waited.BROKEN, True, away, True, away, True, False, Waited.GRANTED)

    asked, verdict = drive(_plan.contend(ticket()), *answers)

    assert [Wait, Nap, Try, Nap, Try, Nap, Try, Wait] == [type(step) for step in asked]
    assert verdict is True


def test_a_nap_that_uses_up_the_time_ends_it() -> None:
    """False from a nap is the end of the caller's patience."""
    assert drive(_plan.contend(ticket()), Waited.NO_SESSION, False)[1] is False


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    """Pollers neither hammer the server nor march in step."""
    pauses = _plan.pauses()
    many = [next(pauses) for _ in range(200)]

    assert max(many) <= 0.375
    assert many[0] < 0.01
    assert all(one != other for one, other in pairwise(many))


# -- set-up ----------------------------------------------------------------------------------------


def answer(
    pid: str = "42",
    *,
    in_recovery: str = "f",
    taken: str = "t",
    seen: str = "t",
    released: str = "t",
) -> list[list[tuple[str, ...]]]:
    """What a server answers to our set-up: the lock for a test, itself, and the lock's release."""
    facts = (pid, in_recovery, "7300", "0000000A", seen, "14")
    opening: list[list[tuple[str, ...]]] = [[] for _ in _sql.OPENING]
    return [*opening, [(taken,)], [facts], [(released,)], []]


def refused(sqlstate: str, words: str, after: int = 0) -> Refused:
    """A refusal, after so many statements that were answered."""
    refusal = Refused(sqlstate, words)
    refusal.rows = answer("43")[:after]
    return refusal


def test_set_up_accepts_a_primary_that_answers_itself() -> None:
    """The backend that answers is the one we connected to, it is no replica, and it locks."""
    asked, greeting = drive(set_up(42, Bounds()), answer())

    (script,) = asked
    assert [step.sql for step in script.steps] == [
        *_sql.OPENING,
        _sql.TRY_ONE,
        _sql.SET_UP,
        _sql.UNLOCK_ONE,
        _sql.COMMIT,
    ]
    assert greeting == Greeting(Identity("7300", 10), 42)


def test_set_up_sets_the_bounds_on_the_server() -> None:
    """The settings that make the server notice our end are those of this client's bounds."""
    bounds = Bounds(liveness=5, lease=15)
    asked, _ = drive(set_up(42, bounds), answer())

    *lists, owner = next(step.params for step in asked[0].steps if step.sql == _sql.SET_UP)
    names, values = (text.strip("{}").split(",") for text in lists)
    settings = dict(zip(names, values, strict=True))
    assert settings['"tcp_user_timeout"'] == f'"{bounds.user_timeout}"'
    assert settings['"idle_session_timeout"'] == '"15000"'
    assert owner == "42", "for the session, if it is this one's; else for the transaction"


@pytest.mark.parametrize("startup_pid", [0, -7, 43, 2**22 + 1, 2**31 - 1])
def test_behind_a_pooler_somebody_else_answers(startup_pid: int) -> None:
    """Whatever number the pooler made up, the set-up says who it was."""
    asked, greeting = drive(set_up(startup_pid, Bounds()), answer("42"))

    assert len(asked) == 1
    assert greeting.backend_pid == 42
    assert looks_direct(startup_pid) == (startup_pid == 43)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (answer(in_recovery="t"), "replica"),
        (answer(taken="f"), "stub"),
        (answer(seen="f"), "stub"),
        (answer(released="f"), "stub"),
        ([[] for _ in answer()], "stub"),
        (refused("42883", "function pg_backend_pid() does not exist"), "refused"),
        (refused("0A000", "not supported", after=3), "refused"),
    ],
)
def test_set_up_refuses_where_exclusion_cannot_hold(said: Any, reason: str) -> None:
    """A replica, locks that are stubs, and what only looks like PostgreSQL."""
    with pytest.raises(UnsafeServer) as caught:
        drive(set_up(42, Bounds()), said)

    assert reason == caught.value.reason


@pytest.mark.parametrize("after", [0, 3, 4, 5, 6, 7])
def test_set_up_tells_trouble_that_passes_from_an_unsafe_server(after: int) -> None:
    """A server that shuts down may be asked again."""
    with pytest.raises(DatabaseUnavailable):
        drive(set_up(43, Bounds()), refused("57P01", "terminating connection", after))


@pytest.mark.parametrize(
    ("now", "before", "behind"),
    [
        (Identity("7300", 1), Identity("7300", 2), True),
        (Identity("7300", 2), Identity("7300", 1), False),
        (Identity("7300", 1), Identity("7300", 1), False),
        (Identity("9900", 1), Identity("7300", 2), False),
    ],
)
def test_a_former_primary_is_recognised(now: Identity, before: Identity, behind: bool) -> None:
    """The same cluster on an earlier timeline was replaced; another cluster is another story."""
    assert now.is_behind(before) is behind


# -- tokens ----------------------------------------------------------------------------------------


def test_a_token_has_the_timeline_above_the_number() -> None:
    """Ten is the timeline in hexadecimal, and one round trip is all it takes."""
    asked, token = drive(_plan.token(), [[("0000000A", "t", "5", None)]])

    assert (len(asked), token) == (1, (10 << 48) + 5)


@pytest.mark.parametrize("made", [[[], [], [], [], []], Refused("42501", "permission denied")])
def test_the_sequence_is_made_once_and_what_is_there_then_decides(made: Any) -> None:
    """Whether it could be made or not, the token comes from the second draw."""
    asked, token = drive(
        _plan.token(),
        [[("00000001", None, None, None)]],
        made,
        [[("00000001", "t", str(1 << 47), None)]],
    )

    assert [script.steps[0].params for script in asked] == [("true",), (), ("false",)]
    assert token == (1 << 48) + (1 << 47)


def test_a_sequence_that_may_go_backward_is_refused() -> None:
    """Neither a token nor another source: whoever made it has to mend it."""
    unsound = [[("00000001", "f", None, None)]]
    with pytest.raises(LockError, match="CACHE 1"):
        drive(_plan.token(), unsound, unsound)


def test_a_sequence_that_somebody_makes_meanwhile_is_asked_about_again() -> None:
    """It was found, and what it is was not there yet for the statement that asked."""
    unseen, drawn = [[("00000001", "f", None, None)]], [[("00000001", "t", "7", None)]]
    asked, token = drive(_plan.token(), unseen, drawn)

    assert [script.steps[0].params for script in asked] == [("true",), ("false",)]
    assert token == (1 << 48) + 7


def test_a_sequence_that_we_may_not_use_is_an_error_that_says_what_to_grant() -> None:
    """Anything else would be a token from another source, out of order."""
    error = _plan.judge_failed_token(Refused("42501", "permission denied for schema advlock"))

    assert "GRANT USAGE ON SCHEMA advlock" in str(error)


# -- waiting on the server -------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "code"), [(False, "0"), (True, "1")])
@pytest.mark.parametrize("pair", [False, True])
def test_waiting_names_the_lock_by_its_code_and_key(shared: bool, code: str, pair: bool) -> None:
    """The settings that the DO block reads are those of the ticket, pairs in their own space."""
    key = Key.of((1, 2)) if pair else Key.of("nightly")
    plan = _plan.wait_for(Ticket(key, "x", shared=shared, owner=None), 1.5, Bounds())
    asked, _ = drive(plan, [[], [], [("yes",)]])

    expected = str(int(code) + (4 if pair else 0))
    assert (expected, str(key.value), "1.500000", "3500", None) == asked[0].steps[0].params
    assert asked[0].steps[0].sync, "its own sync: DO must be the first of its pipeline"
    assert asked[0].patient


def test_a_grant_that_was_waited_for_is_confirmed() -> None:
    """It may be old news: one more round trip, which also lifts the short timeout of waiters."""
    asked, verdict = drive(_plan.wait_for(ticket(), 1.5, Bounds()), [[], [], [("yes",)]], [[()]])

    assert asked[1].steps[0].params == ("8500", None)
    assert not asked[1].patient
    assert verdict is True


def test_no_verdict_means_not_granted() -> None:
    """An empty setting is the server's way of saying that time ran out."""
    assert drive(_plan.wait_for(ticket(), None, Bounds()), [[], [], [("",)]])[1] is False


@pytest.mark.parametrize(
    ("sqlstate", "verdict"),
    [("42704", Waited.IMPOSSIBLE), ("42501", Waited.IMPOSSIBLE), ("57014", Waited.BROKEN)],
)
def test_a_failed_wait_is_judged_by_its_sqlstate(sqlstate: str, verdict: Waited) -> None:
    """Without plpgsql nothing was asked; after a cancel the lock may be held: away with it."""
    assert verdict is _plan.judge_failed_wait(Refused(sqlstate, "…"))


def test_a_full_lock_table_is_reported_as_what_it_is() -> None:
    """53200 is not "busy"."""
    with pytest.raises(TooManyLocks, match="max_locks_per_transaction"):
        _plan.judge_failed_wait(OUT_OF_MEMORY)


# -- after a combined request failed half-way ------------------------------------------------------

NAMES = st.lists(st.sampled_from("abcdef"), unique=True, min_size=1)


@given(names=NAMES, held=st.sets(st.sampled_from("abcdef")), fails_at=st.integers(0, 6))
def test_recovery_tells_for_each_op_what_the_server_did(
    names: list[str], held: set[str], fails_at: int
) -> None:
    """Whatever had been done before the error: no verdict contradicts the server's own books."""
    server, session = ModelServer(), "ours"
    ops = []
    for name in names:
        one = ticket(name)
        if name in held:
            one.state = RELEASING
            server.try_lock(session, one.key, shared=False)
            ops.append(Op(one, _sql.UNLOCK, session))
        else:
            ops.append(Op(one, _sql.TRY, session))
    for op in ops[:fails_at]:
        server.perform(session, op)
    own = [(str(op.ticket.key.value), "1") for op in ops if server.count(session, op.ticket.key)]

    _, verdicts = drive(_plan.recover(ops, OUT_OF_MEMORY), [own])

    for op, verdict in zip(ops, verdicts, strict=True):
        holds = server.count(session, op.ticket.key) > 0
        if op.releases:
            assert holds == isinstance(verdict, Unanswered)
        else:
            assert holds == (verdict is True)


def test_recovery_does_not_guess_about_shares() -> None:
    """Stacked shares do not show in pg_locks: nobody can know, so the session has to go."""
    shared = ticket(shared=True)
    shared.state = HELD

    with pytest.raises(Refused):
        drive(_plan.recover([Op(shared, _sql.UNLOCK_SHARED, None)], OUT_OF_MEMORY))


# -- who holds it ----------------------------------------------------------------------------------


NOW = "1763802002.0"


def _session(pid: str, application: str, address: str | None) -> tuple[str | None, ...]:
    """The columns of a session."""
    times = ("1763802000.5", "1763801000.5", None, "1763802000.5")
    return (pid, application, "app", address, "5000", "idle", *times, "SELECT 1", "f")


def test_holders_are_read_from_rows_and_signatures() -> None:
    """A session of ours says its host, process and since when; a stranger's says what it can."""
    rows = [
        (*_session("7", "advlock:nightly web-2:4242 @t8x3k1", "10.0.0.7"), "t", "f", None, NOW),
        (*_session("8", "psql", None), "f", "t", "1763802001.5", NOW),
    ]

    _, (holder, waiter) = drive(_plan.holders(Key.of("nightly")), [rows])

    assert (holder.host, holder.process, holder.waiting) == ("web-2", 4242, False)
    assert (holder.client, holder.state, holder.query) == ("10.0.0.7:5000", "idle", "SELECT 1")
    assert holder.since is not None
    assert "web-2 pid 4242 since" in str(holder)
    assert (waiter.waiting, waiter.shared, waiter.host) == (True, True, None)
    assert "psql (server pid 8)" in str(waiter)
