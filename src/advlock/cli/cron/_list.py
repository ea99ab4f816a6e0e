"""`advlock cron list` and `advlock cron next`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advlock.cli import _show as show
from advlock.cli._database import as_json, asking, database, text
from advlock.cli._say import say
from advlock.cli.cron import _show
from advlock.cli.cron._files import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from advlock._cron._facts import Pause
    from advlock._cron._job import Job, JobSet
    from advlock._cron._views import Here, Listed, Overview, Tick

_FILE = click.Path(dir_okay=False, allow_dash=True)


class _Row(NamedTuple):
    """What a line of the list is made of; `trouble` says why there is no job."""

    listed: Listed
    job: Job | None
    pause: Pause | None
    trouble: str | None = None


# -- list ------------------------------------------------------------------------------------------


@click.command(name="list", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--file", type=_FILE, help="Only the jobs of this file, as it has them.")
@as_json
@database
def list_(file: str | None, as_json: bool, **where: Any) -> int:  # noqa: FBT001
    """Show every job that a scheduler has or had: next and last run, and how it stands now.

    Times are UTC, by the database's clock.
    """
    from advlock._cron import _views  # noqa: PLC0415 - not for --help

    jobs = None if file is None else load(file)
    with asking(**where) as ask:
        found = ask(_views.overview(None if jobs is None else list(jobs.jobs)))
    rows = [_row(listed, found, jobs) for listed in _ordered(found, jobs)]
    warnings = [*found.warnings, *_unread(rows), *(_differing(rows) if file else ())]
    if as_json:
        show.as_json(
            {
                "now": show.iso(found.now),
                "jobs": [_as_dict(row, found) for row in rows],
                "hosts": [_host(host) for host in found.hosts],
                "warnings": warnings,
            }
        )
        return 0
    if rows:
        cells = [_cells(row, found.now) for row in rows]
        heads = ("NAME", "SCHEDULE", "NEXT", "LAST", "STATE")
        click.echo("\n".join(show.table(heads, cells)))
        _show_hosts(found.hosts)
    else:
        say(f"there are no jobs; {_views.FIRST}")
    for warning in warnings:
        say(f"warning: {warning}")
    return 0


def _ordered(found: Overview, jobs: JobSet | None) -> Iterator[Listed]:
    if jobs is None:
        yield from found.jobs.values()
    else:
        yield from (found.jobs[name] for name in jobs.jobs)


def _row(listed: Listed, found: Overview, jobs: JobSet | None) -> _Row:
    from advlock._cron._views import job_of  # noqa: PLC0415 - not for --help
    from advlock.errors import ConfigError  # noqa: PLC0415

    pause = found.pauses.get(listed.name)
    if jobs is not None:
        return _Row(listed, jobs.jobs[listed.name], pause)
    try:
        return _Row(listed, job_of(listed.name, listed.definition or {}), pause)
    except ConfigError as error:
        return _Row(listed, None, pause, str(error))


def _unread(rows: Sequence[_Row]) -> Iterator[str]:
    yield from (row.trouble for row in rows if row.trouble)


def _differing(rows: Sequence[_Row]) -> Iterator[str]:
    """Say of which jobs a file is not what runs."""
    names = [
        row.listed.name
        for row in rows
        if row.job and row.listed.live and row.job.definition() != row.listed.definition
    ]
    if names:
        yield f"schedulers have other versions than the file of: {', '.join(names)}"


def _cells(row: _Row, now: datetime) -> list[str]:
    schedule = "?" if row.job is None else row.job.schedule.text
    if row.job is not None and row.job.schedule.timezone != "UTC":
        schedule += f" {row.job.schedule.timezone}"
    return [
        row.listed.name,
        schedule,
        _next_cell(row, now),
        _last_cell(row.listed.last),
        _state_cell(row.listed.active),
    ]


def _next_cell(row: _Row, now: datetime) -> str:
    from advlock._cron._words import utc  # noqa: PLC0415 - not for --help

    if row.job is not None and not row.job.enabled:
        return click.style("disabled", "yellow")
    if row.pause is not None:
        return click.style(f"paused until {utc(row.pause.until)}", "yellow")
    if not row.listed.live:
        until = row.listed.decided_until
        since = f" since {utc(until)}" if until else ""
        return click.style(f"no scheduler{since}", "red")
    tick = None if row.job is None else row.job.schedule.after(now)
    return utc(tick) if tick else "?"


def _last_cell(last: Tick | None) -> str:
    from advlock._cron._words import utc  # noqa: PLC0415 - not for --help
    from advlock._duration import brief  # noqa: PLC0415

    if last is None:
        return show.dim("never")
    took = "" if last.duration is None else f" in {brief(last.duration)}"
    return f"{utc(last.scheduled_at)} {_show.state(last.state)}{took}"


def _state_cell(active: Sequence[Tick]) -> str:
    from advlock._cron._words import utc  # noqa: PLC0415 - not for --help

    parts = [
        f"{_show.state('running')} on {tick.where} since {utc(tick.started_at)}"
        + ("" if tick.locked else click.style(" (its lock is free)", "red"))
        for tick in active
        if tick.state == "running" and tick.started_at
    ]
    parts += [
        f"{_show.state('claimed')} by {tick.where}" for tick in active if tick.state == "claimed"
    ]
    queued = sum(tick.state == "queued" for tick in active)
    if queued:
        parts.append(f"{_show.state('queued')} {queued}")
    return ", ".join(parts) or show.dim("idle")


def _show_hosts(hosts: Sequence[Here]) -> None:
    from advlock._cron._words import utc  # noqa: PLC0415 - not for --help

    if not hosts:
        say("no scheduler is running; start one: advlock cron run FILE")
        return
    rows = [[one.host, str(one.pid), one.source, utc(one.started_at)] for one in hosts]
    click.echo("\n" + "\n".join(show.table(("HOST", "PID", "FILE", "SINCE"), rows)))


def _as_dict(row: _Row, found: Overview) -> dict[str, Any]:
    listed, job = row.listed, row.job
    runs = job is not None and job.enabled and listed.live
    return {
        "name": listed.name,
        "schedule": job and job.schedule.text,
        "timezone": job and job.schedule.timezone,
        "enabled": job and job.enabled,
        "live": listed.live,
        "next": show.iso(job.schedule.after(found.now)) if job and runs else None,
        "paused": row.pause
        and {
            "until": show.iso(row.pause.until),
            "note": row.pause.note,
            "by": row.pause.by,
        },
        "decided_until": show.iso(listed.decided_until),
        "last": listed.last and _brief_tick(listed.last),
        "active": [_brief_tick(tick) for tick in listed.active],
    }


def _brief_tick(tick: Tick) -> dict[str, Any]:
    return {
        "scheduled_at": show.iso(tick.scheduled_at),
        "state": tick.state,
        "host": tick.host,
        "pid": tick.pid,
        "started_at": show.iso(tick.started_at),
        "finished_at": show.iso(tick.finished_at),
        "duration": tick.duration,
        "locked": tick.locked,
    }


def _host(host: Here) -> dict[str, Any]:
    return host._asdict() | {"started_at": show.iso(host.started_at)}


# -- next ------------------------------------------------------------------------------------------


@click.command(name="next", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=text)
@click.option(
    "-n", "--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many."
)
@click.option("-f", "--file", type=_FILE, help="Of a file's job, without a database.")
@as_json
@database
def next_(name: str, count: int, file: str | None, as_json: bool, **where: Any) -> int:  # noqa: FBT001
    """Show the next ticks of the job NAME: by the clocks of its zone, and in UTC."""
    job, now, pause = _from_file(name, file) if file else _from_database(name, where)
    ticks: list[datetime] = []
    while len(ticks) < count and (tick := job.schedule.after(ticks[-1] if ticks else now)):
        ticks.append(tick)
    _show_ticks(job, ticks, as_json=as_json)
    if not job.enabled:
        say(f"{name} is disabled: none of them runs")
    elif pause is not None and (skipped := sum(job.due(tick) < pause.until for tick in ticks)):
        say(f"{name} is {pause}: {'it is' if skipped == 1 else f'{skipped} of them are'} skipped")
    return 0


def _from_file(name: str, file: str) -> tuple[Job, datetime, Pause | None]:
    from datetime import UTC, datetime  # noqa: PLC0415 - not for --help

    from advlock._cron._views import meant  # noqa: PLC0415
    from advlock.errors import ConfigError  # noqa: PLC0415

    jobs = load(file).jobs
    if name not in jobs:
        raise ConfigError(f"no job {name!r} in {file}; {meant(name, list(jobs))}")
    return jobs[name], datetime.now(UTC), None


def _from_database(name: str, where: dict[str, Any]) -> tuple[Job, datetime, Pause | None]:
    from advlock._cron._views import known  # noqa: PLC0415 - not for --help

    with asking(**where) as ask:
        found = ask(known(name))
    return found.job(), found.now, found.pause


def _show_ticks(job: Job, ticks: Sequence[datetime], *, as_json: bool) -> None:
    from advlock._cron._words import utc  # noqa: PLC0415 - not for --help
    from advlock._cron._zone import zone_of  # noqa: PLC0415

    zone = zone_of(job.schedule.timezone)
    there = [tick.astimezone(zone) for tick in ticks]
    if as_json:
        show.as_json(
            {
                "name": job.name,
                "schedule": job.schedule.text,
                "timezone": job.schedule.timezone,
                "ticks": [
                    {"local": local.isoformat(), "utc": show.iso(tick)}
                    for local, tick in zip(there, ticks, strict=True)
                ],
            }
        )
        return
    for local, tick in zip(there, ticks, strict=True):
        click.echo(f"{local.isoformat(' ')} {job.schedule.timezone}  {utc(tick)}")
