"""How `advlock demo` tells what happens: to people, or as JSON Lines."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from advlock.cli._demo_count import MEANING
from advlock.cli._demo_crew import STAND_BY, TRY
from advlock.cli._demo_play import JOB_SECONDS, WORKERS

if TYPE_CHECKING:
    from advlock.cli._demo_count import Verdict
    from advlock.cli._demo_play import Event

_COLORS: Final = {1: "cyan", 2: "magenta", 3: "yellow"}
_OPENING: Final = f"""\
Three workers, one lock, and a PostgreSQL of their own that is gone when this ends.
Every second each worker starts the same line, as cron would on three machines:

  advlock run nightly {" ".join(TRY)} -- JOB

JOB takes {JOB_SECONDS} s. With -n nobody waits: who finds the lock taken skips this time (exit 75).
"""
_CONTROL: Final = f"""\
The control: three workers, and no lock. Every second each of them runs the same JOB, which
takes {JOB_SECONDS} s, as cron would on three machines.
"""
_HEADER: Final = " tick     time   who              what happened"
_MARGIN: Final = " " * 34


class Show(Protocol):
    """Who is told what happens."""

    def opening(self, *, locked: bool) -> None:
        """Say what is about to be seen."""

    def event(self, event: Event) -> None:
        """Tell one event as it happens."""

    def verdict(self, verdict: Verdict) -> None:
        """Tell the end of it."""


class JsonShow:
    """JSON Lines: every event as it happens, the verdict last."""

    def opening(self, *, locked: bool) -> None:
        """Nothing: the first line is the first tick."""

    def event(self, event: Event) -> None:
        """Write one event."""
        line = {"event": event.kind, "at": event.at, "tick": event.tick}
        if event.worker is not None:
            line["worker"] = event.worker
        click.echo(json.dumps(line | event.details))

    def verdict(self, verdict: Verdict) -> None:
        """Write the verdict."""
        facts = dataclasses.asdict(verdict)
        facts["takeovers"] = [one._asdict() for one in verdict.takeovers]
        click.echo(json.dumps({"event": "verdict", "good": verdict.good} | facts))


class TextShow:
    """One line an event, for people; ASCII, and colors only where they are wanted."""

    def __init__(self) -> None:
        self._skipped: list[Event] = []
        self._undecided = 0
        self._locked = True
        self._orphan: int | None = None  # the wrapper that was killed while its job works on

    def opening(self, *, locked: bool) -> None:
        """Say what is about to be seen."""
        self._locked = locked
        click.echo(_OPENING if locked else _CONTROL)
        click.echo(click.style(_HEADER, bold=True))

    def event(self, event: Event) -> None:
        """Tell one event; those who skip the same tick share a line."""
        if event.kind == "skipped":
            self._skipped.append(event)
        elif event.kind != "began":
            self._flush()
        if event.kind == "tick":
            self._undecided = len(WORKERS)
            return
        if event.kind in {"began", "skipped", "failed"}:
            self._undecided -= 1
        if event.kind != "skipped":
            getattr(self, f"_{event.kind}")(event, event.details)
        if self._undecided <= 0:
            self._flush()

    def verdict(self, verdict: Verdict) -> None:
        """Tell the numbers, and what they mean."""
        click.echo(f"\n{MEANING}")
        if self._locked and len(verdict.takeovers) < verdict.due:
            click.echo("A takeover was not seen. On a busy machine, try: advlock demo --seconds 60")
        color = "green" if verdict.good else "red"
        click.echo(f"verdict: {click.style(str(verdict), fg=color, bold=True)}")

    # -- one line each ---------------------------------------------------------------------------

    def _began(self, event: Event, details: dict[str, Any]) -> None:
        if details["patient"]:  # `took over` says it
            return
        seconds = details["seconds"]
        text = f"runs its job{f' (this one takes {seconds} s)' if seconds > JOB_SECONDS else ''}"
        got = f"has the lock as pid {details['pid']}, " if self._locked else ""
        self._line(event, got + text)

    def _ended(self, event: Event, details: dict[str, Any]) -> None:
        if details["pid"] != self._orphan:
            self._line(event, "done")
            return
        self._orphan = None
        self._line(event, "the job without a wrapper is done; only now the lock is free")

    def _flush(self) -> None:
        """Tell who skipped, in advlock's own words."""
        if not self._skipped:
            return
        events, self._skipped = self._skipped, []
        words = events[-1].details["said"].splitlines() or ["skipped"]
        _, colon, holder = words[-1].partition(": ")
        text = f"skipped{colon}{holder}"
        if self._orphan is not None and f" pid {self._orphan} " in text:
            text += f"\n{_MARGIN}(pid {self._orphan} is dead, but its job works on)"
        workers = sorted(event.worker or 0 for event in events)
        who = f"worker{'s' * (len(workers) > 1)} {', '.join(map(str, workers))}"
        self._line(events[0], text, who=who, dim=True)

    def _failed(self, event: Event, details: dict[str, Any]) -> None:
        text = f"failed with exit code {details['code']}: {details['said']}"
        self._line(event, click.style(text, fg="red"))

    def _waiting(self, event: Event, details: dict[str, Any]) -> None:
        command = f"advlock run nightly {' '.join(STAND_BY)} -- JOB"
        self._line(event, f"gets in line as pid {details['pid']}: {command}")

    def _killed(self, event: Event, details: dict[str, Any]) -> None:
        wrapper, job = details["pid"], details["job"]
        if details["what"] == "wrapper":
            self._orphan = wrapper
            loud = f"KILLED its wrapper: kill -9 {wrapper}"
            text = f"its job, pid {job}, inherited the lock: it works on, and nobody else gets in"
        else:
            loud = f"KILLED, wrapper and job: kill -9 {wrapper} -{job}"
            text = "nobody is left to release the lock, but the server sees that they are gone"
        self._line(event, f"{click.style(loud, fg='red', bold=True)}\n{_MARGIN}{text}")

    def _took_over(self, event: Event, details: dict[str, Any]) -> None:
        loud = f"TOOK OVER {details['after'] * 1000:.0f} ms after"
        whom = f"worker {details['predecessor']}"
        what = f"{whom}'s job ended" if details["killed"] == "wrapper" else f"{whom} was killed"
        self._line(event, f"{click.style(loud, fg='green', bold=True)} {what}")

    def _line(self, event: Event, text: str, *, who: str = "", dim: bool = False) -> None:
        head = f"{event.tick:>5}  {event.at:>5.2f} s  "
        label = f"{who or f'worker {event.worker}':<15}  "
        color = None if who else _COLORS.get(event.worker or 0)
        styled = click.style(label, fg=color, dim=dim or None)
        click.echo(f"{click.style(head, dim=True)}{styled}{click.style(text, dim=dim or None)}")
