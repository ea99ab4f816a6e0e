"""What this process holds, waits for and leads, by name, when somebody asks."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from advlock._client import _clients
from advlock._ledger import HELD, RELEASING
from advlock._observe import key_text, template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._client import Client
    from advlock._labels import Labels
    from advlock._ledger import Ticket
    from advlock._observe import Facts

_QUEUE = -1  # the seed of what waits in a semaphore's queue, or is its first (`Key.agreed`)


def clients() -> list[Client]:
    """List the clients of this process."""
    while True:
        # Another thread may make a client meanwhile.
        with contextlib.suppress(RuntimeError):
            return list(_clients)


def in_use() -> Iterator[tuple[Client, Ticket, bool]]:
    """List what this process holds and waits for: the client, the ticket, and whether it is held.

    Counted when it is asked for, it can never be wrong for good, as one that is counted up and down
    can: after a fork, or when somebody begins to listen in the middle of it.
    """
    for client in clients():
        tickets: list[Ticket] = []
        for _ in range(100):  # another thread's loop may change its books meanwhile
            with contextlib.suppress(RuntimeError):
                tickets = client._ledger.tickets()
                break
        for ticket in tickets:
            # What is being released is neither.
            if ticket.key.seed >= _QUEUE and not ticket.withdrawn and ticket.state is not RELEASING:
                yield client, ticket, ticket.state is HELD and ticket.key.seed > _QUEUE


def counted(labels: Labels, *, held: bool) -> dict[str, int]:
    """Count by name what this process holds, or waits for."""
    counts: dict[str, int] = {}
    for client, ticket, is_held in in_use():
        if is_held is held:
            name = ticket.name
            if ticket.key.seed == _QUEUE and isinstance(name, str) and client.namespace:
                name = name.removeprefix(f"{client.namespace}:")  # as its semaphore is called
            found = template(client, name).get("template")
            label = labels.name(name, key_text(ticket.key), found)
            counts[label] = counts.get(label, 0) + 1
    return counts


class Leads:
    """What this process leads, as the events of its leaders tell; several names may be one."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._led: dict[str, set[object]] = {}
        self._pid = os.getpid()

    def take(self, facts: Facts) -> None:
        """Take an event of a leader's."""
        led = self._ours().setdefault(self._labels.of(facts), set())
        if facts["event"] == "leader.elected":
            led.add(facts["lock"])
        elif facts["event"] != "leader.campaigning":
            led.discard(facts["lock"])

    def counted(self) -> dict[str, int]:
        """Count by name; 0 for what it has stood for."""
        return {label: len(led) for label, led in self._ours().copy().items()}

    def _ours(self) -> dict[str, set[object]]:
        if self._pid != os.getpid():  # a fork leads nothing of its parent's
            self._pid, self._led = os.getpid(), {}
        return self._led
