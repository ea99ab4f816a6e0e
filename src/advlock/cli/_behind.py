"""Commands whose last part, behind `--`, belongs to another program."""

from __future__ import annotations

from typing import NoReturn

import click

from advlock.cli import write_exit_codes


class Behind(click.Command):
    """Such a command: what is behind `--` is its parameter `command`, as it was typed."""

    example: str  # of how it is used, for messages

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what is ours."""
        head, tail = args, []
        if "--" in args:
            split = args.index("--")
            head, tail = args[:split], args[split + 1 :]
        ctx.params["command"] = tuple(tail)
        try:
            super().parse_args(ctx, head)
        except click.UsageError as error:
            if "unexpected extra argument" in error.format_message():
                self.missing(ctx, "put -- before the command")
            error.ctx = error.ctx or ctx  # click's parser leaves it out
            raise
        if not ctx.resilient_parsing:
            self.check(ctx, tail)
        return []

    def check(self, ctx: click.Context, command: list[str]) -> None:
        """Refuse what cannot be carried out."""
        if not command:
            self.missing(ctx, "no command to run")

    def missing(self, ctx: click.Context, what: str) -> NoReturn:
        """Refuse, with an example."""
        raise click.UsageError(f"{what}, for example: {self.example}", ctx)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show in the usage where the command goes."""
        return [*super().collect_usage_pieces(ctx), "-- COMMAND [ARG]..."]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the exit codes, too."""
        super().format_epilog(ctx, formatter)
        write_exit_codes(formatter)
