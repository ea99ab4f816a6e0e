"""What commands write: passed on with the job's name in front, and its tail remembered."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import Final

_ROOM: Final = 4 * 1024 * 1024  # bytes that nobody has taken yet; then commands have to wait
_LONGEST_LINE: Final = 64 * 1024
_CHUNK: Final = 64 * 1024
_LAST_CHUNKS: Final = 64
_UNREADABLE: Final = "\N{REPLACEMENT CHARACTER}"


class Printer:
    """Writes to our own stdout and stderr, in a thread: whoever reads them may be slow.

    The threads that look after locks must never wait for it.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._idle = True
        threading.Thread(target=self._run, name="advlock-cron-output", daemon=True).start()

    def has_room(self) -> bool:
        """Whether more may be read from the commands."""
        return self._size < _ROOM

    def put(self, fd: int, data: bytes) -> None:
        """Have `data` written to `fd`."""
        with self._changed:
            self._lines.append((fd, data))
            self._size += len(data)
            self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, `seconds` at most."""
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
                self._size -= len(data)
            with contextlib.suppress(OSError):  # nobody reads it: the jobs go on
                while data:
                    data = data[os.write(fd, data) :]


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

    def close(self) -> None:
        """Take the rest, without waiting, and close."""
        for _ in range(_LAST_CHUNKS):  # somebody else may still write: we do not wait for them
            if not self.pump():
                break
        if self._line:
            self._pass_on(self._line)
        os.close(self.fd)
        if self.theirs >= 0:
            os.close(self.theirs)

    def _pass_on(self, lines: bytes) -> None:
        marked = b"".join(self._prefix + line + b"\n" for line in lines.split(b"\n"))
        self._printer.put(self._target, marked)


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
