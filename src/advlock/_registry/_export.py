"""Constants of the registry, for programs in any language. Pure.

What comes out depends on nothing but the registry: no date, no version, no path, and no order but
that of the names. Whatever stands in a registry, the result means just that, and compiles.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._registry import (
    _export_go,
    _export_java,
    _export_python,
    _export_ruby,
    _export_sql,
    _export_typescript,
)
from advlock._registry._export_words import Item, prose
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advlock._registry._registry import Registry


class Language(NamedTuple):
    """How one language is written.

    Attributes:
        names: The identifiers that an item declares.

        render: The file: of the items, of what was said of its origin, and of where they stand.

        place: What they stand in unless somebody says otherwise, such as a package; None where a
            file is enough.

        check_place: Raises ConfigError for what they cannot stand in.
    """

    names: Callable[[Item], tuple[str, ...]]
    render: Callable[[Sequence[Item], str, str], str]
    place: str | None = None
    check_place: Callable[[str], None] | None = None


LANGUAGES: Final[Mapping[str, Language]] = {
    "python": Language(_export_python.names, _export_python.render),
    "sql": Language(_export_sql.names, _export_sql.render, "locks", _export_sql.check_place),
    "typescript": Language(_export_typescript.names, _export_typescript.render),
    "go": Language(_export_go.names, _export_go.render, "locks", _export_go.check_place),
    "ruby": Language(_export_ruby.names, _export_ruby.render, "Locks", _export_ruby.check_place),
    "java": Language(
        _export_java.names, _export_java.render, "locks.Locks", _export_java.check_place
    ),
}


def export(
    registry: Registry,
    language: str,
    *,
    place: str | None = None,
    renamed: Mapping[str, str] | None = None,
) -> str:
    """Write the constants of a registry in a language.

    Args:
        registry: The registry.
        language: One of `LANGUAGES`.
        place: The schema, package, class or module they stand in; None for the usual one.
        renamed: For names of the registry, what their identifiers are made of instead.

    Raises:
        ConfigError: there is nothing to export, two names would be called the same, or the place
            is none; the message has the way out.
    """
    how = LANGUAGES[language]
    check_place(language, place)
    source = "the registry" if registry.path is None else prose(registry.path.name)
    if not registry.entries:
        raise ConfigError(f"{source} names no lock; write one below [locks], then export it")
    items = _items(registry, renamed or {})
    _check_names(items, how)
    return how.render(items, source, place or how.place or "")


def check_place(language: str, place: str | None) -> None:
    """Refuse what constants of a language cannot stand in; None is the usual place.

    Raises:
        ConfigError: with what to write instead.
    """
    check = LANGUAGES[language].check_place
    if place is None:
        return
    if check is None:
        raise ConfigError(f"in {language} the file is all that constants stand in; leave --in out")
    check(place)


def _items(registry: Registry, renamed: Mapping[str, str]) -> list[Item]:
    known = {entry.name for entry in registry.entries}
    for name in renamed:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see advlock keys list"
            raise ConfigError(f"--rename: the registry has no {name!r}; {hint}")
    items = [Item.of(entry, renamed.get(entry.name)) for entry in registry.entries]
    # One key each first, then functions; by code points, which no locale changes.
    return sorted(items, key=lambda item: (bool(item.texts), item.entry.name))


def _check_names(items: Sequence[Item], how: Language) -> None:
    first: dict[str, Item] = {}
    for item in items:
        for name in how.names(item):
            other = first.setdefault(name, item)
            if other is not item:
                mine, theirs = item.entry.name, other.entry.name
                raise ConfigError(
                    f"{theirs!r} and {mine!r} would both be called {name}; if they are not one"
                    f" lock by mistake, call one differently: --rename {mine!r}=OTHER"
                )
