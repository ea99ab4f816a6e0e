"""`advlock cron check`: what a file of jobs says, or what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli import _show as show
from advlock.cli._database import as_json
from advlock.cli._say import say
from advlock.cli.cron import _show
from advlock.cli.cron._files import load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from advlock._cron._job import Job

_SHOWN: Final = 3

EPILOG = """\
\b
Exits with 78 when something is wrong; then every problem is on stderr, with its
line. No database is needed: the next ticks are those by this host's clock.
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@as_json
def check(file: str, as_json: bool) -> int:  # noqa: FBT001
    """Say what is wrong with FILE; if nothing is, what runs and when."""
    from datetime import UTC, datetime  # noqa: PLC0415 - not for --help

    jobs = load(file)
    now = datetime.now(UTC)
    if as_json:
        found = [_as_dict(job, now) for job in jobs.jobs.values()]
        show.as_json({"file": file, "jobs": found, "warnings": list(jobs.warnings)})
        return 0
    for job in jobs.jobs.values():
        _describe(job, now)
    count = len(jobs.jobs)
    say(f"{file}: {count} job{'' if count == 1 else 's'}, nothing wrong")
    return 0


def _next(job: Job, now: datetime) -> list[datetime]:
    found: list[datetime] = []
    while len(found) < _SHOWN and (tick := job.schedule.after(found[-1] if found else now)):
        found.append(tick)
    return found


def _describe(job: Job, now: datetime) -> None:
    from advlock._cron._words import at  # noqa: PLC0415 - not for --help

    click.echo(click.style(job.name, bold=True))
    lines: list[tuple[str, str]] = [
        ("schedule", f"{job.schedule.text}  ({job.schedule.explain()})"),
        ("time zone", job.schedule.timezone),
    ]
    ticks = [at(tick, job.schedule.timezone) for tick in _next(job, now)]
    lines += zip(("next", *[""] * _SHOWN), ticks, strict=False)
    changed = [_show.spelled(*policy) for policy in _show.policies(job).items()]
    if changed:
        lines.append(("policies", ", ".join(changed)))
    if job.description:
        lines.append(("", job.description))
    for head, text in lines:
        click.echo(f"  {head:<10} {text}")
    click.echo()


def _as_dict(job: Job, now: datetime) -> Mapping[str, Any]:
    return {
        "name": job.name,
        "schedule": job.schedule.text,
        "explained": job.schedule.explain(),
        "timezone": job.schedule.timezone,
        "next": [show.iso(tick) for tick in _next(job, now)],
        "policies": dict(_show.policies(job)),
        "description": job.description,
    }
