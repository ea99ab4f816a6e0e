"""`advlock cron why`: why a job did or did not run."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from advlock.cli import _show as show
from advlock.cli._database import as_json, asking, database, text
from advlock.cli.cron import _show

if TYPE_CHECKING:
    from advlock._cron._why import Case, Moment, Verdict

_WIDTH = 96


def moment(text: str) -> Moment:
    """A time on the command line."""
    from advlock._cron._why import read_moment  # noqa: PLC0415 - for those who pass one
    from advlock.errors import ConfigError  # noqa: PLC0415

    try:
        return read_moment(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=text)
@click.option(
    "--at",
    metavar="TIME",
    type=moment,
    help="03:00, or 2026-11-26T03:00, by the clocks of the job's zone; or with an offset.",
)
@as_json
@database
def why(name: str, at: Moment | None, as_json: bool, **where: Any) -> int:  # noqa: FBT001
    """Say why the job NAME did or did not run: at its newest tick, or at TIME.

    A time without a day is the last time the clock showed it.
    """
    from advlock._cron._why import explain, look  # noqa: PLC0415 - not for --help

    with asking(**where) as ask:
        case = ask(look(name, at))
    verdict = explain(case)
    if as_json:
        show.as_json(_as_dict(case, verdict))
    else:
        wrapped = textwrap.wrap(
            verdict.text, _WIDTH, break_long_words=False, break_on_hyphens=False
        )
        click.echo("\n".join(wrapped))
    return 0


def _as_dict(case: Case, verdict: Verdict) -> dict[str, Any]:
    return {
        "job": case.about.name,
        "asked": show.iso(case.asked),
        "tick": show.iso(case.tick),
        "following": show.iso(case.following),
        "verdict": verdict.code,
        "text": verdict.text,
        "row": None if case.row is None else _show.tick_as_dict(case.row),
    }
