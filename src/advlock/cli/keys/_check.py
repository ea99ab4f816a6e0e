"""`advlock keys check`: what is wrong with the registry, and with the names in the sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from advlock.cli import _show as show
from advlock.cli._database import as_json
from advlock.cli._say import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from advlock._key import Key
    from advlock._registry._check import Finding
    from advlock._registry._scan import Scan

FOUND = 1  # the exit code; as linters have it

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

EPILOG = """\
\b
Exit codes: 0 nothing was found; 1 something was, an error or, with --strict, a
warning; 64 wrong usage; 78 there is no registry, or it cannot be read.
No database is needed.

\b
--scan reads Python (hold, attempt, lock, hold_all, holders, leader, once,
semaphore, rate_limit, xact_lock, try_xact_lock) and, in shell scripts, YAML,
Procfiles and Makefiles, `advlock run NAME`. A line with the comment
"advlock: ignore" is passed over.
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(), required=False)
@click.option(
    "--scan",
    "paths",
    metavar="PATH",
    multiple=True,
    type=click.Path(),
    help="Compare with the names in these sources, a file or a directory; may be repeated.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@as_json
def check(file: str | None, paths: tuple[str, ...], strict: bool, as_json: bool) -> int:  # noqa: FBT001
    """Say which names of the registry FILE collide, and which in the sources it lacks.

    Without FILE: the nearest advlock.toml or pyproject.toml.
    """
    from advlock._registry import _check, _load  # noqa: PLC0415 - not for --help
    from advlock._registry._registry import Registry  # noqa: PLC0415
    from advlock._registry._scan import scan  # noqa: PLC0415

    registry = _load.load(file, lines=True) or Registry.load(file)
    assert registry.path is not None
    findings = list(_check.check(registry, _well_known()))
    scanned = None
    if paths:
        scanned = scan(paths)
        findings += _check.compare(registry, scanned.uses)
    counts = {kind: sum(f.severity == kind for f in findings) for kind in _COLOURS}
    where = _load.display(registry.path)
    if as_json:
        _write(where, len(registry.entries), findings, scanned)
    else:
        _print(where, findings, scanned)
        _sum_up(where, len(registry.entries), counts, scanned)
    return FOUND if counts["error"] or (strict and counts["warning"]) else 0


def _well_known() -> Callable[[Key], Iterable[tuple[str, bool]]]:
    from advlock.cli.keys._known import catalogue  # noqa: PLC0415 - not for --help

    known = catalogue()
    return lambda key: [(str(one), one.certain) for one in known(key)]


def _print(where: str, findings: Sequence[Finding], scanned: Scan | None) -> None:
    from advlock._registry._show import printable  # noqa: PLC0415 - not for --help

    for found in findings:
        place = found.file or where
        line = "" if found.line is None else f":{found.line}"
        severity = click.style(found.severity, fg=_COLOURS[found.severity], bold=True)
        text = f"{found.message} [{found.code}]"
        click.echo(f"{printable(place)}{line}: {severity}: {printable(text)}")
    for path, why in scanned.unreadable if scanned else ():
        say(f"warning: {printable(path)} was not read: {printable(why)}")


def _sum_up(where: str, names: int, counts: dict[str, int], scanned: Scan | None) -> None:
    parts = [_counted(names, "name")]
    if scanned is not None:
        parts.append(f"{_counted(len(scanned.uses), 'use')} in {_counted(scanned.files, 'file')}")
    found = [_counted(count, kind) for kind, count in counts.items() if count]
    say(f"{where}: {', '.join(parts)}; {', '.join(found) or 'nothing wrong'}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _write(
    where: str | Path, names: int, findings: Iterable[Finding], scanned: Scan | None
) -> None:
    value: dict[str, Any] = {
        "file": str(where),
        "names": names,
        "findings": [found._asdict() | {"file": found.file or where} for found in findings],
    }
    if scanned is not None:
        value["scanned"] = {
            "files": scanned.files,
            "uses": len(scanned.uses),
            "unreadable": [{"file": path, "reason": why} for path, why in scanned.unreadable],
        }
    show.as_json(value)
