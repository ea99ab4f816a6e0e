"""`advlock cron history`: what became of the ticks of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli import _show as show
from advlock.cli._database import asking, database, text
from advlock.cli._say import say
from advlock.cli.cron import _show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._cron._views import Tick

_HEADS: Final = ("TICK", "STATE", "WHERE", "BEGAN", "TOOK", "EXIT", "TRY", "REASON")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=text)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 2**31 - 1),
    default=20,
    show_default=True,
    help="How many.",
)
@click.option(
    "--state",
    "states",
    type=click.Choice(_show.STATES),
    multiple=True,
    help="Only ticks in this state. May be repeated.",
)
@click.option("--output", is_flag=True, help="With the end of what each run has written.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines instead of text.")
@database
def history(
    name: str,
    count: int,
    states: tuple[str, ...],
    output: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **where: Any,
) -> int:
    """Show what became of the ticks of the job NAME, the newest first.

    BEGAN is how long after the tick the run began. Times are UTC.
    """
    from advlock._cron import _views  # noqa: PLC0415 - not for --help

    with asking(**where) as ask:
        found = ask(_views.history(name, count, states, output=output))
    if as_json:
        for tick in found:
            show.as_json(_show.tick_as_dict(tick, output=output), indent=None)
    elif found:
        _show_table(found)
    else:
        say(f"{name} has no {' or '.join(states) or 'history yet'}")
    return 0


def _show_table(found: Sequence[Tick]) -> None:
    heads, *lines = show.table(_HEADS, [_cells(tick) for tick in found])
    click.echo(heads)
    for tick, line in zip(found, lines, strict=True):
        click.echo(line)
        if tick.output:
            click.echo(_show.indented(tick.output), nl=False)


def _cells(tick: Tick) -> list[str]:
    from advlock._cron._words import utc  # noqa: PLC0415 - not for --help
    from advlock._duration import brief  # noqa: PLC0415

    by_hand = f"triggered by {tick.triggered_by}" if tick.triggered_by else ""
    reasons = dict.fromkeys(filter(None, (by_hand, tick.reason)))
    return [
        utc(tick.scheduled_at),
        _show.state(tick.state),
        tick.where or "-",
        "-" if tick.latency is None else f"+{brief(tick.latency)}",
        "-" if tick.duration is None else brief(tick.duration),
        "-" if tick.exit_code is None else str(tick.exit_code),
        str(tick.attempt) if tick.started_at else "-",
        "; ".join(reasons),
    ]
