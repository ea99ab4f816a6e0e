"""Rule 4 of the ledger: what was interrupted half-way is made again, and then completes."""

from __future__ import annotations

import pytest
from interrupting import Interrupter

from advlock import Key
from advlock._ledger import ASKING, GONE, RELEASING, Ledger, Ticket

KEY = Key.of("job")


class Books:
    """One who has the lock, and two who wait for it."""

    def __init__(self, *, shared: bool, released: bool) -> None:
        self.ledger = Ledger(10)
        self.first, self.second = (Ticket(KEY, "", shared=shared, owner=None) for _ in range(2))
        self.holder = Ticket(KEY, "", shared=False, owner=None)
        for ticket in (self.holder, self.first, self.second):
            self.ledger.enter(ticket, queue=True)
        self._op = None
        if released:
            self.ledger.grant(self.holder, self)
            self.holder.state = RELEASING
            self._op = self.ledger.release_op(self.holder)
        else:
            assert self.holder.state is ASKING

    def leave(self) -> list[Ticket]:
        """Have the holder leave; say whose turn it is."""
        if self._op is not None:
            return list(self.ledger.settle(self._op, self, answer=True))
        return list(self.ledger.withdraw(self.holder))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_leaving_completes(*, released: bool, shared: bool) -> None:
    """Wherever it is interrupted: it is somebody's turn, who hears of it, and all can leave."""
    books: list[Books] = []
    interrupter = Interrupter("_ledger.py")

    def section() -> None:
        with interrupter.paused():
            books[:] = [Books(shared=shared, released=released)]
        books[0].leave()

    for where in interrupter.each(section):
        one = books[0]
        assert one.leave() == ([one.first, one.second] if shared else [one.first]), where
        for ticket in (one.first, one.second):
            one.ledger.withdraw(ticket)
        assert not len(one.ledger), where
        assert one.holder.state is one.first.state is one.second.state is GONE, where
