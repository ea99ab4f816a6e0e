"""Wait for a condition, not for a while."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_PAUSE = 0.01


def eventually(condition: Callable[[], T], *, within: float = 5.0, message: str = "") -> T:
    """Ask `condition` until its answer is true; return that answer.

    Args:
        condition: What to ask.

        within: How long to go on asking, in seconds.

        message: What was expected, for the error.

    Raises:
        AssertionError: The answer never was true; the message has the last one.
    """
    deadline = time.monotonic() + within
    while True:
        asked_at = time.monotonic()
        answer = condition()
        if answer:
            return answer
        if asked_at > deadline:
            raise AssertionError(_failure(answer, within, message))
        time.sleep(_PAUSE)


async def aeventually(
    condition: Callable[[], T | Awaitable[T]], *, within: float = 5.0, message: str = ""
) -> T:
    """Do the same without blocking the event loop; `condition` may be a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        asked_at = time.monotonic()
        asked = condition()
        answer: T = await asked if inspect.isawaitable(asked) else asked
        if answer:
            return answer
        if asked_at > deadline:
            raise AssertionError(_failure(answer, within, message))
        await asyncio.sleep(_PAUSE)


def stop(pid: int) -> None:
    """Stop a process; it stands still, with all its threads, when this returns, or has ended.

    SIGSTOP stops the threads when one of them takes it up, and on a busy machine that one may have
    to wait for a processor, while the others run on.
    """
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: _stands_still(pid), message=f"process {pid} does not stop")


def _stands_still(pid: int) -> bool:
    return all(_state(stat) in "TZX" for stat in Path(f"/proc/{pid}/task").glob("*/stat"))


def _state(stat: Path) -> str:
    with contextlib.suppress(OSError):
        return stat.read_text().rpartition(")")[2].split()[0]
    return "X"


def _failure(answer: object, within: float, message: str) -> str:
    return f"{message or 'the condition did not come true'} (within {within} s; last: {answer!r})"
