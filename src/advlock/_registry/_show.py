"""What can be said about one name or one key without asking a database. Pure."""

from __future__ import annotations

import re
from math import expm1
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._key import Key
from advlock._registry import _show_sql, _template
from advlock._registry._reserved import reserved
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._key import Scheme
    from advlock._registry._entry import Entry
    from advlock._registry._registry import Registry

_NUMBER: Final = re.compile(r"[+-]?\d+", re.ASCII)
_HEX: Final = re.compile(r"0[xX]([0-9A-Fa-f]{1,16})", re.ASCII)
_PAIR: Final = re.compile(r"\(?\s*([+-]?\d+)\s*,\s*([+-]?\d+)\s*\)?", re.ASCII)
_COLUMNS: Final = re.compile(r"(\d+)/(\d+)/(\d+)", re.ASCII)
_LONGEST: Final = 40  # digits and blanks of a key, generously
_MANY: Final = (1_000, 1_000_000)


class Shown(NamedTuple):
    """One lock, with what is known about it.

    Attributes:
        name: What it is called, with its namespace; None if nobody says.

        key: What the server locks.

        entries: What the registry has under that name or key.

        statements: SQL to `take`, `try`, `release` and `find` it.

        odds: For so many names, how likely two of them have one key; empty for a fixed key.
    """

    name: str | None
    key: Key
    entries: tuple[Entry, ...]
    statements: dict[str, str]
    odds: dict[int, float]


def read_key(text: str) -> Key | None:
    """Read a key in any of its spellings; None for what can only be a name.

    `42`, `-7`, `0xffffffffffffff85`, `7,42`, `(7, 42)`, and `classid/objid/objsubid` as `pg_locks`
    has them.

    Raises:
        ConfigError: it is spelled as a key and out of range.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if match := _HEX.fullmatch(text):
        number = int(match[1], 16)
        return Key.of(number - (number >> 63 << 64))
    if _NUMBER.fullmatch(text):
        return Key.of(int(text))
    if match := _PAIR.fullmatch(text):
        return Key.of((int(match[1]), int(match[2])))
    if match := _COLUMNS.fullmatch(text):
        return Key.from_pg(*map(int, match.groups()))
    return None


def show_key(key: Key, registry: Registry | None) -> Shown:
    """Say what is known about a key."""
    entries = () if registry is None else registry.of_key(key)
    named = [made for entry in entries if (made := entry.make()).name is not None]
    return _shown(named[0] if len(entries) == 1 and named else key, entries, registry)


def show_name(
    name: str, registry: Registry | None, *, namespace: str | None, keys: Scheme | None
) -> Shown:
    """Say what is known about a name.

    Args:
        name: As a client would be given it.
        registry: It may have a fixed key, or another scheme, for the name.
        namespace: The client's; None for the registry's.
        keys: The key scheme; None for what the registry says.

    Raises:
        ConfigError: it cannot be a name, or is a template.
    """
    if namespace is None:
        namespace = "" if registry is None else registry.namespace
    full = f"{namespace}:{name}" if namespace and name else name
    entry = None
    if registry is not None and not reserved(name):
        if any(
            entry.is_template and name in (entry.name, entry.full) for entry in registry.entries
        ):
            example = _template.filled(name, "7")
            raise ConfigError(f"{name!r} stands for many names; show one of them, as {example!r}")
        entry = registry.find_full(full)
    if keys is None and entry is not None:
        key = entry.make(full)
    else:
        default: Scheme = "hashtextextended" if registry is None else registry.keys
        key = Key.of(full, scheme=keys or default)
    entries = dict.fromkeys(() if registry is None else registry.of_key(key))
    if entry is not None and entry.make(full) == key:  # or `keys` made another lock of it
        entries = {entry: None} | entries
    return _shown(key, tuple(entries), registry, name=full)


def _shown(
    key: Key, entries: tuple[Entry, ...], registry: Registry | None, name: str | None = None
) -> Shown:
    if name is None:
        name = key.name or (entries[0].full if len(entries) == 1 else None)
    odds = {}
    if key.name is not None:
        bits = 32 if key.scheme == "hashtext" else 64
        here = () if registry is None else [e for e in registry.entries if e.key is None]
        odds = {count: odds_of(count, bits) for count in sorted({len(here), *_MANY} - {0, 1})}
    return Shown(name, key, entries, statements(key), odds)


def odds_of(count: int, bits: int) -> float:
    """How likely two of so many names have one key of so many bits."""
    return -expm1(-count * (count - 1) / 2 / 2**bits)


def statements(key: Key) -> dict[str, str]:
    """The SQL to take, try, release and find a lock, each to be pasted into psql as it is."""
    written = expression(key)
    value = Key.of(key.value).sql if key.pair else written
    return {
        "take": _show_sql.TAKE.format(key=written),
        "try": _show_sql.TRY.format(key=written),
        "release": _show_sql.RELEASE.format(key=written),
        "find": _show_sql.FIND.format(objsubid=key.objsubid, value=value),
    }


def expression(key: Key) -> str:
    """The arguments of `pg_advisory_lock(…)`: `Key.sql`, fit for any terminal and any server."""
    if key.name is None:
        return key.sql
    seed = f", {key.seed}" if key.scheme == "hashtextextended" else ""
    return f"{key.scheme}({literal(key.name)}{seed})"


def literal(text: str) -> str:
    r"""A text in SQL, of printable characters only.

    With a backslash in it, it is an `E'…'`, which means the same whatever the server's
    `standard_conforming_strings` is.
    """
    if text.isprintable() and "\\" not in text:
        return "'" + text.replace("'", "''") + "'"
    return "E'" + "".join(map(_escaped, text)) + "'"


def _escaped(char: str) -> str:
    if char in "'\\":
        return char * 2
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"  # noqa: PLR2004


def printable(text: str) -> str:
    """A text for a terminal: what would move its cursor or change its colours is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
