"""The proxy does to connections what it says, seen from plain sockets."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from .proxy import Proxy, proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = 0.15  # how long nothing has to come for us to believe that nothing comes


class Bench:
    """A proxy, its server, and the pairs of sockets it joins."""

    def __init__(self, through: Proxy, listener: socket.socket, stack: ExitStack) -> None:
        self.proxy, self._listener, self._stack = through, listener, stack

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A client's socket and the server's, joined by the proxy."""
        present = self.proxy.count()
        client = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=5)
        server, _ = self._listener.accept()
        eventually(lambda: self.proxy.count() > present)
        server.settimeout(5)
        for end in (client, server):
            self._stack.enter_context(end)
        return client, server


@contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A proxy in front of a listening socket."""
    with ExitStack() as stack:
        listener = stack.enter_context(_listening())
        through = stack.enter_context(proxy(*listener.getsockname()))
        yield Bench(through, listener, stack)


def passes(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether a word gets from one socket to the other."""
    sender.sendall(b"ping")
    return receive(receiver, 4) == b"ping"


def is_held_back(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether a word that is sent does not come within a moment."""
    sender.sendall(b"ping")
    return hears_nothing(receiver)


def hears_nothing(receiver: socket.socket) -> bool:
    """Whether neither a byte nor the end of the stream comes within a moment."""
    return not select.select([receiver], [], [], QUIET)[0]


def receive(receiver: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer at the end of the stream."""
    got = b""
    while len(got) < size and (more := receiver.recv(size - len(got))):
        got += more
    return got


def test_it_passes_bytes_and_hang_ups_on(bench: Bench) -> None:
    """With no fault, both directions work, each end learns of the other's, and nothing is kept."""
    client, server = bench.pair()
    assert passes(client, server)
    assert passes(server, client)
    big = b"x" * 3_000_000
    client.setblocking(False)
    sent = got = 0
    while got < len(big):
        with suppress(BlockingIOError):
            sent += client.send(big[sent : sent + 65536])
        got += len(server.recv(65536))
    client.close()
    assert server.recv(1) == b""
    server.close()
    eventually(lambda: bench.proxy.count() == 0)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_freeze_keeps_bytes_until_healed(bench: Bench, direction: str) -> None:
    """What is sent meanwhile comes after the thaw, in order; the other direction is untouched."""
    client, server = bench.pair()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    bench.proxy.strike("freeze", direction)
    assert is_held_back(sender, receiver)
    assert passes(receiver, sender)
    sender.sendall(b"pong")
    sender.close()

    bench.proxy.heal()
    assert receive(receiver, 4) == b"ping"
    assert receive(receiver, 4) == b"pong"
    assert receiver.recv(1) == b""


@pytest.mark.parametrize("direction", ["up", "down"])
def test_drop_swallows_for_ever(bench: Bench, direction: str) -> None:
    """Neither bytes nor the hang-up ever come, also after the others are healed."""
    client, server = bench.pair()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    bench.proxy.strike("drop", direction, scope="present")
    assert is_held_back(sender, receiver)
    assert passes(receiver, sender)
    bench.proxy.heal()
    assert is_held_back(sender, receiver)
    sender.close()
    assert hears_nothing(receiver)

    bench.proxy.strike("reset", scope="dropped")
    with pytest.raises(ConnectionResetError):
        receiver.recv(1)
    assert bench.proxy.count() == 0


def test_delay_is_a_fixed_part_and_a_random_one(bench: Bench) -> None:
    """Bytes come late by at least the latency, by at most the jitter more, and in order."""
    client, server = bench.pair()
    bench.proxy.strike("delay", "up", 0.2, 0.1)
    start = time.monotonic()
    for _ in range(50):
        client.sendall(b"0123456789")
    assert receive(server, 10) == b"0123456789"
    assert time.monotonic() - start >= 0.2
    assert receive(server, 490) == b"0123456789" * 49
    assert time.monotonic() - start < 0.9
    assert passes(server, client)

    bench.proxy.heal()
    assert passes(client, server)


def test_reset_is_no_ordinary_hang_up(bench: Bench) -> None:
    """Both ends get an RST, and the connection is forgotten."""
    client, server = bench.pair()
    bench.proxy.strike("reset", scope="present")
    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert bench.proxy.count() == 0
    assert passes(*bench.pair())


@pytest.mark.parametrize("direction", ["up", "down"])
def test_reset_of_one_side_leaves_the_other_in_the_dark(bench: Bench, direction: str) -> None:
    """Only the side that is meant hears of it; the other hears nothing, until it is reset, too."""
    client, server = bench.pair()
    struck, other = (server, client) if direction == "up" else (client, server)
    bench.proxy.strike("reset", direction, scope="present")
    with pytest.raises(ConnectionResetError):
        struck.recv(1)
    assert hears_nothing(other)
    bench.proxy.strike("reset", scope="present")
    with pytest.raises(ConnectionResetError):
        other.recv(1)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_half_close_ends_one_direction(bench: Bench, direction: str) -> None:
    """One side reads the end of the stream and can still be heard itself."""
    client, server = bench.pair()
    sender, receiver = (client, server) if direction == "up" else (server, client)
    bench.proxy.strike("half-close", direction, scope="present")
    assert receiver.recv(1) == b""
    assert passes(receiver, sender)
    sender.sendall(b"nobody hears this")
    receiver.close()
    assert sender.recv(1) == b""
    eventually(lambda: bench.proxy.count() == 0)


def test_linger_swallows_the_hang_up_only(bench: Bench) -> None:
    """Every byte comes, the end of the stream does not."""
    client, server = bench.pair()
    bench.proxy.strike("linger", "down", scope="present")
    server.sendall(b"goodbye")
    server.close()
    assert receive(client, 7) == b"goodbye"
    assert hears_nothing(client)
    client.close()
    eventually(lambda: bench.proxy.count() == 0)


def test_the_scope_says_whom_it_strikes(bench: Bench) -> None:
    """Present connections, new ones, or all."""
    old, old_server = bench.pair()
    bench.proxy.strike("freeze", scope="new")
    new, new_server = bench.pair()
    assert passes(old, old_server)
    assert is_held_back(new, new_server)

    bench.proxy.heal()
    assert receive(new_server, 4) == b"ping"
    bench.proxy.strike("freeze", scope="present")
    newest, newest_server = bench.pair()
    assert is_held_back(old, old_server)
    assert passes(newest, newest_server)

    bench.proxy.strike("freeze", scope="all")
    assert is_held_back(newest, newest_server)
    assert is_held_back(*bench.pair())


def test_the_upstream_can_be_switched(bench: Bench) -> None:
    """New connections go to the other server; one that is not there hangs up at once."""
    client, server = bench.pair()
    with _listening() as other:
        bench.proxy.switch(*other.getsockname())
        with socket.create_connection(("127.0.0.1", bench.proxy.port), timeout=5) as late:
            accepted, _ = other.accept()
            with accepted:
                assert passes(late, accepted)
    assert passes(client, server)
    with (
        pytest.raises(ConnectionResetError),  # on a busy machine by the time it is connected
        socket.create_connection(("127.0.0.1", bench.proxy.port), timeout=5) as nowhere,
    ):
        nowhere.recv(1)
