"""A process is stopped, the server lets go, another is granted the lock, and the process goes on.

Its trust has not run out yet, so the clock cannot tell it; its socket can, at the first look.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import eventually

from advlock import DatabaseUnavailable, LockLost, Locks, _session
from advlock._liveness import Bounds

from .history import check
from .proxy import proxy
from .scene import scene

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

LIVENESS = 5.0
BOUNDS = Bounds(LIVENESS)


@pytest.mark.parametrize("world", ["sync", "async"])
@pytest.mark.parametrize(
    "how",
    [
        "idle",
        "asking",
        "goodbye",
        "asking goodbye",
        "curious asking",
        "curious asking goodbye",
    ],
)
def test_the_first_look_after_a_stop_sees_what_the_server_did(
    server: Server, tmp_path: Path, world: str, how: str
) -> None:
    """Also when it waited for an answer, and when the server has said goodbye but not hung up.

    The answer is one to a heartbeat, or else to what another thread or task has asked.
    A server that ends a session says so, then frees its locks, and hangs up last.
    """
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    bound = [f"--liveness={LIVENESS}"]
    curious = ["--curious"] if "curious" in how else []
    with scene(server.cluster.bindir, tmp_path) as stage:
        holder = stage.enter("proxied", world, *bound, *curious)
        stage.await_event("token", holder)
        successor = stage.enter("direct", world, *bound)
        stage.await_waiter()
        if "goodbye" in how:
            stage.proxy.strike("linger", "down", scope="present")
        if "asking" in how:  # with a goodbye: that comes in one piece with the answer
            stage.proxy.strike("freeze", "down", scope="present")
            time.sleep(1.5 * BOUNDS.heartbeat)  # until it has asked, and waits
        stopped_at = time.monotonic()
        stage.crew.freeze(holder)
        stage.proxy.heal()
        stage.terminate_holder()
        stage.await_event("token", successor)
        eventually(stage.proxy.ended, message="the proxy did not pass the server's goodbye on")
        assert time.monotonic() - stopped_at < 0.3 * BOUNDS.trust, "it is the clock that will tell"
        stage.crew.thaw(holder)
        stage.await_event("lost", holder)
        assert check(stage.history.holds()) == []


class Gate:
    """Stops a thread on its way to an answer that has come: before it begins to read, or in it."""

    def __init__(self, session: Any, where: str) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        self._poll, self._receive, self._where = session._poll, session.wire.receive, where

    def poll(self, timeout: float | None) -> Any:
        """Wait for an answer, as the session does."""
        heard = self._poll.poll(timeout)
        if heard and self._where == "before":
            self._stop()
        return heard

    def modify(self, *args: int) -> None:
        """Wait for something else, as the session does."""
        self._poll.modify(*args)

    def receive(self) -> Any:
        """Read it, as the session does."""
        if self._where == "in":
            self._stop()
        return self._receive()

    def _stop(self) -> None:
        self.reached.set()
        self._go.wait()

    def open_soon(self) -> None:
        """Let the thread go on while another one looks."""
        threading.Timer(0.03, self._go.set).start()


def _unread(fd: int) -> int:
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]  # type: ignore[no-any-return]


def _ask(client: Locks) -> None:
    with contextlib.suppress(DatabaseUnavailable):  # the goodbye may be all that it gets
        client.holders("read")


@pytest.mark.parametrize("where", ["before", "in"])
def test_a_look_waits_for_the_thread_that_is_about_to_read(
    server: Server, database: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """What it takes may have the server's goodbye behind it, and nobody has hung up yet."""
    near = server.tcp_dsn(str(conninfo_to_dict(database)["dbname"]))
    target = conninfo_to_dict(near)
    with proxy(str(target["host"]), int(target["port"])) as between:
        client = Locks(make_conninfo(near, port=between.port))
        held = client._hold("read")
        between.strike("linger", "down", scope="present")
        session = held._ticket.session
        gate = Gate(session, where)
        monkeypatch.setattr(session, "_poll", gate)
        monkeypatch.setattr(_session, "_MOMENT", 5.0)  # a busy machine may need more than 0.1 s
        monkeypatch.setattr(type(session.wire), "receive", lambda _: gate.receive())
        asker = threading.Thread(target=_ask, args=(client,), daemon=True)
        asker.start()
        assert gate.reached.wait(5)
        answer = _unread(session.wire.fd)
        with psycopg.connect(near, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [session.wire.pgconn.backend_pid])
        eventually(lambda: _unread(session.wire.fd) > answer, message="no goodbye came")
        assert not session.wire.is_cut()
        gate.open_soon()
        assert held.lost
        asker.join(5)
        with pytest.raises(LockLost):
            client._let_go(held)
        client.close()
