"""What is wrong with a registry that can be read: keys that meet, names that nobody declared. Pure.

Files are read by others; here is what is said about what stands in them.
"""

from __future__ import annotations

import difflib
import unicodedata
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from advlock._key import Key
from advlock._registry import _template
from advlock._registry._names import toml_key
from advlock._registry._reserved import RESERVED, reserved
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from advlock._registry._entry import Entry
    from advlock._registry._registry import Registry
    from advlock._registry._sources import Use

Severity: TypeAlias = Literal["error", "warning", "note"]
WellKnown: TypeAlias = "Callable[[Key], Iterable[tuple[str, bool]]]"

# A character that no name and no template has, to fill fields with.
_FILLER: Final = "\ue000"


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        code: What kind it is of, for programs.

        severity: `error`, or `warning` for what is allowed and probably not meant, or `note`.

        message: What it is, and what to do about it.

        file: Where; None for the registry's own file.

        line: On which line, from 1; None if it is on none.
    """

    code: str
    severity: Severity
    message: str
    file: str | None = None
    line: int | None = None


def check(registry: Registry, well_known: WellKnown) -> Iterator[Finding]:
    """Yield what is wrong with the registry itself.

    Args:
        registry: With the lines of its entries.
        well_known: Says which tools take a key, each with whether that is certain.
    """
    for found in registry.collisions():
        last = max(found.entries, key=lambda entry: entry.line or 0)
        instead = "give one of them another key, or another name"
        yield Finding("collision", "error", f"{found}; {instead}", line=last.line)
    for entry in registry.entries:
        yield from _reserved(entry)
    for key, entries in registry.by_key().items():
        for tool, certain in well_known(key):
            yield _meets(entries[0], key, tool, certain=certain)
    yield from _overlaps([entry for entry in registry.entries if entry.is_template])
    yield from _similar(registry.entries)


def _meets(entry: Entry, key: Key, tool: str, *, certain: bool) -> Finding:
    may = "is" if certain else "may be"
    return Finding(
        "well-known",
        "error" if certain else "warning",
        f"the key of {entry.name!r}, {key.parts}, {may} one that others take: {tool}; "
        "give it another key, unless you mean that very lock",
        line=entry.line,
    )


def _reserved(entry: Entry) -> Iterator[Finding]:
    for template, meaning in RESERVED.items():
        shared = _template.common(entry.name, template)
        if reserved(entry.name) == meaning or shared is not None:
            shown = shared if entry.is_template and shared else entry.name
            what = f"{entry.name!r}" if shown == entry.name else f"{entry.name!r} matches {shown!r}"
            yield Finding(
                "reserved",
                "error",
                f"{what}: such names are advlock's own ({meaning}), whatever is said here; "
                "begin it with another word",
                line=entry.line,
            )
            return  # a template may match several of them


def _overlaps(templates: list[Entry]) -> Iterator[Finding]:
    for one, other in combinations(templates, 2):
        shared = _template.common(one.name, other.name)
        if shared is not None:
            yield Finding(
                "overlap",
                "error",
                f"{one.name!r} and {other.name!r} both match {shared!r}, so it is open which is "
                "meant; make them one, or begin them with different words",
                line=max(one.line or 0, other.line or 0) or None,
            )


def _similar(entries: Iterable[Entry]) -> Iterator[Finding]:
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.name != entry.name.strip():
            yield Finding(
                "blank",
                "warning",
                f"{entry.name!r} begins or ends with a blank, which is part of the name; "
                "leave it out, unless the lock is really called so",
                line=entry.line,
            )
        plain = "".join(unicodedata.normalize("NFKC", entry.name).casefold().split())
        first = seen.setdefault(plain, entry)
        if first is not entry:
            yield Finding(
                "similar",
                "warning",
                f"{entry.name!r} and {first.name!r} look alike and are two locks, as names are "
                "compared to the letter; leave one of them out",
                line=entry.line,
            )


# -- names in sources ------------------------------------------------------------------------------


def compare(registry: Registry, uses: Iterable[Use]) -> Iterator[Finding]:
    """Yield which names are used and not declared, declared and not used, or cannot be known."""
    used: set[str] = set()
    for use in uses:
        if use.name is None:
            yield Finding(
                "unknown",
                "note",
                f"which name {use.said} is cannot be known by reading",
                use.file,
                use.line,
            )
            continue
        found = _declared(registry, use.name)
        used |= {entry.name for entry in found}
        if not found and not (isinstance(use.name, str) and reserved(use.name)):
            yield _undeclared(registry, use, use.name)
        yield from _other_key(registry, use)
    for entry in registry.entries:
        if entry.name not in used and not reserved(entry.name):
            yield Finding(
                "unused",
                "warning",
                f"{entry.name!r} is used nowhere in what was scanned; scan more, or leave it out",
                line=entry.line,
            )


def _declared(registry: Registry, name: str | int | tuple[int, int]) -> list[Entry]:
    """The entries that a used name, which may be a template itself, belongs to."""
    if not isinstance(name, str):
        try:
            key = Key.of(name)
        except ConfigError:
            return []
        return [entry for entry in registry.of_key(key) if entry.key is not None]
    if not _template.is_template(name):
        found = registry.find(name)
        return [] if found is None else [found]
    if covering := registry.find(_template.filled(name, _FILLER)):
        return [covering]
    # `f"{env}-deploy"` where the registry has `prod-deploy` and `test-deploy`.
    return [
        entry
        for entry in registry.entries
        if not entry.is_template
        and (_template.common(entry.name, name) or _template.common(entry.full, name))
    ]


def _other_key(registry: Registry, use: Use) -> Iterator[Finding]:
    """What makes a key of a name by itself has to make the registry's, or nobody is excluded."""
    if use.made is None or not isinstance(use.name, str) or reserved(use.name):
        return
    name = _template.filled(use.name, _FILLER)
    entry = registry.find(name)
    if entry is None:
        return
    before = "" if entry.matches(name) else f"{entry.namespace}:"
    try:
        same = Key.of(name, scheme=use.made) == entry.make(before + name)
    except ConfigError:  # an empty name, or one that is none
        return
    if not same:
        of = "Key.hashtext" if entry.scheme == "hashtext" else "Key.of"
        key = f"Key.of({entry.key.parts})" if entry.key else f"{of}({before + use.name!r})"
        yield Finding(
            "other-key",
            "error",
            f"{use.said} is {use.made}({use.name!r}) here, whatever the registry says, and what"
            f" it says of {entry.name!r} is another key; write {key}",
            use.file,
            use.line,
        )


def _undeclared(registry: Registry, use: Use, name: str | int | tuple[int, int]) -> Finding:
    if isinstance(name, str):
        known = [entry.name for entry in registry.entries]
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {close[0]!r}? If not, " if close else ""
        line = f'{toml_key(name)} = "what it protects"'
    else:
        meant = ""
        key = list(name) if isinstance(name, tuple) else name
        line = f'some-name = {{key = {key}, description = "what it protects"}}'
    return Finding(
        "undeclared",
        "error",
        f"{name!r} is not in the registry; {meant}add to its [locks]: {line}",
        use.file,
        use.line,
    )
