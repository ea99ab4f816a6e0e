"""`advlock ps`: every lock by its name, who holds it, and who waits."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._database import as_json
from advlock.cli._say import say
from advlock.cli.exits import Exit, signalled
from advlock.cli.locks._open import encodes, lock_name, looking, pause, tell_hidden, where
from advlock.cli.locks._text import cut, visible

if TYPE_CHECKING:
    from advlock._inspect._tree import LockTree, Snapshot
    from advlock.cli.locks._pick import Wanted

_EVERY: Final = "2"
_LEFT_OUT = " … {} more lines; name a lock, or make the window larger"

EPILOG = """\
\b
NAME: a name of the registry, of a template (user:7) or any other; the template
itself (user:{id}), for all of its names; a key (42, 1,2, or 0/42/1 as in
pg_locks); or the tool whose lock it is.

\b
Examples:
  advlock ps                       everything, waiters under whom they wait for
  advlock ps --waiting --watch     what is stuck, every two seconds
  advlock ps --json | jq '.locks[] | select(.waiters != [])'
"""


def exit_codes() -> list[tuple[str, str]]:
    """What `ps` says with its exit code."""
    return [
        ("0", "shown, even if there was nothing to show"),
        ("1", "locks were named, and nobody holds or waits for any of them"),
        ("64", Exit.USAGE.meaning),
        ("69", "the database cannot be reached (--watch: it could not at the start)"),
        ("78", "bad configuration"),
        ("128+n", "signal n ended it, as Ctrl-C does --watch (130)"),
    ]


class _Ps(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(exit_codes())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave a name alone that stands behind --watch: the seconds may be left out."""
        whole: list[str] = []
        for number, word in enumerate(args):
            if word == "--":
                return super().parse_args(ctx, [*whole, *args[number:]])
            after = args[number + 1 : number + 2]
            if word in {"-w", "--watch"} and not (after and after[0][:1] in "0123456789."):
                word = f"--watch={_EVERY}"  # noqa: PLW2901 - as if it were typed
            whole.append(word)
        return super().parse_args(ctx, whole)


@click.command(cls=_Ps, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[NAME]...", nargs=-1, type=lock_name)
@click.option("--waiting", is_flag=True, help="Only locks that somebody waits for.")
@click.option("--mine", is_flag=True, help="Only locks that sessions of this role have to do with.")
@click.option("--all-databases", is_flag=True, help="Locks of all databases of the server.")
@click.option(
    "-w",
    "--watch",
    metavar="[SECONDS]",
    type=pause,
    help=f"Again every so many seconds ({_EVERY}, if left out); q and Enter end it.",
)
@as_json
@where
def ps(
    names: tuple[str, ...],
    watch: float | None,
    as_json: bool,  # noqa: FBT001
    **options: Any,
) -> int:
    """Show every lock: its name, who holds it since when, and who waits.

    One line for each session; waiters stand under whom they wait for.
    """
    only = (options.pop("waiting"), options.pop("mine"))
    with looking("advlock ps", **options) as sight:
        words = sight.wanted(names)

        def look() -> tuple[Snapshot, list[Wanted]]:
            return _chosen(sight.window.look(), words, *only)

        filtered = bool(names or any(only))
        show = _Show(databases=options["all_databases"], as_json=as_json, filtered=filtered)
        try:
            if watch is None:
                return _once(*look(), show, names=bool(names))
            from advlock.cli.locks import _watch  # noqa: PLC0415 - for those who watch

            show.every = watch
            screen = _watch.on_screen() and not as_json
            draw = show.screen if screen else show.block
            return _watch.watch(lambda: look()[0], draw, watch, screen=screen)
        except BrokenPipeError:  # `… | head`: click would make it 1, which means another thing
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return signalled(signal.SIGPIPE)


def _chosen(
    seen: Snapshot,
    words: list[Wanted],
    waiting: bool,  # noqa: FBT001
    mine: bool,  # noqa: FBT001
) -> tuple[Snapshot, list[Wanted]]:
    from dataclasses import replace  # noqa: PLC0415 - not for --help

    from advlock.cli.locks import _pick  # noqa: PLC0415

    seen, missing = _pick.chosen(seen, words)
    if waiting:
        seen = replace(seen, trees=tuple(tree for tree in seen.trees if tree.waiters))
    if mine:
        seen = replace(seen, trees=tuple(t for t in seen.trees if _is_of(t, seen.role)))
    return seen, missing


def _is_of(tree: LockTree, role: str) -> bool:
    return any(session.user == role for session in (*tree.holders, *tree.waiters))


def _once(seen: Snapshot, missing: list[Wanted], show: _Show, *, names: bool) -> int:
    click.echo("\n".join(lines)) if (lines := show.once(seen)) else None
    for word in missing:
        say(f"{visible(word.word)} is free: nobody holds it, and nobody waits for it")
    if not seen.trees and not names:
        say(f"there are no advisory locks{show.like} in {_place(seen, show)}")
    tell_hidden(seen)
    return int(names and not seen.trees)


def _place(seen: Snapshot, show: _Show) -> str:
    return "any database" if show.databases else f"database {visible(seen.database)}"


class _Show:
    """How what was seen is shown."""

    def __init__(self, *, databases: bool, as_json: bool, filtered: bool) -> None:
        self.databases = databases
        self.as_json = as_json
        self.every = 0.0
        self.like = " like that" if filtered else ""

    def once(self, seen: Snapshot) -> list[str]:
        """The lines for one look."""
        if self.as_json:
            from advlock.cli.locks import _json  # noqa: PLC0415 - for those who ask for it

            return list(_json.of_snapshot(seen))
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        return self._table(seen, columns)

    def block(self, seen: Snapshot | None, _: str | None) -> list[str]:
        """The lines for one of many looks, into a pipe."""
        assert seen is not None
        if self.as_json:
            from advlock.cli.locks import _json  # noqa: PLC0415 - for those who ask for it

            return [_json.in_one_line(seen)]
        return [f"{seen.at.astimezone():%Y-%m-%d %H:%M:%S}", *self._table(seen, None), ""]

    def screen(self, seen: Snapshot | None, trouble: str | None) -> list[str]:
        """The lines for one of many looks, on a terminal: no more than it has."""
        assert seen is not None
        columns, rows = shutil.get_terminal_size()
        rows -= 1  # the cursor's own
        lines = [self._title(seen, trouble, columns), *self._table(seen, columns)]
        if not seen.trees:
            lines.append(f"no advisory locks{self.like} in {_place(seen, self)}")
        lines += [click.style(cut(visible(one), columns), dim=True) for one in seen.hidden]
        if len(lines) > rows:
            more = _LEFT_OUT.format(len(lines) - rows + 1)
            lines[rows - 1 :] = [click.style(cut(more, columns), dim=True)]
        return lines

    def _title(self, seen: Snapshot, trouble: str | None, columns: int) -> str:
        at = f"{seen.at.astimezone():%H:%M:%S}"
        if trouble is not None:
            words = f"{at}, and since then lost the database, trying again: {visible(trouble)}"
            return click.style(cut(words, columns), "red", bold=True)
        count = len(seen.trees)
        stuck = sum(1 for tree in seen.trees if tree.waiters)
        words = f"{at}  {_place(seen, self)}  role {visible(seen.role)}  "
        words += f"{count} lock{'s' * (count != 1)}, {stuck} waited for  every {self.every:g} s"
        return cut(words, columns)

    def _table(self, seen: Snapshot, columns: int | None) -> list[str]:
        from advlock.cli.locks import _lines, _table  # noqa: PLC0415 - not for JSON

        drawn = encodes("├─└│…")
        twigs, mark = (_lines.DRAWN, "…") if drawn else (_lines.ASCII, "..")
        found = list(_lines.lines(seen.trees, twigs))
        if not found:
            return []
        return _table.table(found, seen.at, columns=columns, databases=self.databases, mark=mark)
