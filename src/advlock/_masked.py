"""Start threads that no signal reaches. Pure standard library, for whoever starts quickly."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block all signals, for this thread and for those that are started here.

    A thread inherits what is blocked. Without this it may receive a signal in the place of the one
    that waits for signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
