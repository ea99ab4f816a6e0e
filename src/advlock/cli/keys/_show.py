"""`advlock keys show`: from a name to its key, from a key to its name, and the SQL for both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli import _show as output
from advlock.cli._database import as_json, text
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._catalogue._entry import Known
    from advlock._registry._registry import Registry
    from advlock._registry._show import Shown

_NEGATIVE: Final = re.compile(r"-\d[\d,\s-]*")
_VALUED: Final = ("-f", "--file", "--keys", "--namespace")
_WIDTH: Final = 12

EPILOG = """\
\b
A KEY is a number, 42 or -7 or 0x2a; two of them, 7,42; or classid/objid/objsubid
as pg_locks has them. Anything else is a name; --name makes a name of these, too.
No database is needed. Names are hashed as a UTF8 database does.
"""


class _Show(click.Command):
    """A command whose argument may be a negative number, which is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            for before, arg in zip(["", *args], args, strict=False):
                if _NEGATIVE.fullmatch(arg) and before not in _VALUED:
                    args.remove(arg)
                    args += ["--", arg]
                    break
        return super().parse_args(ctx, args)


@click.command(cls=_Show, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", metavar="NAME|KEY")
@click.option("--name", "is_name", is_flag=True, help="Read it as a name, even if it is a number.")
@click.option(
    "--keys",
    type=click.Choice(["hashtextextended", "hashtext"]),
    help="How a name becomes a key; by default what the registry says, or 64 bits.",
)
@click.option("--namespace", help="Put before a name; by default the registry's.")
@click.option("-f", "--file", type=click.Path(), help="The registry; by default the nearest.")
@as_json
def show(what: str, is_name: bool, file: str | None, as_json: bool, **given: Any) -> int:  # noqa: FBT001
    """Show a lock: its key in every spelling, whose it is, and the SQL to take and find it.

    NAME is what a client is given, and KEY what the server has.
    """
    from advlock._registry import _load  # noqa: PLC0415 - not for --help
    from advlock.cli.keys._known import catalogue  # noqa: PLC0415

    registry = _load.load(file)
    shown = _found(text(what), registry, is_name=is_name, **given)
    known = catalogue()(shown.key)
    if as_json:
        output.as_json(_as_dict(shown, known))
    else:
        click.echo("\n".join(_lines(shown, known, registry)))
    return 0


def _found(
    what: str, registry: Registry | None, *, is_name: bool, keys: Any, namespace: str | None
) -> Shown:
    from advlock._registry import _show  # noqa: PLC0415 - not for --help

    try:
        key = None if is_name else _show.read_key(what)
        if key is None:
            namespace = None if namespace is None else text(namespace)
            return _show.show_name(what, registry, namespace=namespace, keys=keys)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if keys or namespace is not None:
        raise click.UsageError(f"{what} is a key; add --name if it is a name that is meant")
    return _show.show_key(key, registry)


def _lines(shown: Shown, known: tuple[Known, ...], registry: Registry | None) -> Iterator[str]:
    from advlock._registry._show import printable  # noqa: PLC0415 - not for --help

    key = shown.key
    yield click.style(printable(shown.name or str(key)), bold=True)
    for head, value in _facts(shown, known, registry):
        yield f"  {head:<{_WIDTH}}{printable(value)}"
    for head, statement in shown.statements.items():
        yield f"  {head:<{_WIDTH}}{statement}"
    for number, (count, odds) in enumerate(shown.odds.items()):
        head = "" if number else "odds"
        yield f"  {head:<{_WIDTH}}{count:,} names: {odds:.2g} that two of them have one key"


def _facts(
    shown: Shown, known: tuple[Known, ...], registry: Registry | None
) -> Iterator[tuple[str, str]]:
    from advlock._registry import _load, _show  # noqa: PLC0415 - not for --help

    key = shown.key
    parts = key.parts if isinstance(key.parts, tuple) else (key.parts,)
    if key.name is not None:
        yield "made by", _show.expression(key)
    yield "key", ", ".join(map(str, parts))
    yield "pg_locks", f"{key.classid}/{key.objid}/{key.objsubid}  (classid/objid/objsubid)"
    if key.name is not None and not key.name.isascii():
        yield "encoding", "UTF8; in a database of another encoding the key is another one"
    for entry in shown.entries:
        assert registry is not None
        place = _load.display(registry.path) if registry.path else "the registry"
        owner = f", owner {entry.owner}" if entry.owner else ""
        about = f": {entry.description}" if entry.description else ""
        yield "registry", f"{entry.name}{about} ({place}{owner})"
    for one in known:
        yield "well-known", f"{'' if one.certain else 'perhaps '}{one}"


def _as_dict(shown: Shown, known: tuple[Known, ...]) -> dict[str, Any]:
    from advlock._registry._show import expression  # noqa: PLC0415 - not for --help
    from advlock.cli.keys._list import describe  # noqa: PLC0415

    key = shown.key
    return {
        "name": shown.name,
        "key": list(key.parts) if isinstance(key.parts, tuple) else key.parts,
        "keys": None if key.name is None else key.scheme,
        "sql": expression(key),
        "classid": key.classid,
        "objid": key.objid,
        "objsubid": key.objsubid,
        "statements": shown.statements,
        "registry": [describe(entry) for entry in shown.entries],
        "well_known": [
            {"tool": one.tool, "meaning": one.meaning, "certain": one.certain} for one in known
        ],
        "odds": [{"names": count, "collision": odds} for count, odds in shown.odds.items()],
    }
