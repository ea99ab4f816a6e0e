"""How `advlock demo` tells what happens: to people, or as JSON Lines."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from advlock.cli._demo_count import MEANING
from advlock.cli._demo_crew import JOB

if TYPE_CHECKING:
    from advlock.cli._demo_count import Verdict
    from advlock.cli._demo_crew import Crew
    from advlock.cli._demo_play import Event, Pace

_COLORS: Final = {1: "cyan", 2: "magenta", 3: "yellow"}
_OPENING: Final = """\
Three hosts, one file of jobs, and a PostgreSQL of their own that is gone when this ends.
Each of them runs the same line:  advlock cron run jobs.toml

  [jobs.{job}]
  schedule = "@every {every}s"
  command  = [...]  # works for {work:.1f} s, and notes when that began and ended
"""
_CONTROL: Final = """\
The control: three hosts that share nothing. Each runs the same file of jobs, but on a database of
its own, as crons do that know nothing of each other.

  [jobs.{job}]
  schedule = "@every {every}s"
  command  = [...]  # works for {work:.1f} s, and notes when that began and ended
"""
_HEADER: Final = " tick       time    who     what happened"
_MARGIN: Final = " " * 28
_SKIPPED: Final = "skipped_"


class Show(Protocol):
    """Who is told what happens."""

    def opening(self, pace: Pace, *, locked: bool) -> None:
        """Say what is about to be seen."""

    def event(self, event: Event) -> None:
        """Tell one event as it happens."""

    def history(self, crew: Crew, ticks: int) -> str:
        """Have `advlock cron history` tell it all again; say what went wrong."""

    def verdict(self, verdict: Verdict) -> None:
        """Tell the end of it."""


class JsonShow:
    """JSON Lines: every event as it happens, the verdict last."""

    def opening(self, pace: Pace, *, locked: bool) -> None:
        """Nothing: the first line is the first host."""

    def event(self, event: Event) -> None:
        """Write one event."""
        line: dict[str, Any] = {"event": event.kind, "at": event.at}
        if event.tick is not None:
            line["tick"] = event.tick.isoformat()
        if event.host is not None:
            line["host"] = event.host
        click.echo(json.dumps(line | event.details))

    def history(self, crew: Crew, ticks: int) -> str:
        """Write what `advlock cron history --json` says."""
        options = ("--json", "-n", str(ticks))
        code, out = crew.history(*options, stdout=subprocess.PIPE)
        lines = [json.loads(line) for line in out.splitlines()] if code == 0 else []
        click.echo(json.dumps({"event": "history", "rows": lines}))
        return "" if code == 0 else f"advlock cron history ended with exit code {code}"

    def verdict(self, verdict: Verdict) -> None:
        """Write the verdict."""
        facts = dataclasses.asdict(verdict)
        facts |= {"table": verdict.table._asdict(), "jobs": verdict.jobs._asdict()}
        facts["takeovers"] = [one._asdict() for one in verdict.takeovers]
        click.echo(json.dumps({"event": "verdict", "good": verdict.good} | facts))


class TextShow:
    """One line an event, for people; ASCII, and colors only where they are wanted."""

    def __init__(self) -> None:
        self._last: str | None = None  # the tick of the line before
        self._orphan: str | None = None  # the run that goes on without its scheduler
        self._dead: int | None = None  # that scheduler

    def opening(self, pace: Pace, *, locked: bool) -> None:
        """Say what is about to be seen."""
        text = _OPENING if locked else _CONTROL
        click.echo(text.format(job=JOB, every=pace.every, work=pace.work))
        click.echo(click.style(_HEADER, bold=True))

    def event(self, event: Event) -> None:
        """Tell one event."""
        getattr(self, f"_{event.kind}")(event, event.details)

    def history(self, crew: Crew, ticks: int) -> str:  # noqa: ARG002 - the newest are enough
        """Have the command tell it, and say who was who."""
        click.echo(f"\n$ advlock cron history {JOB}")
        sys.stdout.flush()
        code, _ = crew.history()
        pids: dict[int, list[str]] = {}
        for pid, one in crew.schedulers.items():
            pids.setdefault(one.host, []).append(str(pid))
        who = "; ".join(
            f"host-{host} was pid {', then '.join(them)}" for host, them in pids.items()
        )
        click.echo(click.style(f"({who})", dim=True))
        return "" if code == 0 else f"advlock cron history ended with exit code {code}"

    def verdict(self, verdict: Verdict) -> None:
        """Tell the numbers, and what they mean."""
        click.echo(f"\n{MEANING}")
        for words in (*verdict.failures, *verdict.disagreements):
            click.echo(click.style(words, fg="red"))
        if len(verdict.takeovers) < verdict.due:
            click.echo("A takeover was not seen. On a busy machine, try: advlock demo --seconds 60")
        color = "green" if verdict.good else "red"
        click.echo(f"verdict: {click.style(str(verdict), fg=color, bold=True)}")

    # -- one line each ---------------------------------------------------------------------------

    def _up(self, event: Event, details: dict[str, Any]) -> None:
        again = "is back" if details["again"] else "watches the clock"
        self._line(event, f"{again}, as pid {details['pid']}")

    def _began(self, event: Event, details: dict[str, Any]) -> None:
        text = f"runs the job, {details['late'] * 1000:.0f} ms after its time"
        if details["held"]:
            text += " (a long one)"
        if "took_over" in details:
            text = f"{click.style('TOOK OVER', fg='green', bold=True)}: {text}"
        self._line(event, text)

    def _ended(self, event: Event, details: dict[str, Any]) -> None:
        if details["run"] == self._orphan:
            self._orphan = None
            self._line(event, "the job without a scheduler is done; only now its lock is free")

    def _row(self, event: Event, details: dict[str, Any]) -> None:
        state, reason = details["state"], details["reason"]
        if state == "succeeded":
            return
        if not state.startswith(_SKIPPED):
            self._line(event, f"its run is put down as {state}: {reason}")
            return
        text = f"puts it down as {state}: {reason}"
        if self._orphan is not None and f" pid {self._dead} " in f"{reason} ":
            text += f"\n{_MARGIN}(pid {self._dead} is dead, but its job works on)"
        self._line(event, text)

    def _died(self, event: Event, details: dict[str, Any]) -> None:
        self._line(event, click.style(details["said"], fg="red"))

    def _killed(self, event: Event, details: dict[str, Any]) -> None:
        scheduler, job = details["pid"], details["job"]
        if details["what"] == "scheduler":
            self._orphan, self._dead = details["run"], scheduler
            loud = f"KILLED its scheduler: kill -9 {scheduler}"
            text = f"its job, pid {job}, inherited the lock: it works on, and keeps the lock"
        else:
            loud = f"KILLED, scheduler and job: kill -9 {scheduler} -{job}"
            text = "nobody is left to say so, but the server sees that they are gone"
        self._line(event, f"{click.style(loud, fg='red', bold=True)}\n{_MARGIN}{text}")

    def _line(self, event: Event, text: str) -> None:
        tick = "" if event.tick is None else f"{event.tick:%H:%M:%S}"
        shown = tick if tick != self._last else ""
        self._last = tick or self._last
        head = click.style(f"{shown:>8}  {event.at:>6.2f} s  ", dim=True)
        who = "" if event.host is None else f"host-{event.host}"
        label = click.style(f"{who:<8}", fg=_COLORS.get(event.host or 0))
        click.echo(f"{head}{label}{text}")
