"""`advlock once --list` and `--forget`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from advlock.cli import _show
from advlock.cli._say import say
from advlock.cli.exits import Exit

if TYPE_CHECKING:
    from datetime import datetime

    from advlock._once._done import Record

_HEADS = ("NAME", "STATE", "SINCE", "BY", "PER", "AGAIN AFTER")


def show(*, as_json: bool, dsn: str | None, local: bool) -> int:
    """Show every row."""
    from advlock._once import _plan  # noqa: PLC0415 - not for --help
    from advlock.cli._database import asking  # noqa: PLC0415

    with asking(dsn=dsn, local=local) as ask:
        found: list[Record] = ask(_plan.records())
    if as_json:
        _show.as_json([_as_dict(record) for record in found])
    elif found:
        for line in _show.table(_HEADS, [_cells(record) for record in found]):
            click.echo(line)
    else:
        say("nothing is recorded as done once")
    return 0


def _since(record: Record) -> datetime:
    done = record.done
    return done.done_at if done is not None and record.state == "done" else record.begun_at


def _again(record: Record) -> datetime | None:
    """When the window is over that the last completed run has opened."""
    if record.per is None or record.done is None:
        return None
    try:
        return record.done.started_at + timedelta(seconds=record.per)
    except OverflowError:  # a row that somebody has made by hand
        return None


def _cells(record: Record) -> list[str]:
    from advlock._duration import brief  # noqa: PLC0415 - not for --help
    from advlock.cli.locks._text import visible  # noqa: PLC0415

    again = _again(record)
    return [
        visible(record.name),
        record.state,
        _utc(_since(record)),
        f"{visible(record.host)} pid {record.pid}",
        "-" if record.per is None else brief(record.per),
        "-" if again is None else _utc(again),
    ]


def _utc(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


def _as_dict(record: Record) -> dict[str, Any]:
    done = record.done
    return {
        "name": record.name,
        "state": record.state,
        "begun_at": _show.iso(record.begun_at),
        "host": record.host,
        "pid": record.pid,
        "run_id": record.run_id,
        "token": record.token,
        "per": record.per,
        "again_after": _show.iso(_again(record)),
        "done": None
        if done is None
        else {
            "started_at": _show.iso(done.started_at),
            "done_at": _show.iso(done.done_at),
            "host": done.host,
            "pid": done.pid,
            "token": done.token,
        },
    }


def forget(name: str, *, dsn: str | None, local: bool) -> int:
    """Forget that `name` was done, unless somebody is at it."""
    from advlock import _label  # noqa: PLC0415 - not for --help
    from advlock._once import _plan  # noqa: PLC0415
    from advlock._solo import SoloSession  # noqa: PLC0415
    from advlock.cli._acquire import _held_by  # noqa: PLC0415
    from advlock.cli._database import opened  # noqa: PLC0415
    from advlock.cli._names import registered_names  # noqa: PLC0415
    from advlock.cli._once_run import ask  # noqa: PLC0415

    wanted = _plan.want(name, None)
    names = registered_names(wanted.lock, None)
    with opened(dsn=dsn, local=local) as where:
        session = SoloSession.open(where, application_name=_label.make(wanted.lock), deadline=None)
        session.names = names
        key = session.key(wanted.lock)
        if not session.try_lock(key, shared=False):
            held = _held_by(session.holders(key))
            session.close()
            say(f"somebody is at {name!r}{held}; try again when that has ended")
            return Exit.BUSY
        recorded = wanted.recorded_as(names.namespace if names else "")
        known = ask(session, _plan.forget(recorded))
        session.close()
    # With the registry's namespace, as --list shows it: it is not to be given here.
    say(f"forgot that {recorded!r} was done" if known else f"nothing is known of {recorded!r}")
    return 0
