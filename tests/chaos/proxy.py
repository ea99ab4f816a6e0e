"""A TCP proxy between clients and a server that can do to connections what networks do.

It runs in a process of its own, so that neither a busy test nor a stopped one slows it, and is told
what to do by lines on stdin (`FAULT SCOPE DIRECTION …`); it ends when its stdin does. The faults,
for the direction `up` (to the server), `down` (to the client) or `both`:

    freeze      bytes are taken and kept; `heal` lets them go
    drop        bytes and hang-ups are swallowed; such a connection never recovers
    delay       every byte comes that much later, plus a random part
    reset       that side gets an RST; a side that is not meant hears nothing more
    half-close  that side reads the end of the stream; the other direction goes on
    linger      bytes pass, hang-ups do not: a peer that takes its time between both

The scope is `present` connections, `new` ones, `all`, or those that were `dropped`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 65536
_END = b""


class Lane:
    """One direction of one connection."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, changed: Callable[[], None]
    ) -> None:
        self._source, self._sink, self._changed = source, sink, changed
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._open = asyncio.Event()
        self._open.set()
        self._latency = self._jitter = self._last_due = 0.0
        self._lingers = False
        self._under_way = 0  # chunks that were taken and not passed on yet
        self.dropped = False
        self.ended = False  # the source has hung up
        self.over = False  # the sink was told so, or is gone

    async def read(self) -> None:
        """Take whatever comes, at once."""
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            try:
                data = await loop.sock_recv(self._source, _CHUNK)
            except OSError:
                data = _END
            if not (self.dropped or self.over or (self._lingers and not data)):
                late = self._latency + random.uniform(0, self._jitter)  # noqa: S311
                self._last_due = max(self._last_due, loop.time() + late)
                self._under_way += 1
                self._queue.put_nowait((self._last_due, data))
        self.ended = True
        self._changed()

    async def write(self) -> None:
        """Pass it on when it is due and nothing is in the way."""
        loop = asyncio.get_running_loop()
        while not self.over:
            due, data = await self._queue.get()
            await asyncio.sleep(due - loop.time())
            await self._open.wait()
            if data and not self.dropped:
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(self._sink, data)
            elif not self.dropped:
                self.half_close()
            self._under_way -= 1

    @property
    def has_said_all(self) -> bool:
        """Whether the source has hung up, and the sink was given everything it said."""
        return self.ended and not self._under_way

    def freeze(self) -> None:
        """Keep what comes."""
        self._open.clear()

    def drop(self) -> None:
        """Swallow what comes, and what is on its way, for ever."""
        self.dropped = True

    def linger(self) -> None:
        """Keep the hang-up to ourselves, for ever."""
        self._lingers = True

    def delay(self, latency: str, jitter: str) -> None:
        """Deliver later from now on."""
        self._latency, self._jitter = float(latency), float(jitter)

    def half_close(self) -> None:
        """Let the sink read the end of the stream."""
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
        self.over = True
        self._changed()

    def heal(self) -> None:
        """Deliver at once again, beginning with what was kept."""
        self._latency = self._jitter = 0.0
        self._open.set()


class Connection:
    """A client's connection and ours to the server."""

    def __init__(
        self, client: socket.socket, server: socket.socket, gone: Callable[[], None]
    ) -> None:
        self._client, self._server, self._gone = client, server, gone
        self.up = Lane(client, server, self._changed)
        self.down = Lane(server, client, self._changed)
        jobs = (job for lane in (self.up, self.down) for job in (lane.read(), lane.write()))
        self._tasks = [asyncio.create_task(job) for job in jobs]
        self._finish: asyncio.Task[None] | None = None

    def lanes(self, direction: str) -> list[Lane]:
        """The lanes that a direction means; the client's comes first, so it learns first."""
        return {"up": [self.up], "down": [self.down], "both": [self.down, self.up]}[direction]

    def _changed(self) -> None:
        lanes = (self.up, self.down)
        useless = all(lane.over for lane in lanes) or all(lane.ended for lane in lanes)
        if useless and self._finish is None:
            self._finish = asyncio.create_task(self._close())

    async def _stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self) -> None:
        await self._stop()
        self._client.close()
        self._server.close()
        self._gone()

    async def reset(self, direction: str) -> None:
        """Abort a side, or both: the client's first, so that it learns first."""
        await self._stop()
        if direction != "up":
            _abort(self._client)
        if direction != "down":
            _abort(self._server)
        if self._client.fileno() < 0 and self._server.fileno() < 0:
            self._gone()

    async def apply(self, fault: str, direction: str, arguments: list[str]) -> None:
        """Do one thing to this connection."""
        if fault == "reset":
            await self.reset(direction)
            return
        for lane in self.lanes(direction):
            getattr(lane, fault.replace("-", "_"))(*arguments)


class Switchboard:
    """Every connection there is, and what happens to the next one."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._present: set[Connection] = set()
        self._for_new: list[list[str]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> int:
        """Accept from now on; return the port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        listener.setblocking(False)
        self._keep(asyncio.create_task(self._accept(listener)))
        return int(listener.getsockname()[1])

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self._keep(asyncio.create_task(self._connect(client)))

    async def _connect(self, client: socket.socket) -> None:
        server = socket.socket()
        server.setblocking(False)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(server, self._upstream)
        except OSError:
            server.close()
            _abort(client)
            return
        made = Connection(client, server, lambda: self._present.discard(made))
        self._present.add(made)
        for fault, direction, *arguments in self._for_new:
            await made.apply(fault, direction, arguments)

    async def obey(self, line: str) -> str:
        """Carry out one line; answer with one."""
        verb, *rest = line.split()
        if verb == "upstream":
            self._upstream = (rest[0], int(rest[1]))
        elif verb == "heal":
            self._for_new.clear()
            for connection in self._present:
                for lane in connection.lanes("both"):
                    lane.heal()
        elif verb == "ended":
            return f"ok {sum(one.down.has_said_all for one in self._present)}"
        elif verb != "count":
            await self._strike(verb, *rest)
        return f"ok {len(self._present)}"

    async def _strike(self, fault: str, scope: str, direction: str, *arguments: str) -> None:
        if scope in {"new", "all"}:
            self._for_new.append([fault, direction, *arguments])
        if scope == "new":
            return
        for one in list(self._present):
            if scope != "dropped" or one.up.dropped or one.down.dropped:
                await one.apply(fault, direction, list(arguments))


def _abort(end: socket.socket) -> None:
    if end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


async def serve(host: str, port: str) -> None:
    """Be the proxy until stdin ends."""
    board = Switchboard(host, int(port))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    print(await board.listen(), flush=True)  # noqa: T201 - the test reads it
    while line := await commands.readline():
        print(await board.obey(line.decode()), flush=True)  # noqa: T201


# -- the test's end of it --------------------------------------------------------------------------


class Proxy:
    """A proxy that runs, as the test sees it.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout
        self.port = int(process.stdout.readline())

    def _tell(self, *words: object) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        assert answer[:1] == ["ok"], f"the proxy did not obey {words}: {answer}"
        return int(answer[1])

    def strike(
        self, fault: str, direction: str = "both", *arguments: object, scope: str = "all"
    ) -> None:
        """Bring a fault about."""
        self._tell(fault, scope, direction, *arguments)

    def heal(self) -> None:
        """End every freeze and delay, and spare new connections; what was dropped stays lost."""
        self._tell("heal")

    def switch(self, host: str, port: int) -> None:
        """Connect to another server from now on."""
        self._tell("upstream", host, port)

    def count(self) -> int:
        """How many connections there are."""
        return self._tell("count")

    def ended(self) -> int:
        """On how many of them the server has hung up, and all that it said was passed on."""
        return self._tell("ended")


@contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    """Start a proxy in front of a server; it ends with the block, or with this process."""
    with subprocess.Popen(
        [sys.executable, __file__, host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Proxy(process)
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
