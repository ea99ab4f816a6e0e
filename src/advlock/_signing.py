"""How a session that waits for one lock signs, and how once it has it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from advlock import _label

if TYPE_CHECKING:
    from advlock._ledger import Ticket


class Signature:
    """Says since when a ticket's lock is waited for, and then since when it is held."""

    def __init__(self, ticket: Ticket) -> None:
        ticket.asked = ticket.asked or time.time()
        self._name = _label.name_of(ticket.key)
        self._asked = ticket.asked

    def waits(self) -> str:
        """Sign for the wait."""
        return _label.make(self._name, waiting_since=self._asked)

    def holds(self) -> str:
        """Sign for the lock, which was granted just now."""
        return _label.make(self._name, since=time.time())
