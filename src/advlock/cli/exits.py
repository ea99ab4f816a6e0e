"""The exit codes, each with its meaning: the one source for `--help`, the docs and the code.

Numbers follow sysexits.h, timeout(1) and the shell, so that systemd (`TEMPFAIL`), Kubernetes
(`podFailurePolicy`) and cron wrappers can tell them apart from the command's own.
"""

from __future__ import annotations

import enum
from typing import Self


class Exit(enum.IntEnum):
    """What `advlock` itself says with its exit code."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """An integer that knows what it means."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    USAGE = 64, "wrong usage: an unknown option, a bad value, no command"
    UNAVAILABLE = 69, "the database cannot be reached; a run that waits already tries again"
    BUG = 70, "a bug in advlock; please report it"
    LOST = 74, "the lock was lost while the command ran; the command was stopped"
    BUSY = 75, "somebody else holds the lock (another number with -E)"
    CONFIG = 78, "bad configuration, or a server on which locks would not be safe"
    TIMED_OUT = 124, "--max-runtime was over; the command was stopped"
    CANNOT_EXECUTE = 126, "the command was found but could not be executed"
    NOT_FOUND = 127, "the command was not found"
    SIGNALLED = 128, "signal n ended the command, or advlock while it waited"


def table() -> list[tuple[str, str]]:
    """Every exit code of `advlock run` with its meaning, in ascending order, for people."""
    ours = [("128+n" if code is Exit.SIGNALLED else str(int(code)), code.meaning) for code in Exit]
    return [("0-255", "the command's own exit code, when it ran to its end"), *ours]


def signalled(signum: int) -> int:
    """The code a shell shows for a process that signal `signum` ended."""
    return Exit.SIGNALLED + signum
