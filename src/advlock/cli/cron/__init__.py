"""`advlock cron`: run a file of jobs on many hosts, each tick once, and look at it from any."""

from __future__ import annotations

import importlib
from typing import Final

import click

# name: (module, one line for `advlock cron --help`); the module has a click command of that name.
COMMANDS: Final = {
    "run": ("advlock.cli.cron._run", "Run the jobs of a file, together with other hosts."),
    "tick": ("advlock.cli.cron._run", "Run what is due, once, and exit."),
    "check": ("advlock.cli.cron._check", "Say what is wrong with a file of jobs."),
    "list": ("advlock.cli.cron._list", "Show the jobs: next and last run, state."),
    "next": ("advlock.cli.cron._list", "Show the next ticks of a job."),
    "history": ("advlock.cli.cron._history", "Show what became of the ticks of a job."),
    "why": ("advlock.cli.cron._why", "Say why a job did or did not run."),
    "trigger": ("advlock.cli.cron._control", "Have a job run now."),
    "pause": ("advlock.cli.cron._control", "Have a job skip its ticks for a while."),
    "resume": ("advlock.cli.cron._control", "End a pause."),
}


class _Cron(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, f"{cmd_name}_" if cmd_name in {"list", "next"} else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


EPILOG = """\
\b
Examples:
  advlock cron check jobs.toml               is the file right, and when does it run?
  advlock cron run jobs.toml                 on every host; each tick runs on one
  advlock cron list                          from anywhere: next and last runs
  advlock cron why nightly --at 03:00        why it did, or did not, run then
  advlock cron pause nightly --for 2h --note "moving the disks"
"""


@click.group(
    name="cron",
    cls=_Cron,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cron() -> None:
    """Run jobs by the clock, each tick on exactly one of many hosts.

    Every host runs the same file. The database's clock says when a tick is due, a row for each
    tick that it was run, and a lock who runs it now.
    """
