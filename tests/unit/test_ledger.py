"""The ledger against a model of the server that may fail at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from unit.model import ModelServer

from advlock._key import Key
from advlock._ledger import ASKING, GONE, HELD, LOST, QUEUED, RELEASING, Ledger, Op, Ticket
from advlock.errors import TooManyLocks

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS = [Key.of("a"), Key.of("b"), Key.of((1, 2))]
STRANGER = "another client's session"


class LedgerMachine(RuleBasedStateMachine):
    """A client with a shared session and dedicated ones, beside a stranger on the same server."""

    ledger_class: type[Ledger] = Ledger
    tickets = Bundle("tickets")
    ops = Bundle("ops")

    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer()
        self.ledger = self.ledger_class(max_locks=100)
        self.sessions = 0
        self.shared = self.new_session()
        self.open_ops: list[Op] = []
        self.late: dict[str, list[Op]] = {}  # sessions that ended, and what they did not answer
        self.mine: list[Ticket] = []

    def new_session(self) -> str:
        self.sessions += 1
        return f"our session {self.sessions}"

    # -- what callers do -------------------------------------------------------------------------

    @rule(target=tickets, key=st.sampled_from(KEYS), shared=st.booleans(), queue=st.booleans())
    def enter(self, key: Key, shared: bool, queue: bool) -> Ticket:
        ticket = Ticket(key, key.name, shared=shared, owner=None)
        self.ledger.enter(ticket, queue=queue)
        self.mine.append(ticket)
        return ticket

    @rule(target=ops, ticket=tickets)
    def ask(self, ticket: Ticket) -> Any:
        told = any(ticket.op in ops for ops in self.late.values())
        if ticket.state is ASKING and (told or ticket.op is None) and not ticket.withdrawn:
            op = self.ledger.try_op(ticket, self.shared)
            self.open_ops.append(op)
            return op
        return None

    @rule(ticket=tickets)
    def give_up(self, ticket: Ticket) -> None:
        if ticket.state in (QUEUED, ASKING):
            self.ledger.withdraw(ticket)

    @rule(target=ops, ticket=tickets)
    def release(self, ticket: Ticket) -> Any:
        if ticket.state is HELD:
            return self.send_release(ticket)
        return None

    def send_release(self, ticket: Ticket) -> Op:
        ticket.state = RELEASING
        op = self.ledger.release_op(ticket)
        self.late.get(ticket.session, self.open_ops).append(op)
        return op

    @rule(ticket=tickets)
    def wait_on_a_session_of_its_own(self, ticket: Ticket) -> None:
        if ticket.state is ASKING and ticket.op is None and not ticket.withdrawn:
            session = self.new_session()
            if self.server.try_lock(session, ticket.key, shared=ticket.shared):
                self.ledger.grant(ticket, session)

    # -- what the server does --------------------------------------------------------------------

    @rule(op=consumes(ops))
    def answer(self, op: Op | None) -> None:
        if op is None or op not in self.open_ops:
            return
        self.open_ops.remove(op)
        session = op.ticket.session if op.releases else self.shared
        verdict = self.server.perform(session, op)
        assert verdict or not op.releases, "we released what the server did not hold for us"
        self.ledger.settle(op, session, answer=verdict)
        if op.ticket.state is HELD and op.ticket.withdrawn:
            self.send_release(op.ticket)

    @rule()
    def the_shared_session_dies(self) -> None:
        self.die(self.shared)
        self.shared = self.new_session()

    @rule(ticket=tickets)
    def a_holder_s_session_dies(self, ticket: Ticket) -> None:
        if ticket.state is HELD and ticket.session != self.shared:
            self.die(ticket.session)

    def die(self, session: str) -> None:
        self.end(session)
        self.book(session)

    def end(self, session: str) -> None:
        """End a session; whoever asked is told, and may ask again before that is booked."""
        self.server.end(session)
        gone = [
            op
            for op in self.open_ops
            if (op.ticket.session if op.releases else self.shared) == session
        ]
        self.open_ops = [op for op in self.open_ops if op not in gone]
        self.late[session] = gone

    def book(self, session: str) -> None:
        lost = self.ledger.carried(session)
        for op in self.late.pop(session):
            self.ledger.unanswered(op)
        self.ledger.lose(lost)

    @rule()
    def the_shared_session_dies_while_nobody_may_book_it(self) -> None:
        self.end(self.shared)
        self.shared = self.new_session()

    @rule()
    def it_is_booked_later(self) -> None:
        for session in list(self.late):
            self.book(session)

    @rule(key=st.sampled_from(KEYS), shared=st.booleans())
    def a_stranger_locks(self, key: Key, shared: bool) -> None:
        self.server.try_lock(STRANGER, key, shared=shared)

    @rule()
    def the_stranger_leaves(self) -> None:
        self.server.end(STRANGER)

    # -- what must always hold -------------------------------------------------------------------

    @invariant()
    def an_exclusive_holder_is_alone(self) -> None:
        for key in KEYS:
            held = [t for t in self.mine if t.key == key and t.state in (HELD, RELEASING)]
            assert len(held) <= 1 or all(t.shared for t in held)

    @invariant()
    def what_we_hold_the_server_holds_for_us(self) -> None:
        for ticket in self.mine:
            if ticket.state is HELD and ticket.session not in self.late:
                assert self.server.count(ticket.session, ticket.key) >= 1

    @invariant()
    def what_the_server_is_asked_is_booked(self) -> None:
        assert all(op.releases or op.ticket.op is op for op in self.open_ops)

    @invariant()
    def a_queue_has_somebody_ahead_of_it(self) -> None:
        for key in KEYS:
            states = {t.state for t in self.mine if t.key == key}
            if QUEUED in states:
                assert states & {ASKING, HELD, RELEASING}

    def teardown(self) -> None:
        """Everybody gives up or releases; then neither the server nor the ledger has anything."""
        self.it_is_booked_later()
        for _ in range(3):
            for ticket in self.mine:
                if ticket.state in (QUEUED, ASKING):
                    self.ledger.withdraw(ticket)
                elif ticket.state is HELD:
                    self.send_release(ticket)
            while self.open_ops:
                self.answer(self.open_ops[0])
        assert all(t.state in (GONE, LOST) or t.state.value == "new" for t in self.mine)
        assert len(self.ledger) == 0
        self.server.end(STRANGER)
        assert sum(self.server.held.values()) == 0, "a lock was left behind"


MANY = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_the_ledger_keeps_its_promises_whatever_fails() -> None:
    """Exclusion, no lost lock, no lost waiter, nothing left behind: over random histories."""
    run_state_machine_as_test(LedgerMachine, settings=MANY)  # type: ignore[no-untyped-call]


class _AdmitsEverybody(Ledger):
    def enter(self, ticket: Ticket, *, queue: bool) -> bool:
        held = super().enter(ticket, queue=queue)
        if ticket.state is QUEUED:
            slot = self._slots[ticket.key]
            slot.queue.remove(ticket)
            slot.active.append(ticket)
            ticket.state = ASKING
            return True
        return held


class _ForgetsTheWithdrawn(Ledger):
    def settle(self, op: Op, session: object, *, answer: bool) -> Any:
        if op.ticket.withdrawn and not op.releases:
            op.ticket.op = None
            return self._leave(op.ticket, GONE)
        return super().settle(op, session, answer=answer)


class _WakesNobody(Ledger):
    def _promote(self, key: Key, slot: Any) -> Any:
        if not slot.active and not slot.queue:
            del self._slots[key]
        return ()


class _BooksLateWhatIsAskedAgain(Ledger):
    def unanswered(self, op: Op) -> Any:
        op.ticket.op = None
        return super().unanswered(op)


class _StaysHeldWhenTheSessionDies(Ledger):
    def lose(self, lost: Iterable[Ticket]) -> Any:
        return []


@pytest.mark.parametrize(
    "broken",
    [
        _AdmitsEverybody,
        _ForgetsTheWithdrawn,
        _WakesNobody,
        _BooksLateWhatIsAskedAgain,
        _StaysHeldWhenTheSessionDies,
    ],
)
def test_without_a_rule_the_model_finds_the_hole(broken: type[Ledger]) -> None:
    """The control: each protection, switched off, is found missing."""
    machine = type("Broken", (LedgerMachine,), {"ledger_class": broken})
    found = settings(MANY, max_examples=3000, phases=[Phase.generate], derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)  # type: ignore[no-untyped-call]


def test_tickets_of_one_key_have_their_turn_in_order_of_arrival() -> None:
    """FIFO, and a shared request does not overtake an exclusive one that waits."""
    ledger = Ledger(max_locks=10)
    first, second, third = (
        Ticket(KEYS[0], n, shared=shared, owner=None)
        for n, shared in enumerate((True, False, True))
    )

    turns = [ledger.enter(ticket, queue=True) for ticket in (first, second, third)]

    assert turns == [True, False, False]
    assert [second] == list(ledger.withdraw(first))
    assert [third] == list(ledger.withdraw(second))


def test_an_attempt_never_queues() -> None:
    """A ticket that may not queue is refused, and leaves no trace."""
    ledger = Ledger(max_locks=10)
    ledger.enter(Ticket(KEYS[0], "a", shared=False, owner=None), queue=True)
    late = Ticket(KEYS[0], "a", shared=False, owner=None)

    assert not ledger.enter(late, queue=False)
    assert late not in ledger.tickets()


def test_one_key_too_many_is_refused_and_says_what_to_raise() -> None:
    """The cap counts keys, and its error names both settings."""
    ledger = Ledger(max_locks=1)
    ledger.enter(Ticket(KEYS[0], "a", shared=True, owner=None), queue=True)
    ledger.enter(Ticket(KEYS[0], "a", shared=True, owner=None), queue=True)

    with pytest.raises(TooManyLocks, match=r"max_locks=….*max_locks_per_transaction"):
        ledger.enter(Ticket(KEYS[1], "b", shared=False, owner=None), queue=True)


def test_a_release_is_asked_once_however_often_it_is_made() -> None:
    """Whoever sees a release through asks the same request, so it cannot be sent twice."""
    ledger = Ledger(max_locks=1)
    ticket = Ticket(KEYS[0], "a", shared=False, owner=None)
    ledger.enter(ticket, queue=True)

    assert ledger.release_op(ticket) is ledger.release_op(ticket)


def test_what_stands_in_the_way_is_a_request_of_those_who_leave() -> None:
    """A release, or a try that was given up; not a holder, and not where somebody waits."""
    ledger = Ledger(max_locks=1)
    first, second = (Ticket(KEYS[0], "a", shared=False, owner=None) for _ in range(2))
    assert ledger.leaving(KEYS[0]) is None
    ledger.enter(first, queue=False)
    asked = ledger.try_op(first, "session")
    assert ledger.leaving(KEYS[0]) is None
    ledger.withdraw(first)
    assert ledger.leaving(KEYS[0]) is asked

    ledger.settle(asked, "session", answer=True)
    first.state = RELEASING
    release = ledger.release_op(first)
    assert ledger.leaving(KEYS[0]) is release
    ledger.enter(second, queue=True)
    assert ledger.leaving(KEYS[0]) is None
