"""How the cron's commands show what they found: tables for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._show import iso

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advlock._cron._job import Job
    from advlock._cron._views import Tick

_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "timeout": "red",
    "lost": "red",
    "skipped_overlap": "yellow",
    "skipped_missed": "yellow",
    "skipped_paused": "yellow",
    "running": "cyan",
    "queued": "cyan",
    "claimed": "cyan",
}
STATES: Final = tuple(_COLOURS)

# What of a row is for programs, in the order in which it is shown.
_TICK: Final = (
    "job",
    "scheduled_at",
    "state",
    "reason",
    "host",
    "pid",
    "claimed_at",
    "started_at",
    "finished_at",
    "latency",
    "duration",
    "exit_code",
    "attempt",
    "losses",
    "triggered_by",
    "expires_at",
    "stop",
    "run_id",
    "token",
)
_DURATIONS: Final = frozenset(
    ("grace", "timeout", "kill_after", "retry_wait", "jitter", "max_age"),
)
_NO_POLICY: Final = frozenset(
    ("name", "schedule", "command", "env", "cwd", "description", "ping"),
)


def state(name: str) -> str:
    """A state, in its colour."""
    return click.style(name, _COLOURS.get(name))


def tick_as_dict(tick: Tick, *, output: bool = False) -> dict[str, Any]:
    """A row for programs."""
    names = (*_TICK, "output") if output else _TICK
    values = {name: getattr(tick, name) for name in names}
    return {key: iso(value) if key.endswith("_at") else value for key, value in values.items()}


def indented(text: str) -> str:
    """Output, set off from what we say about it."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def policies(job: Job) -> Mapping[str, Any]:
    """What of a job is not as it is by default."""
    import dataclasses  # noqa: PLC0415 - not for --help

    from advlock._checkins._plan import masked  # noqa: PLC0415

    found = {
        one.name: getattr(job, one.name)
        for one in dataclasses.fields(job)
        if one.name not in _NO_POLICY and getattr(job, one.name) != one.default
    }
    return found if job.ping is None else found | {"ping": masked(job.ping)}


def spelled(policy: str, value: Any) -> str:
    """A policy, as a file has it."""
    from advlock._duration import brief  # noqa: PLC0415 - not for --help

    if policy in _DURATIONS:
        return f"{policy} = {brief(value)}"
    if policy == "output":
        return f"{policy} = {value} bytes"
    return f"{policy} = {str(value).lower() if isinstance(value, bool) else value}"
