"""How long a client may believe that it still has its lock, when packets stop one way or both."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from .helpers import PATIENCE, answered, answers, send
from .lan import Lan, Watch, lan
from .vanishing import KEEPALIVES, timeout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

# Probes go out in whole seconds, so this bound is as tight as one can be.
BOUND = 2.0
SETTINGS = KEEPALIVES | timeout(BOUND)
CUTS = {
    "to the server": {"to_near": True, "to_far": False},
    "to the client": {"to_near": False, "to_far": True},
    "both": {"to_near": True, "to_far": True},
}
PAUSES = (0.0, 0.1, 0.3, 0.6, 1.0, 1.7)  # seconds between two heartbeats of a client
BEATS = ("/* beat */", "SELECT pg_sleep(0.4)")  # the answer of the second is sent much later
FLICKER = 1.5  # seconds of cuts and repairs before the last cut


@dataclass(slots=True)
class Client:
    """A session that holds a lock and asks again and again whether the server is there.

    Attributes:
        session: The session, on the far side.

        pause: Between an answer and the next question, in seconds.

        sql: The question.

        last: The start of the last question that was answered.

        asked: The start of the question that is not answered yet.
    """

    session: Connection[Any]
    pause: float
    sql: str
    last: float = 0.0
    due: float = 0.0
    asked: float | None = field(default=None)

    def step(self) -> None:
        """Take the answer that is there; ask when it is time to."""
        if self.asked is not None and answered(self.session):
            answers(self.session)
            self.last, self.asked = self.asked, None
            self.due = time.monotonic() + self.pause
        if self.asked is None and time.monotonic() >= self.due:
            self.asked = time.monotonic()
            send(self.session, self.sql)


@pytest.fixture(scope="module")
def houses(dsn: str) -> Iterator[Lan]:
    """Give a server and a cable to cut for each way of cutting."""
    with psycopg.connect(dsn, autocommit=True) as superuser, lan(superuser, len(CUTS)) as made:
        yield made


def go_on(clients: dict[int, Client], watch: Watch, seconds: float) -> None:
    """Let all clients ask and the witness look, for so long or until all locks are gone."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and clients.keys() - watch.freed.keys():
        for client in clients.values():
            with suppress(psycopg.OperationalError):  # a reset comes through where answers do
                client.step()
        watch.look()
        time.sleep(0.005)


def flicker(houses: Lan, clients: dict[int, Client], watch: Watch) -> None:
    """Cut and heal every cable, in turn and in any direction, for less than the bound."""
    ended = time.monotonic() + FLICKER
    while time.monotonic() < ended:
        cable = random.choice(houses.networks)  # noqa: S311 - any will do
        cable.cut(**random.choice(list(CUTS.values())))  # noqa: S311
        go_on(clients, watch, random.uniform(0.05, 0.3))  # noqa: S311
        cable.heal()
        go_on(clients, watch, random.uniform(0.0, 0.2))  # noqa: S311


def test_the_server_waits_its_timeout_from_the_start_of_the_last_round_trip(houses: Lan) -> None:
    """However packets get lost, no lock is let go earlier than that, and some right after it."""
    watch = Watch(houses.witness)
    clients: dict[int, Client] = {}
    with ExitStack() as stack:
        for number, (way, pause, sql) in enumerate(product(range(len(CUTS)), PAUSES, BEATS)):
            session = stack.enter_context(closing(houses.far(SETTINGS, way)))
            session.execute(f"SELECT pg_advisory_lock({number})")
            clients[session.info.backend_pid] = Client(session, pause, sql)
        for cable in houses.networks:
            stack.callback(cable.heal)
        go_on(clients, watch, max(PAUSES))
        flicker(houses, clients, watch)
        for cable, ways in zip(houses.networks, CUTS.values(), strict=True):
            cable.cut(**ways)
        go_on(clients, watch, PATIENCE)
    assert watch.freed.keys() == clients.keys()
    assert all(client.last for client in clients.values())
    waited = [watch.freed[pid] - client.last for pid, client in clients.items()]
    assert min(waited) >= BOUND
    # By the last look that saw its lock, as above by the first that missed it.
    assert min(watch.held[pid] - client.last for pid, client in clients.items()) <= BOUND + 0.5
