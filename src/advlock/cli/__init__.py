"""The `advlock` command: its subcommands are imported when they are used, and not before."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from advlock.cli._say import open_standard_streams, say
from advlock.cli.exits import Exit, signalled, table

if TYPE_CHECKING:
    from collections.abc import Sequence

# name: (module, one line for `advlock --help`); the module has a click command of that name.
COMMANDS = {
    "run": ("advlock.cli.run", "Run a command while holding a lock."),
    "once": ("advlock.cli.once", "Run a command once, ever or in a window; others wait."),
    "cron": ("advlock.cli.cron", "Run jobs by the clock, each tick on one of many hosts."),
    "lead": ("advlock.cli.lead", "Run a command on one of many hosts: on the leader."),
    "ps": ("advlock.cli.ps", "Show every lock: its name, who holds it, who waits."),
    "top": ("advlock.cli.top", "The same, live."),
    "why": ("advlock.cli.why", "Say in plain words why a lock is not free."),
    "kill": ("advlock.cli.kill", "End the session that holds a lock."),
    "keys": ("advlock.cli.keys", "Check, list, show and export the registry of names."),
    "init": ("advlock.cli.init", "Make the tables of advlock, or show their SQL."),
    "doctor": ("advlock.cli.doctor", "Say whether locks hold on this database."),
    "demo": ("advlock.cli.demo", "Watch three hosts run one cron, and two of them die."),
}

EXAMPLES = """\
\b
Examples:
  advlock run nightly -- ./report.sh         wait for the lock, then run
  advlock run -n -E 0 nightly -- ./report.sh skip when it runs elsewhere (cron)
  advlock run -w 30s deploy -- make deploy   wait at most 30 seconds
  advlock run --slots 3 encode -- ffmpeg …   at most three at a time
  advlock cron run jobs.toml                 on every host; each tick runs on one
  advlock ps; advlock why nightly            who has which lock, and why it is not free

\b
The database: --dsn, ADVLOCK_DSN, advlock.toml, DATABASE_URL or libpq's own
variables, in this order; --local starts a private one for trying things out.
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        write_exit_codes(formatter)


def write_exit_codes(formatter: click.HelpFormatter) -> None:
    """Add the table of exit codes to a help text."""
    with formatter.section("Exit codes"):
        formatter.write_dl(table())


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001, FBT001
    if not value or ctx.resilient_parsing:
        return
    from importlib import metadata  # noqa: PLC0415 - takes longer than the rest of the start

    try:
        click.echo(f"advlock {metadata.version('advlock')}")
    except metadata.PackageNotFoundError:
        click.echo("advlock (not installed, so without a version)")
    ctx.exit()


@click.group(
    cls=_LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def app(ctx: click.Context) -> None:
    """Exactly one process should be doing this right now: on the Postgres you already have."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `advlock` command.

    Args:
        argv: Its arguments; those of the process when None.

    Returns:
        The exit code: the command's own, or one of `advlock.cli.exits.Exit`.
    """
    open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # what a job wrote may be any text
    try:
        code = app.main(argv, prog_name="advlock", standalone_mode=False)
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        say(error.format_message())
        return Exit.CONFIG
    except (click.Abort, KeyboardInterrupt):
        return signalled(signal.SIGINT)
    except BrokenPipeError:  # `advlock … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return signalled(signal.SIGPIPE)
    except Exception as error:  # noqa: BLE001 - whatever it is, its exit code has a meaning
        return _failed(error)
    return code if isinstance(code, int) else 0


def _wrong_usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    say(error.format_message())
    command = error.ctx.command_path if error.ctx else "advlock"
    say(f"try '{command} --help'")
    return Exit.USAGE


def _failed(error: Exception) -> int:
    from advlock import errors  # noqa: PLC0415 - not needed when nothing fails

    codes: dict[type[Exception], Exit] = {
        errors.LockTimeout: Exit.BUSY,
        errors.LockLost: Exit.LOST,
        errors.DatabaseUnavailable: Exit.UNAVAILABLE,
        errors.TooManyLocks: Exit.UNAVAILABLE,
        errors.UnsafeServer: Exit.CONFIG,
        errors.LockError: Exit.CONFIG,
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            say(str(error))
            return code
    import traceback  # noqa: PLC0415 - for our own bugs only

    traceback.print_exception(error, file=sys.stderr)
    say("this is a bug in advlock; please report it together with the lines above")
    return Exit.BUG
