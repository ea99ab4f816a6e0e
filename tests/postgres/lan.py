"""A server on the near side of networks that can be cut, clients on their far sides."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from netns import Network, network

from .private_cluster import PrivateCluster, private_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg import Connection

_SET = "SELECT set_config(%s, %s, false)"
_HOLDERS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"


@dataclass(frozen=True, slots=True)
class Lan:
    """A server, and hosts that reach it over a cable each.

    Attributes:
        cluster: The server.

        networks: The cables.

        witness: A session that no cut reaches: it uses the Unix socket.
    """

    cluster: PrivateCluster
    networks: tuple[Network, ...]
    witness: Connection[Any]

    @property
    def network(self) -> Network:
        """The first cable, mostly the only one."""
        return self.networks[0]

    def far(self, settings: Mapping[str, str], cable: int = 0) -> Connection[Any]:
        """Open a session from a far side, with these settings of its own."""
        with self.networks[cable].inside():
            return self.near(settings, cable)

    def near(self, settings: Mapping[str, str], cable: int = 0) -> Connection[Any]:
        """Open a session from our side, over TCP too, which no cut reaches either."""
        session = self.cluster.connect(host=self.networks[cable].near)
        configure(session, settings)
        return session


@dataclass(slots=True)
class Watch:
    """When the witness saw whom with a lock; times of the monotonic clock, by backend.

    Attributes:
        granted: The first look that saw its lock.

        held: The start of the last look that saw it: the lock was let go no earlier.

        freed: The end of the first look that missed it: the lock was let go no later.
    """

    witness: Connection[Any]
    granted: dict[int, float] = field(default_factory=dict)
    held: dict[int, float] = field(default_factory=dict)
    freed: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        """Look who holds a lock now."""
        started = time.monotonic()
        holders = {row[0] for row in self.witness.execute(_HOLDERS)}
        ended = time.monotonic()
        self.held |= dict.fromkeys(holders, started)
        for pid in holders - self.granted.keys():
            self.granted[pid] = ended
        for pid in self.granted.keys() - holders - self.freed.keys():
            self.freed[pid] = ended


def configure(session: Connection[Any], settings: Mapping[str, str]) -> None:
    """Apply settings as a client can: to its own session, while it lives."""
    for name, value in settings.items():
        session.execute(_SET, (name, value))


@contextmanager
def lan(superuser: Connection[Any], hosts: int = 1) -> Iterator[Lan]:
    """Start a server that so many hosts reach, each over a network of its own."""
    with ExitStack() as stack:
        cables = tuple(stack.enter_context(network()) for _ in range(hosts))
        trusted = [f"{address}/32" for cable in cables for address in (cable.near, cable.far)]
        listening = ",".join(cable.near for cable in cables)
        cluster = stack.enter_context(
            private_cluster(superuser, *trusted, listen_addresses=listening)
        )
        yield Lan(cluster, cables, stack.enter_context(closing(cluster.connect())))
