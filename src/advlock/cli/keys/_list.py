"""`advlock keys list`: every name of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from advlock.cli import _show as show
from advlock.cli._database import as_json
from advlock.cli._say import say

if TYPE_CHECKING:
    from advlock._registry._entry import Entry

_FILE = click.Path()


@click.command(name="list", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--file", type=_FILE, help="The registry; by default the nearest.")
@as_json
def list_(file: str | None, as_json: bool) -> int:  # noqa: FBT001
    """Show every name of the registry: its key, how SQL makes it, whose it is, what it protects.

    A template such as user:{id} has a key for each name that it matches.
    """
    from advlock._registry._registry import Registry  # noqa: PLC0415 - not for --help
    from advlock._registry._show import printable  # noqa: PLC0415

    registry = Registry.load(file)
    if as_json:
        entries = [describe(entry) for entry in registry.entries]
        show.as_json({"file": str(registry.path), "locks": entries})
        return 0
    if not registry.entries:
        say(f'{registry.path}: no names yet; below [locks] write nightly = "what it protects"')
        return 0
    rows = [[printable(cell) for cell in _cells(entry)] for entry in registry.entries]
    heads = ("NAME", "KEY", "SQL", "OWNER", "DESCRIPTION")
    click.echo("\n".join(show.table(heads, rows)))
    return 0


def _cells(entry: Entry) -> list[str]:
    return [entry.name, _number(entry), _sql(entry), entry.owner, entry.description]


def _number(entry: Entry) -> str:
    if entry.is_template:
        return "-"
    parts = entry.make().parts
    return ",".join(map(str, parts)) if isinstance(parts, tuple) else str(parts)


def _sql(entry: Entry) -> str:
    from advlock._registry._show import expression  # noqa: PLC0415 - not for --help

    return expression(entry.make())  # that of a template has its fields in it


def describe(entry: Entry) -> dict[str, Any]:
    """An entry for programs."""
    key = None if entry.is_template else entry.make()
    parts = None if key is None else key.parts
    return {
        "name": entry.name,
        "description": entry.description,
        "owner": entry.owner,
        "template": entry.is_template,
        "keys": entry.scheme if entry.key is None else None,
        "key": list(parts) if isinstance(parts, tuple) else parts,
        "sql": _sql(entry),
        "classid": key and key.classid,
        "objid": key and key.objid,
        "objsubid": key and key.objsubid,
    }
