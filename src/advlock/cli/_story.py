"""What is told of a command: the events of its run, and to itself, which trace it is part of."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from advlock.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Mapping

_REASONS = {Exit.TIMED_OUT: "max-runtime", Exit.LOST: "lost"}


class Story:
    """One run of a command, from its beginning.

    All of it is told at INFO: what there is to warn of, the command line says itself, and without
    a handler Python's logging would write a second line next to it.

    Args:
        env: The command's environment.
        pid: Its process.
    """

    def __init__(self, env: Mapping[str, str], pid: int) -> None:
        self._began = time.monotonic()
        self._facts = {
            "lock": env["ADVLOCK_NAME"],
            "key": env["ADVLOCK_KEY"],
            "token": int(env["ADVLOCK_TOKEN"]),
            "run_id": env["ADVLOCK_RUN_ID"],
            "pid": pid,
        }
        self._tell("run.started", "%s: started (pid %d)", pid)

    def end(self, code: int) -> None:
        """Tell how it ended.

        Args:
            code: Its exit code, or an `Exit` that says why it was stopped.
        """
        facts = {"exit_code": int(code), "ran_ms": round((time.monotonic() - self._began) * 1e3, 3)}
        if isinstance(code, Exit) and code in _REASONS:
            why = _REASONS[code]
            self._tell("run.killed", "%s: stopped (%s)", why, reason=why, **facts)
        else:
            self._tell("run.finished", "%s: ended with exit code %d", code, **facts)

    def _tell(self, event: str, message: str, what: object, **more: Any) -> None:
        from advlock import _observe  # noqa: PLC0415 - not for --help

        facts = {"event": event} | self._facts | more
        _observe.tell(logging.INFO, facts, message, self._facts["lock"], what)


def trace_context() -> dict[str, str]:
    """What the command's environment says of the trace that we are in, besides our own.

    `TRACEPARENT` is passed on like all the rest. Where OpenTelemetry is loaded already, by a
    program that calls us or by `opentelemetry-instrument`, the current span is the command's
    parent; it is not loaded for this.
    """
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate  # noqa: PLC0415 - only then

        propagate.inject(carrier)
    return {key.upper().replace("-", "_"): value for key, value in carrier.items()}
