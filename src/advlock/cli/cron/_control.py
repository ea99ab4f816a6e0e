"""`advlock cron trigger`, `pause` and `resume`: what the hosts are to do, told by the database."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from advlock._duration import brief
from advlock.cli._database import asking, database, text
from advlock.cli._say import say
from advlock.cli.run import duration_between

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._cron._views import Tick

R = TypeVar("R")

_POLL_EVERY: Final = 0.2
_LONGEST: Final = 30 * 86400.0

TRIGGER_EPILOG = """\
\b
stdout has the run's tick; `advlock cron why NAME --at TICK` tells what became of
it. With --wait: 0 if it succeeded, otherwise 1.
"""


# -- trigger ---------------------------------------------------------------------------------------


@click.command(epilog=TRIGGER_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=text)
@click.option("--wait", is_flag=True, help="Wait until it has ended, and show what it wrote.")
@database
def trigger(name: str, wait: bool, **where: Any) -> int:  # noqa: FBT001
    """Have the job NAME run now, once, on whichever host takes it.

    A job that is disabled or paused runs, too. While it runs already, this run waits.
    """
    from advlock._cron import _views  # noqa: PLC0415 - not for --help

    with asking(**where) as ask:
        tick, about = ask(_views.trigger(name, _who()))
        click.echo(tick)
        if not about.hosts:
            say(f"no scheduler that has {name} is there now; it runs when one comes")
        return _outcome(name, tick, ask) if wait else 0


def _outcome(name: str, tick: str, ask: Callable[[Any], Any]) -> int:
    from advlock._cron._views import ticks  # noqa: PLC0415 - not for --help

    while True:
        found: Sequence[Tick] = _patient(lambda: ask(ticks(name, tick, tick, output=True)))
        if not found:
            say(f"{name}: the row of this run was deleted, so nobody knows how it ended")
            return 1
        if found[0].over:
            break
        time.sleep(_POLL_EVERY)
    run = found[0]
    if run.output:
        click.echo(run.output, nl=not run.output.endswith("\n"))
    where = f" on {run.where}" if run.where else ""
    took = "" if run.duration is None else f" in {brief(run.duration)}"
    reason = f": {run.reason}" if run.reason and run.state != "succeeded" else ""
    say(f"{name}: {run.state}{where}{took}{reason}")
    return 0 if run.state == "succeeded" else 1


def _patient(look: Callable[[], R]) -> R:
    """Look, and go on trying: what was triggered stays triggered while the database is away."""
    from advlock.errors import DatabaseUnavailable  # noqa: PLC0415 - not for --help

    told = False
    while True:
        try:
            return look()
        except DatabaseUnavailable as error:
            if not told:
                say(f"{error}; it is triggered all the same, so waiting on")
            told = True
            time.sleep(_POLL_EVERY)


# -- pause, resume ---------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NAME]...", nargs=-1, type=text)
@click.option("--all", "every", is_flag=True, help="Every job.")
@click.option(
    "--for",
    "seconds",
    metavar="DURATION",
    type=duration_between(1.0, _LONGEST),
    default="1h",
    show_default=True,
    help="How long; at most 30d.",
)
@click.option("--note", type=text, help="Why, for others to read.")
@database
def pause(
    names: tuple[str, ...],
    every: bool,  # noqa: FBT001
    seconds: float,
    note: str | None,
    **where: Any,
) -> int:
    """Have jobs skip their ticks for a while, on every host. It ends by itself.

    What runs already goes on. A second pause takes the place of the first.
    """
    from advlock._cron import _views  # noqa: PLC0415 - not for --help

    wanted = _wanted(names, every=every)
    with asking(**where) as ask:
        paused = ask(_views.pause(wanted, seconds, note, _who()))
    for name, told in paused.items():
        say(f"{name} is {told}")
    if not paused:
        say(f"there are no jobs to pause; {_views.FIRST}")
    return 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NAME]...", nargs=-1, type=text)
@click.option("--all", "every", is_flag=True, help="Every job.")
@database
def resume(names: tuple[str, ...], every: bool, **where: Any) -> int:  # noqa: FBT001
    """End the pause of jobs. The ticks that were skipped stay skipped."""
    from advlock._cron import _views  # noqa: PLC0415 - not for --help

    wanted = _wanted(names, every=every)
    with asking(**where) as ask:
        resumed = ask(_views.resume(wanted))
    for name in wanted if wanted is not None else resumed:
        say(f"{name} goes on" if name in resumed else f"{name} was not paused")
    if wanted is None and not resumed:
        say("nothing was paused")
    return 0


def _wanted(names: Sequence[str], *, every: bool) -> list[str] | None:
    if bool(names) == every:
        raise click.UsageError("name the jobs, or --all" + (" of them, not both" if every else ""))
    return None if every else list(dict.fromkeys(names))


def _who() -> str:
    """Who asks, for those who wonder later."""
    import getpass  # noqa: PLC0415 - not for --help
    import os  # noqa: PLC0415

    try:
        user = os.environ.get("USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return os.fsencode(f"{user}@{os.uname().nodename}").decode(errors="replace")
