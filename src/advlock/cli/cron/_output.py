"""What commands write: passed on with the job's name in front, and its tail remembered."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import Final

from advlock._cron._bell import Bell
from advlock.cli._say import marked

_ROOM: Final = 4 * 1024 * 1024  # bytes that nobody has taken yet; then commands have to wait
_ROOM_TO_SAY: Final = 2 * _ROOM  # then what we have to say ourselves is dropped
_LONGEST_LINE: Final = 64 * 1024
LOOK_EVERY: Final = 0.25  # seconds, while nobody reads our own output
_CHUNK: Final = 64 * 1024
_LAST_CHUNKS: Final = 64
_UNREADABLE: Final = "\N{REPLACEMENT CHARACTER}"


class Printer:
    """Writes to our own stdout and stderr, in threads: whoever reads them may be slow.

    The threads that look after locks must never wait for it; nor does one stream for the other.
    """

    def __init__(self) -> None:
        out = _Outlet(1)
        self._outlets = {1: out, 2: out if os.path.sameopenfile(1, 2) else _Outlet(2)}

    def has_room(self, fd: int) -> bool:
        """Whether more may be read from the commands for `fd`."""
        return self._outlets[fd].size < _ROOM

    def put(self, fd: int, data: bytes) -> None:
        """Have `data` written to `fd`."""
        self._outlets[fd].put(fd, data)

    def say(self, message: str) -> None:
        """Have a message for people written to stderr, as `say` does, unless nobody reads it."""
        if self._outlets[2].size < _ROOM_TO_SAY:
            self.put(2, marked(message))

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, `seconds` at most."""
        deadline = time.monotonic() + seconds
        for outlet in self._outlets.values():
            outlet.flush(max(0.0, deadline - time.monotonic()))


class _Outlet:
    """What one thread writes: to a descriptor, or to two of one file, whose lines stay whole."""

    def __init__(self, fd: int) -> None:
        self.size = 0
        self._lines: deque[tuple[int, bytes]] = deque()
        self._changed = threading.Condition()
        self._idle = True
        name = f"advlock-cron-output-{fd}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, fd: int, data: bytes) -> None:
        with self._changed:
            self._lines.append((fd, data))
            self.size += len(data)
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._idle and not self._lines, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._idle = False
                fd, data = self._lines.popleft()
                self.size -= len(data)
            _write(fd, data)


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # somebody who shares it has made it so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:  # nobody reads it: the jobs go on
            return


class Stream:
    """One of a command's two streams.

    Args:
        prefix: What is put before each line.
        target: The descriptor that it is passed on to.
        printer: What passes it on.
        tail: Takes a copy of everything.
    """

    def __init__(self, prefix: bytes, target: int, printer: Printer, tail: Tail) -> None:
        self._prefix = prefix
        self._target = target
        self._printer = printer
        self._tail = tail
        self._line = b""
        self.fd, self.theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.fd, False)
        self.open = True

    def started(self) -> None:
        """Close the end that the command has by now."""
        os.close(self.theirs)
        self.theirs = -1

    def has_room(self) -> bool:
        """Whether more may be read from the command."""
        return self._printer.has_room(self._target)

    def pump(self) -> bool:
        """Take what is there; tell whether there was anything."""
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.open = False
            return False
        self._tail.add(data)
        self._line += data
        whole, newline, rest = self._line.rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, newline, rest = self._line, b"\n", b""
        if newline:
            self._pass_on(whole)
        self._line = rest
        return True

    def finish(self) -> None:
        """Take the rest, without waiting; what comes later is not the command's own."""
        for _ in range(_LAST_CHUNKS):
            if not self.pump():
                break
        self._end_line()
        self._tail = Tail(0)

    def close(self) -> None:
        """Nobody writes any more, or is to."""
        self._end_line()
        os.close(self.fd)
        if self.theirs >= 0:
            os.close(self.theirs)

    def _end_line(self) -> None:
        if self._line:
            self._pass_on(self._line)
        self._line = b""

    def _pass_on(self, lines: bytes) -> None:
        marked = b"".join(self._prefix + line + b"\n" for line in lines.split(b"\n"))
        self._printer.put(self._target, marked)


class Drainer:
    """Reads on, in one thread, where a command has ended and left somebody with its stdout.

    Otherwise the next word of a process in the background would end it by SIGPIPE.
    """

    def __init__(self) -> None:
        self._streams: list[Stream] = []
        self._new: deque[Stream] = deque()
        self._bell = Bell()
        threading.Thread(target=self._run, name="advlock-cron-drainer", daemon=True).start()

    def take(self, stream: Stream) -> None:
        """Finish a stream; read on until its end, and close it then."""
        if stream.theirs < 0:
            stream.finish()
            if stream.open:
                self._new.append(stream)
                self._bell.ring()
                return
        stream.close()

    def _run(self) -> None:
        while True:
            ready = self._poll()
            self._bell.hush()
            for stream in self._streams:
                if stream.fd in ready:
                    stream.pump()
                    if not stream.open:
                        stream.close()
            self._streams = [stream for stream in self._streams if stream.open]
            while self._new:
                self._streams.append(self._new.popleft())

    def _poll(self) -> set[int]:
        poll = select.poll()
        poll.register(self._bell.fileno(), select.POLLIN)
        readable = [stream for stream in self._streams if stream.has_room()]
        for stream in readable:
            poll.register(stream.fd, select.POLLIN)
        seconds = None if len(readable) == len(self._streams) else LOOK_EVERY
        return {fd for fd, _ in poll.poll(seconds and seconds * 1000)}


class Tail:
    """The last bytes that were added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._data = bytearray()
        self._cut = False

    def add(self, data: bytes) -> None:
        """Add, and forget what is too long ago."""
        self._data += data
        excess = len(self._data) - self._size
        if excess > 0:
            self._cut = True
            del self._data[:excess]

    def text(self) -> str | None:
        """What is left, as text that PostgreSQL takes; None for nothing."""
        text = self._data.decode(errors="replace").replace("\0", _UNREADABLE)
        if not text:
            return None
        return f"…{text.lstrip(_UNREADABLE)}" if self._cut else text
