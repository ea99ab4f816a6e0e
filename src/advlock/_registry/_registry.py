"""The registry: which locks there are, found by name and by key. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from advlock._key import Key, Scheme
    from advlock._registry._entry import Entry


class Collision(NamedTuple):
    """Several entries with one key: whoever holds one of them holds all."""

    key: Key
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        names = " and ".join(repr(entry.name) for entry in self.entries)
        return f"{names} have the same key, {self.key.parts}, so they exclude each other"


class Registry:
    """The locks of a project, by name: read from `[locks]` in `advlock.toml` or `pyproject.toml`.

    It does not change; a process that wants a newer one loads it again.

    Attributes:
        entries: What it names, in the order of the file.

        path: The file; None for one that was not read from a file.

        namespace: Put before every name in it, with a colon; empty for none.

        keys: How names become keys where an entry does not say.
    """

    __module__ = "advlock"

    __slots__ = ("_by_full", "_by_key", "_templates", "entries", "keys", "namespace", "path")

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        path: Path | None = None,
        namespace: str = "",
        keys: Scheme = "hashtextextended",
    ) -> None:
        self.entries = tuple(entries)
        self.path = path
        self.namespace = namespace
        self.keys: Scheme = keys
        self._by_full = {entry.full: entry for entry in self.entries if not entry.is_template}
        # Where several match, the one with the fewest fields and the longest text is meant.
        self._templates = sorted(
            (entry for entry in self.entries if entry.is_template),
            key=lambda entry: (len(entry.fields), -len(entry.name)),
        )
        self._by_key: dict[str, dict[Key, tuple[Entry, ...]]] = {}

    @classmethod
    def load(cls, path: str | Path | None = None) -> Registry:
        """Read a registry from its file.

        Args:
            path: An `advlock.toml`, or a `pyproject.toml` with `[tool.advlock.locks]`. None for
                the nearest of them: in this directory, then in its parents up to a repository's
                root.

        Raises:
            ConfigError: there is no file, it has no such table, or something in it is wrong; the
                message has everything, with lines.
        """
        from advlock._registry._load import load  # noqa: PLC0415 - it makes registries

        found = load(path)
        if found is None:
            raise ConfigError(
                "no advlock.toml with a table [locks], and no pyproject.toml with"
                " [tool.advlock.locks], in this directory or its parents; write one, or give its"
                " path"
            )
        return found

    def __repr__(self) -> str:
        """Show where it comes from, and how much is in it."""
        count = len(self.entries)
        return f"<advlock.Registry {self.path or '(no file)'} [{count} entries]>"

    def find(self, name: str) -> Entry | None:
        """Return the entry of a name, with or without its namespace; None if it has none.

        An entry of just that name comes before a template that matches it.
        """
        found = self.find_full(name)
        if found is None and self.namespace:
            found = self.find_full(f"{self.namespace}:{name}")
        return found

    def find_full(self, full: str) -> Entry | None:
        """Return the entry of a name that has its namespace before it; None if it has none."""
        found = self._by_full.get(full)
        if found is None:
            for entry in self._templates:
                if entry.matches(full):
                    return entry
        return found

    def of_key(self, key: Key, *, encoding: str = "utf-8") -> tuple[Entry, ...]:
        """Return the entries whose name, or whose fixed key, makes this key.

        A template has too many keys for that; it is found by name only.

        Args:
            key: As the server has it.
            encoding: The Python codec of the server's encoding. Names that it cannot express have
                no key there.
        """
        return self.by_key(encoding).get(key, ())

    def by_key(self, encoding: str = "utf-8") -> dict[Key, tuple[Entry, ...]]:
        """Return every entry that is no template, by its key on a server of that encoding."""
        made = self._by_key.get(encoding)
        if made is None:
            made = {}
            for entry in self._by_full.values():
                with suppress(ConfigError):  # a name that the encoding cannot express
                    key = entry.make(encoding=encoding)
                    made[key] = (*made.get(key, ()), entry)
            self._by_key[encoding] = made
        return made

    def collisions(self, encoding: str = "utf-8") -> list[Collision]:
        """Return which entries share a key, on a server of that encoding."""
        found = self.by_key(encoding).items()
        return [Collision(key, entries) for key, entries in found if len(entries) > 1]
