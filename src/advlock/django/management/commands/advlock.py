"""`manage.py advlock …`: the `advlock` command, for the database of an alias."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand
from django.db import DEFAULT_DB_ALIAS, connections

from advlock.cli import COMMANDS, main
from advlock.django._address import address
from advlock.django._stop import command_error
from advlock.errors import LockError

if TYPE_CHECKING:
    from django.core.management.base import CommandParser


class Command(BaseCommand):
    """The `advlock` command, for the database of an alias."""

    help = (
        "Run the advlock command for a database of this project: "
        "manage.py advlock [--database ALIAS] ps, why, kill, run, doctor, …; "
        "`manage.py advlock ps -h` says more about each."
    )
    requires_system_checks: tuple[str, ...] = ()  # one that is in trouble needs it most

    def add_arguments(self, parser: CommandParser) -> None:
        """Take `--database` in front of the subcommand; the rest is its own."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, choices=tuple(connections))
        parser.add_argument(
            "arguments",
            nargs=argparse.REMAINDER,
            metavar="COMMAND …",
            help=", ".join(COMMANDS),
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Run it, and end with its exit code."""
        try:
            dsn = address(options["database"]).dsn
        except LockError as error:
            raise command_error(error) from None
        before = os.environ.get("ADVLOCK_DSN")
        # In the environment a password is this user's alone; on a command line it is everybody's.
        os.environ["ADVLOCK_DSN"] = dsn.conninfo
        try:
            code = main(options["arguments"] or ["--help"])
        finally:
            if before is None:
                del os.environ["ADVLOCK_DSN"]
            else:
                os.environ["ADVLOCK_DSN"] = before
        if code:
            sys.exit(code)
