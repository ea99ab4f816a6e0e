"""`advlock doctor`: does mutual exclusion hold on this database, and what would endanger it?"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import click

from advlock.cli._signals import Interrupted, raise_on_signals
from advlock.cli.exits import Exit, signalled

if TYPE_CHECKING:
    from advlock._doctor import Finding, Report

_WIDTH: Final = 96
_TOPIC: Final = 16
_COLOURS: Final = {"error": "red", "warning": "yellow"}

EPILOG = """\
\b
NAME: with names of locks, those that share a key are reported, and locks that
are found elsewhere are called by their names.

\b
It locks a private random key, and otherwise only reads. It leaves nothing
behind, and takes about ten seconds at most on a server that does not answer.
docs/doctor.md explains every finding.
"""


def _exit_codes() -> list[tuple[str, str]]:
    return [
        ("0", "no finding"),
        ("1", "warnings"),
        ("2", "errors: locks, or something that rests on them, do not work"),
        *((str(int(code)), code.meaning) for code in (Exit.USAGE,)),
        ("69", "the database cannot be reached"),
        ("78", "bad configuration"),
        ("128+n", "signal n ended it"),
    ]


class _Doctor(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(_exit_codes())


@click.command(cls=_Doctor, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--keys",
    type=click.Choice(["hashtextextended", "hashtext"]),
    default="hashtextextended",
    show_default=True,
    help="How names become keys.",
)
@click.option("--dsn", metavar="DSN", help="The database: a URL, or libpq's key=value.")
def doctor(names: tuple[str, ...], as_json: bool, keys: str, dsn: str | None) -> int:  # noqa: FBT001
    """Say whether locks hold on this database, and what would endanger them.

    It tries what locks do: whether two sessions exclude each other, whether a lock ends with its
    connection, what stands in between. Each finding says what was seen and what to type next.
    """
    from advlock._doctor._exam import examine  # noqa: PLC0415 - not for --help

    raise_on_signals()
    try:
        report = examine(dsn, names, keys, given="--dsn")  # type: ignore[arg-type] # one of both
        _show_json(report) if as_json else _show(report)
    except Interrupted as interrupted:
        return signalled(interrupted.signum)
    return report.exit_code


def _show_json(report: Report) -> None:
    import json  # noqa: PLC0415 - for those who ask for it

    click.echo(json.dumps(report.as_dict(), ensure_ascii=False, indent=2))


def _show(report: Report) -> None:
    click.echo(f"{report.server} at {report.database}\n")
    for topic, fact in report.facts.items():
        click.echo(_hanging(topic.replace("_", " "), fact))
    for finding in report.findings:
        _show_finding(finding)
    click.echo(f"\n{_verdict(report)} ({report.seconds:.2f} s)")


def _show_finding(finding: Finding) -> None:
    head = click.style(f"{finding.severity}: {finding.code}", _COLOURS[finding.severity], bold=True)
    click.echo(f"\n{head}")
    click.echo("  " + "\n  ".join(_wrapped(finding.summary, _WIDTH - 2)))
    click.echo(_hanging("  seen", finding.evidence))
    click.echo(f"{'  do':<{_TOPIC}}{finding.remedy}")  # in one line, to be copied


def _hanging(head: str, text: str) -> str:
    return f"{head:<{_TOPIC}}" + f"\n{'':<{_TOPIC}}".join(_wrapped(text, _WIDTH - _TOPIC))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _verdict(report: Report) -> str:
    counts = {
        severity: sum(finding.severity == severity for finding in report.findings)
        for severity in _COLOURS
    }
    words = [f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts.items() if n]
    return click.style(", ".join(words) or "no findings", bold=True)
