"""Two places for a server: the primary in one, and in the other its standby, when one is needed."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import psycopg
from waiting import eventually

from advlock.embedded._account import Account
from advlock.embedded._cluster import Cluster
from advlock.embedded._postmaster import Postmaster

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "listen_addresses": "*",
    "max_connections": "150",
    "max_wal_senders": "4",
    "shared_buffers": "16MB",
}
# Below the range that the kernel gives to clients: one that tries again and again to reach a
# stopped server would otherwise be given the server's own port one day, and connect to itself.
_PORTS = range(20_000, 30_000)
_PRIMARY_ONLY = "user=postgres dbname=postgres target_session_attrs=read-write"


class Pair:
    """A primary that can be restarted, crashed and replaced by its standby.

    Args:
        bindir: The programs of the server.

        home: A directory that the server's account may enter.

        guests: Other addresses from which clients may come.
    """

    def __init__(self, bindir: Path, home: Path, guests: tuple[str, ...] = ()) -> None:
        self._guests = guests
        self._places = [
            Cluster(bindir, home / name, tcp=True, settings=SETTINGS | {"port": str(port)})
            for name, port in zip("ab", quiet_ports(2), strict=True)
        ]
        self.ports = [int(place._settings["port"]) for place in self._places]

    @property
    def primary(self) -> Cluster:
        """The server that can be written to."""
        return self._places[0]

    def start(self) -> None:
        """Make the primary."""
        self.primary.init()
        hba = self.primary.data / "pg_hba.conf"
        lines = [f"host all all {guest}/32 trust\n" for guest in self._guests]
        hba.write_text(hba.read_text() + "".join(lines))
        self.primary.start()

    def dsn(self, host: str) -> str:
        """How to reach whichever is the primary, at an address of this machine."""
        ports = ",".join(map(str, sorted(self.ports)))
        return f"host={host},{host} port={ports} {_PRIMARY_ONLY}"

    def proxied_dsn(self, port: int) -> str:
        """How to reach it through a proxy."""
        return f"host=127.0.0.1 port={port} {_PRIMARY_ONLY}"

    def connect(self) -> psycopg.Connection[Any]:
        """A bystander's session with the primary."""
        return psycopg.connect(self.primary.dsn(), autocommit=True, application_name="bystander")

    def restart(self, mode: Literal["fast", "immediate"]) -> None:
        """Stop the primary and start it again."""
        self.primary.stop(mode)
        self.primary.start()

    def crash(self) -> None:
        """Kill the postmaster, as the kernel does when memory runs out, and start it again."""
        found = Postmaster.read(self.primary.data)
        assert found
        Account.current().run(["sh", "-c", f"kill -KILL {found.pid}"])
        eventually(lambda: not found.is_alive(self.primary.data))
        self.primary.start()

    def add_standby(self) -> None:
        """Copy the primary to the other place, where it follows."""
        standby = self._places[1]
        account = Account.current()
        standby.root.mkdir(mode=0o700)
        account.adopt(standby.root)
        program = str(standby.bindir / "pg_basebackup")
        arguments = ["-D", str(standby.data), "-R", "-c", "fast", "-d", self.primary.dsn()]
        code, words = account.run([program, *arguments])
        assert code == 0, words
        standby.start()

    def fail_over(self, mode: Literal["fast", "immediate"]) -> None:
        """Stop the primary for good, and only then promote the standby."""
        self.primary.stop(mode)
        self._places.reverse()
        with self.connect() as session:
            assert session.execute("SELECT pg_promote()").fetchone() == (True,)
        self._places[1].destroy()


def quiet_ports(count: int) -> list[int]:
    """Choose ports that no client is given by chance."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)  # noqa: S311
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return sorted(found)
