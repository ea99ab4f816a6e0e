"""Wake one thread that waits, from anywhere: another thread, or a signal handler."""

from __future__ import annotations

import contextlib
import os
import select


class Bell:
    """A pipe: ringing never waits, takes no lock, and is remembered until somebody has heard it."""

    def __init__(self) -> None:
        self._hears, self._rings = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._hears, select.POLLIN)

    def fileno(self) -> int:
        """Return a descriptor that is readable while the bell has rung."""
        return self._hears

    def ring(self) -> None:
        """Wake whoever waits, or will."""
        with contextlib.suppress(OSError):  # it rings already, or nobody is there any more
            os.write(self._rings, b".")

    def wait(self, seconds: float) -> None:
        """Wait until it rings, `seconds` at most."""
        self._poll.poll(max(0.0, seconds) * 1000)
        self.hush()

    def hush(self) -> None:
        """Forget that it has rung."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._hears, 4096):
                pass

    def __del__(self) -> None:
        # Not earlier: whoever may still ring it holds it, and a descriptor that was closed is
        # somebody else's before long.
        for fd in (self._hears, self._rings):
            with contextlib.suppress(OSError):
                os.close(fd)
