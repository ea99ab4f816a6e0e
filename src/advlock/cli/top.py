"""`advlock top`: every lock, live."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._say import say
from advlock.cli.exits import Exit, signalled
from advlock.cli.locks._open import lock_name, pause, where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._dsn import Dsn
    from advlock._inspect._tree import Snapshot
    from advlock._inspect._window import Window
    from advlock._registry._registry import Registry

_LIGHT_GROUNDS: Final = {"7", "15"}  # as terminals that say what they look like number colours
_GOODBYE: Final = 0.2  # seconds that a server is given to notice that we go

EPILOG = """\
\b
Keys: ? shows them all, q quits.
Without a terminal, or without the extra `tui`, it is `advlock ps --watch`.
"""


def exit_codes() -> list[tuple[str, str]]:
    """What `top` says with its exit code."""
    return [
        ("0", "somebody has seen enough"),
        ("64", Exit.USAGE.meaning),
        ("69", "the database could not be reached at the start"),
        ("78", "bad configuration"),
        ("128+n", "signal n ended it"),
    ]


class _Top(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(exit_codes())


@click.command(cls=_Top, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NAME]...", nargs=-1, type=lock_name)
@click.option("--waiting", is_flag=True, help="Only locks that somebody waits for.")
@click.option("--all-databases", is_flag=True, help="Locks of all databases of the server.")
@click.option(
    "--refresh",
    metavar="DURATION",
    type=pause,
    default="1s",
    show_default=True,
    help="How long to wait between two looks.",
)
@click.option("--plain", is_flag=True, help="A plain table, as ps --watch shows it.")
@where
def top(
    names: tuple[str, ...],
    plain: bool,  # noqa: FBT001
    refresh: float,
    **options: Any,
) -> int:
    """Show every lock live: filter, sort, see why, and end who holds one.

    Names are those of `advlock ps`.
    """
    if plain or not _full_screen():
        from advlock.cli.ps import ps  # noqa: PLC0415 - the other way to show it

        watched = {"watch": refresh, "mine": False, "as_json": False}
        code: int = click.get_current_context().invoke(ps, names=names, **watched, **options)
        return code
    return _run(names, refresh, **options)


def _full_screen() -> bool:
    """Whether there is a terminal for it, and what draws on one; says what is missing."""
    if not (sys.stdout.isatty() and sys.stdin is not None and sys.stdin.isatty()):
        return False
    if os.environ.get("TERM", "dumb") == "dumb":
        return False
    if importlib.util.find_spec("textual") is None:
        say("this is the plain table; for the full screen: pip install 'advlock[tui]'")
        return False
    return True


def _run(
    names: tuple[str, ...],
    refresh: float,
    *,
    waiting: bool,
    all_databases: bool,
    registry: str | None,
    **database: Any,
) -> int:
    from advlock._registry._load import load  # noqa: PLC0415 - not for --help
    from advlock.cli._database import opened  # noqa: PLC0415
    from advlock.cli._top._app import Top  # noqa: PLC0415
    from advlock.cli._top._picture import Options  # noqa: PLC0415

    known = load(registry)
    options = Options(refresh, waiting, all_databases, _light(), len(names))
    with opened(**database) as there:
        door = _Door(there, known, names)
        app = Top(door.open, options, door.pick)
        try:
            app.run()
        finally:
            app.feed.stop(within=_GOODBYE)
    if app.failure is not None:
        raise app.failure
    return 0 if app.signum is None else signalled(app.signum)


def _light() -> bool:
    """Whether the terminal says that its ground is light; rxvt, Konsole and iTerm2 do."""
    return os.environ.get("COLORFGBG", "").rpartition(";")[2] in _LIGHT_GROUNDS


class _Door:
    """Opens windows, and knows which locks were asked for."""

    def __init__(self, dsn: Dsn, registry: Registry | None, names: tuple[str, ...]) -> None:
        self._dsn, self._registry, self._names = dsn, registry, names
        self._window: Window | None = None

    @contextlib.contextmanager
    def open(self, all_databases: bool) -> Iterator[Window]:  # noqa: FBT001 - as the feed calls it
        """A window on this database, or on all of the server."""
        from advlock._inspect._window import Window  # noqa: PLC0415 - not for --help

        with Window(
            self._dsn,
            registry=self._registry,
            all_databases=all_databases,
            application_name="advlock top",
        ) as window:
            self._window = window
            yield window

    def pick(self, seen: Snapshot) -> Snapshot:
        """Of what was seen, what was asked for: names become keys in the server's encoding."""
        from advlock.cli.locks import _pick  # noqa: PLC0415 - for those who name a lock
        from advlock.cli.locks._open import Sight  # noqa: PLC0415

        if not self._names or self._window is None:
            return seen
        return _pick.chosen(seen, Sight(self._window, self._registry).wanted(self._names))[0]
