"""A slot that is held, in both worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advlock._aheld import AsyncHeld
from advlock._held import BaseHeld, Held
from advlock._ledger import HELD

if TYPE_CHECKING:
    from advlock._ledger import Ticket


class Agreed(BaseHeld):
    """Our share of the key by which all agree on the number of slots; goes with the slot."""

    __slots__ = ()

    tells = False

    def __del__(self) -> None:
        if getattr(self, "_open", False) and self._ticket.state is HELD:
            self._client._drop(self._ticket)  # the slot warns


class Slot(Held):
    """A slot of a semaphore that this process holds, as far as it knows."""

    __slots__ = ("_agreed",)
    __module__ = "advlock"

    def __init__(self, client: Any, ticket: Ticket, agreed: Ticket) -> None:
        super().__init__(client, ticket)
        self._agreed = Agreed(client, agreed)

    @property
    def slot(self) -> int:
        """Which slot it is, from 0 up; nobody else has the same meanwhile."""
        return self.key.seed

    def _parts(self) -> list[BaseHeld]:
        return [self, self._agreed]


class AsyncSlot(AsyncHeld):
    """A slot of a semaphore that this process holds, as far as it knows."""

    __slots__ = ("_agreed",)
    __module__ = "advlock"

    def __init__(self, client: Any, ticket: Ticket, agreed: Ticket) -> None:
        super().__init__(client, ticket)
        self._agreed = Agreed(client, agreed)

    @property
    def slot(self) -> int:
        """Which slot it is, from 0 up; nobody else has the same meanwhile."""
        return self.key.seed

    def _parts(self) -> list[BaseHeld]:
        return [self, self._agreed]
