"""`advlock keys`: the registry of names, checked, listed, shown and exported."""

from __future__ import annotations

import importlib
from typing import Final

import click

# name: (module, one line for `advlock keys --help`); the module has a click command of that name.
COMMANDS: Final = {
    "check": ("advlock.cli.keys._check", "Say which names or keys collide or are not declared."),
    "list": ("advlock.cli.keys._list", "Show every name of the registry, with its key."),
    "show": ("advlock.cli.keys._show", "Show the key of a name, or the name of a key, and SQL."),
    "export": ("advlock.cli.keys._export", "Write the names as constants of another language."),
}


class _Keys(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, "list_" if cmd_name == "list" else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


EPILOG = """\
\b
Examples:
  advlock keys check --scan src              in CI: no collisions, no stray names
  advlock keys list                          every lock that there is
  advlock keys show nightly                  its key, and the SQL to take and find it
  advlock keys show 646078/1234/1            whose is this row of pg_locks?
"""


@click.group(
    name="keys",
    cls=_Keys,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def keys() -> None:
    """Check, list, show and export the registry: the names of all locks, in one file.

    It is the table [locks] of advlock.toml, or [tool.advlock.locks] of pyproject.toml. No database
    is needed.
    """
