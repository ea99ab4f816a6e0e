"""`advlock once NAME -- COMMAND`: run a command once, ever or in a window; the others wait."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advlock._liveness import LIVENESS, LONGEST, SHORTEST_LEASE, SHORTEST_LIVENESS, Bounds
from advlock.cli import _checkin
from advlock.cli import run as _run
from advlock.cli._acquire import Want
from advlock.cli._behind import Behind
from advlock.cli._signals import Interrupted, raise_on_signals
from advlock.cli._supervise import Rules
from advlock.cli.exits import Exit, signalled

if TYPE_CHECKING:
    from advlock._once._plan import Want as Wanted

EXAMPLE = "advlock once seed-v3 -- ./seed.sh"
EPILOG = """\
\b
Durations: 5, 30s, 1.5m, 2h, 1d.

\b
Examples:
  advlock once seed-v3 -- ./seed.sh           exactly one runs it, others wait
  advlock once --per 24h digest -- ./digest   at most once in 24 hours
  advlock once -n -E 0 seed-v3 -- ./seed.sh   do not wait for who is at it
  advlock once --list                         what was done, when and by whom
  advlock once --forget seed-v3               so that it is done again

\b
It is recorded as done when the command ends with exit code 0, while the lock
is held, in the table advlock.once. A command that fails, or is killed, leaves
it undone, and whoever waits or comes next runs it. If everything dies between
the command's end and the record, it is run again: make it harmless twice.

\b
A window (--per) is counted from when the last successful run began, by the
server's clock. The lock is the one of `advlock run once:NAME`. The command
sees what that of `advlock run` sees, and inherits the lock in the same way.
"""


class _Once(Behind):
    example = EXAMPLE

    def check(self, ctx: click.Context, command: list[str]) -> None:
        asks = ctx.params["show"] or ctx.params["forget"] is not None
        if asks and (command or ctx.params["name"] is not None):
            flag = "--list" if ctx.params["show"] else "--forget NAME"
            raise click.UsageError(f"{flag} runs no command; leave out the rest", ctx)
        if not asks and ctx.params["name"] is None:
            self.missing(ctx, "what is to be done once has no name")
        if not asks:
            super().check(ctx, command)


def once_name(value: str) -> str:
    """A name that a row can have."""
    from advlock._once import _plan  # noqa: PLC0415 - not for --help
    from advlock.errors import ConfigError  # noqa: PLC0415

    try:
        value.encode()
        return _plan.want(value, None).name
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not UTF-8; write it as such") from None
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


once_name.__name__ = "name"


def window(value: str) -> float | None:
    """The length of a window."""
    from advlock._once import _plan  # noqa: PLC0415 - not for --help
    from advlock.errors import ConfigError  # noqa: PLC0415

    try:
        return _plan.want("window", value).per
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


window.__name__ = "duration"


class Options(NamedTuple):
    """The command line, understood: what `advlock run` would be told, and what is to be done."""

    run: _run._Options
    wanted: Wanted


@click.command(cls=_Once, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=once_name, required=False)
@click.option("--per", type=window, help="At most once in a window of this length; else ever.")
@click.option("-n", "--no-wait", "--nonblock", "no_wait", is_flag=True, help="Do not wait.")
@click.option("-w", "--wait", "--timeout", "wait", type=_run.duration, help="Wait at most so long.")
@click.option(
    "-E",
    "--conflict-exit-code",
    "conflict",
    type=click.IntRange(0, 255),
    default=int(Exit.BUSY),
    show_default=True,
    help="The exit code when somebody else is still at it.",
)
@click.option("--max-runtime", type=_run.duration, help="Stop the command after so long; 0: never.")
@click.option(
    "-k",
    "--kill-after",
    type=_run.duration,
    default=f"{_run._KILL_AFTER:g}s",
    show_default=True,
    help="Kill a command that was stopped and has not ended after so long.",
)
@click.option(
    "--liveness",
    type=_run.duration_between(SHORTEST_LIVENESS, LONGEST),
    default=f"{LIVENESS:g}s",
    show_default=True,
    help="When the network or this host vanishes, the server frees the lock within so long.",
)
@click.option(
    "--lease",
    type=_run.duration_between(SHORTEST_LEASE, LONGEST),
    help="Free the lock when advlock is frozen or killed for so long; the command may still run.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not say that it was done, or who is at it.")
@_checkin.options
@click.option("--list", "show", is_flag=True, help="Show what was done, when and by whom.")
@click.option("--json", "as_json", is_flag=True, help="With --list: JSON instead of text.")
@click.option("--forget", metavar="NAME", type=once_name, help="Forget that NAME was done.")
@click.option("--dsn", metavar="DSN", help="The database: a URL, or libpq's key=value.")
@click.option("--local", is_flag=True, help="A private PostgreSQL, for trying things out.")
@click.pass_context
def once(ctx: click.Context, /, **given: Any) -> int:
    """Run a command once, ever or in a window: exactly one runs it, the others wait.

    Exits with the command's exit code. Where it was done already, or somebody else does it while
    we wait, exits with 0 and runs nothing.
    """
    if given["as_json"] and not given["show"]:
        raise click.UsageError("--json goes with --list", ctx)
    for flags in (("no_wait", "wait"), ("dsn", "local"), ("show", "forget")):
        if all(given[flag] is not None and given[flag] is not False for flag in flags):
            names = (f"--{flag.replace('_', '-').replace('show', 'list')}" for flag in flags)
            raise click.UsageError(f"{' and '.join(names)} exclude each other; leave one out", ctx)
    where = {"dsn": given["dsn"], "local": given["local"]}
    if given["show"]:
        from advlock.cli import _once_list  # noqa: PLC0415 - for those who ask

        return _once_list.show(as_json=given["as_json"], **where)
    if given["forget"] is not None:
        from advlock.cli import _once_list  # noqa: PLC0415

        return _once_list.forget(given["forget"], **where)
    raise_on_signals()
    try:
        return _do(_understood(ctx, given))
    except Interrupted as interrupted:
        return signalled(interrupted.signum)


def _understood(ctx: click.Context, given: dict[str, Any]) -> Options:
    from advlock._once import _plan  # noqa: PLC0415 - not for --help

    wanted = _plan.want(given["name"], given["per"])
    patient = not given["no_wait"] and given["wait"] != 0
    return Options(
        _run._Options(
            want=Want(wanted.lock, shared=False, slots=None, patient=patient),
            wait=given["wait"] or None,
            command=given["command"],
            conflict=given["conflict"],
            close=False,
            rules=Rules(
                given["max_runtime"], given["kill_after"], what=f"the lock {wanted.lock!r}"
            ),
            bounds=Bounds(given["liveness"], given["lease"], inherited=True),
            dsn=given["dsn"],
            local=given["local"],
            quiet=given["quiet"],
            checkin=_checkin.understood(given, ctx),
        ),
        wanted,
    )


def _do(options: Options) -> int:
    from advlock.cli import _once_run  # noqa: PLC0415 - the database is not needed for --help
    from advlock.cli._names import registered_names  # noqa: PLC0415
    from advlock.cli.locks._text import visible  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        reporter = _checkin.Reporter(options.run.checkin, options.wanted.name)
        stack.enter_context(reporter)  # the first, so it is left last: when the lock is free again
        dsn, users = _run._database(stack, options.run)
        names = registered_names(options.wanted.lock, None)
        until = None if options.run.wait is None else time.monotonic() + options.run.wait
        seeker = _once_run.Turns(options, dsn, names, until)
        try:
            found = seeker.seek()
            if found is None:
                reporter.skipped()
                return options.run.conflict
            turn = seeker.begun()
            return reporter.ended(_once_run.under_lock(found, turn, options, users, reporter))
        except _once_run.AlreadyDone as already:
            options.run.tell(visible(str(already.done)))
            return 0
        finally:
            # Whatever happened. Not a goodbye: a process that inherited the socket keeps the lock.
            seeker.discard()
