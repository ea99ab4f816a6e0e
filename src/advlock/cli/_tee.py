"""What a command writes, passed on as it comes, and its end remembered.

For those who ask for it: the command then writes to pipes, and not to our terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import Final

from advlock._cron._bell import Bell
from advlock.cli.cron._output import Tail

_CHUNK: Final = 64 * 1024
_LAST_CHUNKS: Final = 16  # as much as a pipe holds; what comes later is not the command's own


class Tee:
    """Stands between a command's stdout and stderr and ours.

    Whoever reads ours slowly holds the command up, as without it, and nobody else: it has a thread
    of its own.
    """

    def __init__(self, size: int) -> None:
        """Make the pipes.

        Args:
            size: How many bytes of the end are remembered.
        """
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        self._targets = {pipes[0][0]: 1, pipes[1][0]: 2}
        self.streams = (pipes[0][1], pipes[1][1])
        self._tail = Tail(size)
        self._ended = Bell()
        self._thread = threading.Thread(target=self._run, name="advlock-tee", daemon=True)

    def started(self) -> None:
        """Close the ends that the command has by now, and pass on what it writes."""
        for fd in self.streams:
            os.close(fd)
        for fd in self._targets:
            os.set_blocking(fd, False)
        self._thread.start()

    def finish(self) -> str | None:
        """Pass on what is left of a command that has ended; the end of all that it wrote."""
        if self._thread.ident is not None:
            self._ended.ring()
            self._thread.join()
        return self._tail.text()

    def _run(self) -> None:
        while self._targets:
            poll = select.poll()
            poll.register(self._ended.fileno(), select.POLLIN)
            for fd in self._targets:
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            if self._ended.fileno() in ready:
                for fd in list(self._targets):
                    for _ in range(_LAST_CHUNKS):
                        if not self._pass_on(fd):
                            break
                return
            for fd in ready:
                self._pass_on(fd)

    def _pass_on(self, fd: int) -> bool:
        """Pass on what is there; False if that is nothing."""
        if fd not in self._targets:
            return False
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, _CHUNK)
            self._tail.add(data)
            if data and _write(self._targets[fd], data):
                return True
            # Its end; or nobody reads ours, and the command is to hear of it by SIGPIPE.
            del self._targets[fd]
            os.close(fd)
        return False


def _write(fd: int, data: bytes) -> bool:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # somebody who shares it has made it so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True
