"""`advlock keys export`: the registry as a file of constants, for programs in any language."""

from __future__ import annotations

import contextlib
import difflib
import os
import stat
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from advlock.cli._say import say

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIFFERENT: Final = 1  # as diff(1), and as `--check` of formatters
_SHOWN: Final = 40  # lines of a difference
_LANGUAGES: Final = ("python", "sql", "typescript", "go", "ruby", "java")

EPILOG = """\
\b
The same registry makes the same file, byte for byte, and a file that is right
already is not written. --check exits with 1 when it is missing or different.

\b
Examples:
  advlock keys export --lang typescript -o src/locks.ts
  advlock keys export --lang typescript -o src/locks.ts --check
  advlock keys export --lang sql --in locks | psql -1 -v ON_ERROR_STOP=1
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-l", "--lang", type=click.Choice(_LANGUAGES), required=True, help="What to write it in."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Where to write it; stdout by default.",
)
@click.option("--check", is_flag=True, help="Write nothing; say whether FILE is right.")
@click.option(
    "--in",
    "place",
    metavar="PLACE",
    help="What the constants stand in: a schema (sql), package (go), class (java), module (ruby).",
)
@click.option(
    "--rename",
    "renames",
    multiple=True,
    metavar="NAME=OTHER",
    help="Make the constant's name of OTHER; may be repeated.",
)
@click.option("-f", "--file", type=click.Path(), help="The registry; by default the nearest.")
def export(  # noqa: PLR0913, PLR0917 - an option each
    lang: str,
    output: str | None,
    check: bool,  # noqa: FBT001 - as click calls it
    place: str | None,
    renames: tuple[str, ...],
    file: str | None,
) -> int:
    """Write the names and keys of the registry as constants. No database is needed."""
    from advlock._registry import _export  # noqa: PLC0415 - not for --help
    from advlock._registry._registry import Registry  # noqa: PLC0415

    output = None if output == "-" else output
    if check and output is None:
        raise click.UsageError("--check compares a file; name it with -o")
    renamed = dict(map(_renamed, renames))
    _check_place(lang, place, output)
    registry = Registry.load(file)
    text = _export.export(registry, lang, place=place, renamed=renamed)
    data = text.encode()
    if output is None:
        click.echo(data, nl=False)  # bytes: a locale's encoding must not change a name
        return 0
    before = _read(output) if check or Path(output).is_file() else None
    if check:
        return _compare(output, before, text)
    if before != data:
        _write(output, data)
        say(f"wrote {_shown(output)}")
    return 0


def _renamed(given: str) -> tuple[str, str]:
    name, equals, other = given.rpartition("=")
    if not (name and equals and other):
        raise click.UsageError(
            f"--rename: {given!r} is not NAME=OTHER; write a=b to call a after b"
        )
    return name, other


def _check_place(lang: str, place: str | None, output: str | None) -> None:
    from advlock._registry import _export  # noqa: PLC0415 - not for --help
    from advlock.errors import ConfigError  # noqa: PLC0415

    try:
        _export.check_place(lang, place)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    own = (place or _export.LANGUAGES[lang].place or "").rpartition(".")[2]
    if lang == "java" and output is not None and Path(output).name != f"{own}.java":
        raise click.UsageError(
            f"javac wants the class {own} in a file {own}.java;"
            f" write -o {own}.java, or --in {Path(output).stem}"
        )


def _read(output: str) -> bytes | None:
    try:
        return Path(output).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot("read", output, error) from None


def _compare(output: str, before: bytes | None, text: str) -> int:
    if before == text.encode():
        return 0
    if before is None:
        say(f"{_shown(output)} is missing; run the same command without --check")
        return _DIFFERENT
    say(f"{_shown(output)} differs from the registry; run the same command without --check")
    lines = difflib.unified_diff(
        before.decode(errors="replace").splitlines(),
        text.splitlines(),
        _shown(output),
        "the registry",
        lineterm="",
        n=1,
    )
    for line in islice(lines, _SHOWN):
        say(_shown(line))
    if more := sum(1 for _ in lines):
        say(f"… and {more} lines more")
    return _DIFFERENT


def _write(output: str, data: bytes) -> None:
    """Put a whole file in the place of the old one: who reads it meanwhile reads one of the two."""
    target = Path(os.path.realpath(output))  # a link stays one
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # /dev/null has to stay what it is
            return
        with _temporary(target) as path:
            path.write_bytes(data)
            path.chmod(_mode(target))
            path.replace(target)
    except OSError as error:
        raise _cannot("write", output, error) from None


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _mode(target: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _cannot(what: str, output: str, error: OSError) -> Exception:
    from advlock.errors import ConfigError  # noqa: PLC0415 - not when nothing fails

    reason = (error.strerror or str(error)).lower()
    return ConfigError(f"cannot {what} {_shown(output)}: {reason}; name another file with -o")


def _shown(text: str) -> str:
    from advlock._registry._show import printable  # noqa: PLC0415 - not for --help

    return printable(text)
