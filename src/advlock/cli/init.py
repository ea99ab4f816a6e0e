"""`advlock init`: the tables, made or shown."""

from __future__ import annotations

import click

from advlock.cli._database import asking, database, text
from advlock.cli._say import say

EPILOG = """\
\b
The cron makes the tables by itself, where its role may. Otherwise:
  advlock init --sql --role app | psql -U postgres mydb
"""


def role_name(value: str) -> str:
    """A role on the command line."""
    if not text(value).strip() or not value.isprintable():
        raise click.BadParameter(f"{value!r} is no role; name the one that schedulers connect as")
    if value.lower() == "public":  # quoted, too, it would mean everybody
        raise click.BadParameter(
            f"{value} is not a role but everybody; name the role that schedulers connect as"
        )
    return value


role_name.__name__ = "text"  # as --help shows it


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--sql", is_flag=True, help="Show the SQL, for somebody to review and to run.")
@click.option(
    "--role", type=role_name, help="With --sql: the role that is going to use the tables."
)
@database
def init(sql: bool, role: str | None, dsn: str | None, local: bool) -> int:  # noqa: FBT001
    """Make the tables of advlock in the schema `advlock`. May be run again at any time.

    Locks need none of them: they are for the cron, its history, fencing tokens, and for the names
    of locks, so that any host can tell what a key in pg_locks stands for.
    """
    from advlock import _schema  # noqa: PLC0415 - not for --help

    if role is not None and not sql:
        raise click.UsageError("--role goes with --sql; whoever makes the tables may use them")
    if sql:
        click.echo(_schema.text(role), nl=False)
        return 0
    with asking(dsn=dsn, local=local) as ask:
        missing = ask(_schema.prepare())
    say(f"made version {missing[-1]} of the tables" if missing else "the tables are there already")
    return 0
