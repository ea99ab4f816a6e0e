"""Words for people: on stderr, with our name in front, without anything that can fail or wait."""

from __future__ import annotations

import contextlib
import os


def say(message: str) -> None:
    """Write `advlock: message` to stderr.

    Past Python's own buffers: a stderr that nobody reads must end neither the supervision of a
    command nor, at exit, our exit code (the interpreter would make it 120).
    """
    with contextlib.suppress(OSError):
        os.write(2, marked(message))


def marked(message: str) -> bytes:
    """What `say` writes."""
    lines = "".join(f"advlock: {line}\n" for line in message.splitlines())
    return lines.encode(errors="backslashreplace")


def open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed.

    Otherwise the database's socket becomes descriptor 2, and `say` speaks to the server. It is not
    inheritable: the command finds the stream closed, as whoever started us wanted it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
