"""Read the registry from its file, or say everything that is wrong with it, with lines. Pure."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from advlock import _dsn
from advlock._cron._keys import hint, kind, shown
from advlock._cron._problems import Problem
from advlock._cron._where import lines_of
from advlock._key import Key, Scheme
from advlock._registry import _template
from advlock._registry._entry import Entry
from advlock._registry._registry import Registry
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FIELDS: Final = ("description", "owner", "keys", "key")
_SCHEMES: Final = get_args(Scheme)
_EXAMPLE: Final = '"what it protects"'
# What it is called elsewhere, and in people's heads.
_ALSO: Final = {
    "desc": "description",
    "doc": "description",
    "comment": "description",
    "note": "description",
    "purpose": "description",
    "team": "owner",
    "contact": "owner",
    "scheme": "keys",
    "hash": "keys",
    "function": "keys",
    "id": "key",
    "number": "key",
    "value": "key",
    "fixed": "key",
}


class BadRegistry(ConfigError):  # noqa: N818 - as in errors.py: it says what happened
    """A registry cannot be right; `problems` has all that is wrong with it, by line."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(map(str, ordered)), problems=ordered)


def load(path: str | Path | None = None, *, lines: bool = False) -> Registry | None:
    """Read a registry.

    Args:
        path: Its file, which must have one. None for the nearest `advlock.toml`, or
            `pyproject.toml` with a table `[tool.advlock]`: the file that may name the database,
            too.

        lines: Whether the entries shall know where they stand.

    Returns:
        The registry; None when the nearest file has none, or there is no file.

    Raises:
        ConfigError: the file cannot be read.
        BadRegistry: something in it is wrong.
    """
    if path is None:
        settings, found = _dsn.find_settings()
        if found is None or "locks" not in settings:
            return None
        return read(settings, found, lines=lines)
    given = Path(path)
    table = _dsn.read_settings(given)
    if table is not None and "locks" in table:
        return read(table, given, lines=lines)
    if not given.exists():
        raise ConfigError(f"{given}: no such file; name an advlock.toml or a pyproject.toml")
    wanted = ".".join((*_above(given), "locks"))
    raise ConfigError(f'{given}: has no table [{wanted}]; write it, and below it nightly = "…"')


def read(settings: Mapping[str, Any], path: Path, *, lines: bool = False) -> Registry:
    """Make a registry of settings that were read from `path` and have a table `locks`.

    Raises:
        BadRegistry: with all that is wrong.
    """
    return _File(path).read(settings, lines=lines)


def display(path: Path) -> str:
    """A path for people: short where it is near."""
    with suppress(ValueError, OSError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _above(path: Path) -> tuple[str, ...]:
    return ("tool", "advlock") if path.name == "pyproject.toml" else ()


class _File:
    """One reading of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[Problem] = []

    def read(self, settings: Mapping[str, Any], *, lines: bool) -> Registry:
        namespace = self._text(settings, "namespace", ())
        keys = self._scheme(settings, (), "hashtextextended")
        table = settings["locks"]
        if not isinstance(table, dict):
            example = f"[locks] and below it nightly = {_EXAMPLE}"
            self._problem(("locks",), f"locks is {kind(table)}; write {example}")
            table = {}
        entries = [self._entry(name, value, namespace, keys) for name, value in table.items()]
        if self._problems:
            raise BadRegistry(self._problems)
        if lines:
            entries = [
                Entry(e.name, e.description, e.owner, e.scheme, e.key, e.namespace, self._at(where))
                for e in entries
                for where in [("locks", e.name)]
            ]
        return Registry(entries, path=self._path, namespace=namespace, keys=keys)

    def _entry(self, name: str, value: object, namespace: str, keys: Scheme) -> Entry:
        where = ("locks", name)
        try:
            _template.check(name)
            Key.of(name, namespace=namespace)
        except ConfigError as error:
            self._problem(where, f"{shown(name)}: {error}")
        if isinstance(value, str):
            return Entry(name, value, scheme=keys, namespace=namespace)
        if not isinstance(value, dict):
            instead = f"a description in quotes, or {{description = {_EXAMPLE}}}"
            if isinstance(value, int | list) and not isinstance(value, bool):
                instead = f"{{key = {shown(value)}}} for a fixed key"
            self._problem(where, f"{shown(name)} is {kind(value)}; write {instead}")
            return Entry(name)
        self._only(name, value, where)
        return Entry(
            name,
            self._text(value, "description", where),
            self._text(value, "owner", where),
            self._scheme(value, where, keys),
            self._key(name, value, where),
            namespace,
        )

    def _only(self, name: str, table: Mapping[str, Any], where: tuple[str, ...]) -> None:
        for field, value in table.items():
            if field in _FIELDS:
                continue
            meant = _ALSO.get(field.lower())
            what = f"here it is called {meant}" if meant else hint(field, _FIELDS)
            if not meant and isinstance(value, str | dict):
                what += f"; a name with a dot stands in quotes: {shown(f'{name}.{field}')}"
            self._problem((*where, field), f"{shown(name)} has no field {shown(field)}; {what}")

    def _text(self, table: Mapping[str, Any], field: str, where: tuple[str, ...]) -> str:
        value = table.get(field, "")
        if isinstance(value, str):
            return value
        of = f" of {shown(where[-1])}" if where else ""
        self._problem((*where, field), f"{field}{of} is {kind(value)}; write text in quotes")
        return ""

    def _scheme(self, table: Mapping[str, Any], where: tuple[str, ...], default: Scheme) -> Scheme:
        value = table.get("keys", default)
        if value in _SCHEMES:
            return cast("Scheme", value)
        of = f" of {shown(where[-1])}" if where else ""
        each = " or ".join(f'keys = "{scheme}"' for scheme in _SCHEMES)
        instead = "write key = … for a fixed key" if isinstance(value, int | list) else each
        self._problem((*where, "keys"), f"keys{of} is {shown(value)}, no key scheme; {instead}")
        return default

    def _key(self, name: str, table: Mapping[str, Any], where: tuple[str, ...]) -> Key | None:
        if "key" not in table:
            return None
        at, value = (*where, "key"), table["key"]
        if _template.is_template(name):
            self._problem(at, f"{shown(name)} stands for many names; leave out its one key")
        if "keys" in table:
            self._problem(
                at, f"{shown(name)} has key and keys; a fixed key is not made of the name"
            )
        if not isinstance(value, int | list) or isinstance(value, bool):
            instead = "key = 42, or key = [7, 42] for two ints"
            self._problem(at, f"key of {shown(name)} is {kind(value)}; write {instead}")
            return None
        try:
            return Key.of(tuple(value) if isinstance(value, list) else value)
        except ConfigError as error:
            self._problem(at, f"key of {shown(name)}: {error}")
            return None

    def _problem(self, where: tuple[str, ...], message: str) -> None:
        self._problems.append(Problem(display(self._path), self._at(where), message))

    def _at(self, where: tuple[str, ...]) -> int | None:
        where = (*_above(self._path), *where)
        while where and where not in self._lines:
            where = where[:-1]
        return self._lines.get(where)

    @cached_property
    def _lines(self) -> dict[tuple[str, ...], int]:
        # The file may have been changed or removed since; then there are no lines to be told.
        with suppress(OSError, ValueError, RecursionError):
            return lines_of(self._path.read_text(encoding="utf-8"))
        return {}
