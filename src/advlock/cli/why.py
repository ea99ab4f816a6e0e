"""`advlock why`: in plain words, why a lock is not free."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._database import as_json
from advlock.cli.locks._open import lock_name, looking, tell_hidden, where
from advlock.cli.locks._text import folded

if TYPE_CHECKING:
    from advlock._inspect._tree import LockTree, Snapshot
    from advlock.cli.locks._pick import Wanted

_WIDTH: Final = 96
_SOURCE: Final = re.compile(r"([\w.-]+/[\w.-]+)@(\w+):(\S+)")

EPILOG = """\
\b
Examples:
  advlock why nightly              who holds it, who waits, what if you end it
  advlock why 0/42/1               the same for a key, as pg_locks spells it
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=lock_name)
@as_json
@where
def why(name: str, as_json: bool, **options: Any) -> int:  # noqa: FBT001
    """Say in plain words why the lock NAME is not free, and what happens if you end its holder.

    NAME is a name, a tool, or a key in any spelling, as for `advlock ps`.
    """
    from advlock._inspect import _why  # noqa: PLC0415 - not for --help
    from advlock.cli.locks import _pick  # noqa: PLC0415

    with looking("advlock why", **options) as sight:
        (word,) = sight.wanted([name])
        every = sight.window.look()
        found = _pick.chosen(every, [word])[0]
        texts = [_why.explain(tree, every, source=_source(tree)) for tree in found.trees]
        close = _pick.close(name, every.trees)
    if not texts:
        texts = [_free(word, every, close)]
    texts = [folded(one) for one in texts]
    if as_json:
        _show_json(name, found, texts, close)
        return 0
    click.echo("\n\n".join(_wrapped(one) for one in texts))
    tell_hidden(found)
    return 0


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _columns(), break_long_words=False, break_on_hyphens=False)


def _columns() -> int:
    if not sys.stdout.isatty():
        return _WIDTH
    return min(_WIDTH, shutil.get_terminal_size().columns)


def _source(tree: LockTree) -> str:
    """Where a tool's own lock can be read: `owner/repository@commit:path`, as an address."""
    if tree.kind != "well-known" or tree.name is None:
        return ""
    from advlock._catalogue._entries import ENTRIES  # noqa: PLC0415 - for tools' locks

    of_tool = [entry for entry in ENTRIES if entry.tool == tree.name]
    same = [entry for entry in of_tool if tree.description.startswith(entry.meaning)] or of_tool
    match = _SOURCE.match(same[0].source) if same else None
    return "" if match is None else "https://github.com/{}/blob/{}/{}".format(*match.groups())


def _free(word: Wanted, seen: Snapshot, close: list[str]) -> str:
    from advlock._inspect import _why  # noqa: PLC0415 - not for --help

    entry = word.entry
    key = ""
    if word.keys and not word.spells_key:
        key = word.keys[0].sql
    return _why.free(
        word.word,
        seen.database,
        description=entry.description if entry else "",
        owner=entry.owner if entry else "",
        key=key,
        close=close,
    )


def _show_json(name: str, found: Snapshot, texts: list[str], close: list[str]) -> None:
    from advlock.cli.locks import _json  # noqa: PLC0415 - for those who ask for it

    click.echo(
        _json.text_of(
            {
                "asked": name,
                "at": _json.iso(found.at),
                "database": found.database,
                "role": found.role,
                "free": not found.trees,
                "text": "\n\n".join(texts),
                "locks": [_json.of_tree(tree) for tree in found.trees],
                "close": [] if found.trees else close,
                "hidden": found.hidden,
            }
        )
    )
