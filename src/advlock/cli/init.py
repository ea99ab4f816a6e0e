"""`advlock init`: the tables, made or shown."""

from __future__ import annotations

import click

from advlock.cli._say import say
from advlock.cli.cron._options import asking, database

EPILOG = """\
\b
The cron makes its tables by itself, where its role may. Otherwise:
  advlock init --sql --role app | psql -U postgres mydb
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sql", is_flag=True, help="Show the SQL, for somebody to review and to run.")
@click.option("--role", help="With --sql: the role that is going to use the tables.")
@database
def init(sql: bool, role: str | None, dsn: str | None, local: bool) -> int:  # noqa: FBT001
    """Make the tables of advlock in the schema `advlock`. May be run again at any time.

    Locks need none of them: they are for the cron, its history, and fencing tokens.
    """
    from advlock._cron import _schema  # noqa: PLC0415 - not for --help

    if role is not None and not sql:
        raise click.UsageError("--role goes with --sql; whoever makes the tables may use them")
    if sql:
        click.echo(_schema.text(None if role is None else _quoted(role)), nl=False)
        return 0
    with asking(dsn=dsn, local=local) as ask:
        missing = ask(_schema.prepare())
    say(f"made version {missing[-1]} of the tables" if missing else "the tables are there already")
    return 0


def _quoted(role: str) -> str:
    if role.isidentifier() and role.isascii() and role.islower():
        return role
    doubled = role.replace('"', '""')
    return f'"{doubled}"'
