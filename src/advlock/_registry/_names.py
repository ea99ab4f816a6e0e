"""What a client with a registry does with the names it is given. Pure.

It is asked once for each name that the client does not know yet, never while it takes a known one.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from advlock._key import Key
from advlock._registry._registry import Registry
from advlock._registry._reserved import reserved
from advlock.errors import ConfigError, KeyCollision

if TYPE_CHECKING:
    from advlock._key import Name, Scheme

# So many names a client may have used before it forgets which, in a process that runs for long.
_MOST: Final = 4096
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Names:
    """The registry of one client, with the names that it has used so far."""

    def __init__(
        self, registry: Registry, *, strict: bool, namespace: str | None, keys: Scheme | None
    ) -> None:
        """Fit a client's settings to the registry's.

        Raises:
            ConfigError: no name of this client could be one of the registry's.
            KeyCollision: the registry has one key for two names.
        """
        if namespace and registry.namespace not in ("", namespace):
            raise ConfigError(
                f"the client's namespace is {namespace!r} and that of {_place(registry)} is"
                f" {registry.namespace!r}, so none of its names could be found; leave out"
                " namespace=, or give the registry of this application"
            )
        self.registry = registry
        self.strict = strict
        self.namespace = registry.namespace if namespace is None else namespace
        self.keys: Scheme = keys or registry.keys
        self._encoding = ""
        self._registered: dict[Key, str] = {}
        self._used: dict[Key, str] = {}
        self._learn("utf-8")

    def key(self, name: Name, encoding: str | None) -> Key | None:
        """Make the key of a name; None if that needs the server's encoding.

        Args:
            name: What the client was asked to lock.
            encoding: The Python codec of the server's encoding; None while it is not known.

        Raises:
            ConfigError: the name cannot be a key, or is not registered and has to be.
            KeyCollision: another name has the same key.
        """
        if not isinstance(name, str):
            return self._given(Key.of(name))
        text = str.__str__(name)
        full = self._full(text)
        own = reserved(text)
        entry = None if own else self.registry.find_full(full)
        if entry is None and self.strict and text and not own:
            raise self._unregistered(text, full)
        if entry is not None and entry.key is not None:
            return entry.key
        if encoding is None and not full.isascii():
            return None
        key = Key.of(
            full, encoding=encoding or "utf-8", scheme=entry.scheme if entry else self.keys
        )
        self._claim(key, full, encoding or "utf-8")
        return key

    def slot(self, name: str, n: int, *, encoding: str) -> Key:
        """Make the key of slot `n` of the semaphore `name`.

        Raises:
            ConfigError: the name's key is no 64-bit hash, so slot 0 could not be its plain lock.
        """
        full = self._full(name)
        entry = None if reserved(name) else self.registry.find_full(full)
        scheme = entry.scheme if entry else self.keys
        fixed = entry is not None and entry.key is not None
        if fixed or scheme != "hashtextextended":
            has = "a fixed key" if fixed else f"keys = {scheme!r}"
            raise ConfigError(
                f"{name!r} has {has} in {_place(self.registry)}, which has no slots; leave out"
                " --slots, or give the slots a name of their own"
            )
        return Key.slot(full, n, encoding=encoding)

    def _full(self, name: str) -> str:
        return f"{self.namespace}:{name}" if self.namespace and name else name

    def _given(self, key: Key) -> Key:
        """Judge a number, a pair or a ready key."""
        if self.strict and not self._is_registered(key):
            shown = list(key.parts) if isinstance(key.parts, tuple) else key.parts
            raise ConfigError(
                f"the key {key} is not in {_place(self.registry)}, and this client is strict;"
                f' add to its [locks]: some-name = {{key = {shown}, description = "…"}}'
            )
        if key.name is not None:  # as exported constants have one
            self._claim(key, key.name, self._encoding)
        return key

    def _is_registered(self, key: Key) -> bool:
        if key.name is not None:
            entry = self.registry.find_full(key.name)
            return entry is not None and entry.key is None and entry.scheme == key.scheme
        return any(entry.key is not None for entry in self.registry.of_key(key))

    def _claim(self, key: Key, full: str, encoding: str) -> None:
        if encoding != self._encoding:
            self._learn(encoding)
        if len(self._used) >= _MOST:
            self._used = {}
        first = self._registered.get(key) or self._used.setdefault(key, full)
        if first != full:
            raise collision((first, full), key)

    def _learn(self, encoding: str) -> None:
        """Make the keys of what is registered; another encoding makes other ones."""
        for found in self.registry.collisions(encoding):
            raise collision(tuple(entry.full for entry in found.entries), found.key)
        by_key = self.registry.by_key(encoding)
        self._registered = {key: entries[0].full for key, entries in by_key.items()}
        self._used = {}
        self._encoding = encoding

    def _unregistered(self, name: str, full: str) -> ConfigError:
        known = {entry.full: entry.name for entry in self.registry.entries}
        close = difflib.get_close_matches(full, known, n=1)
        meant = f"did you mean {known[close[0]]!r}? If not, " if close else ""
        # As it would have to stand in the file, whose own namespace is put before it.
        own = self.registry.namespace
        written = full.removeprefix(f"{own}:") if own else full
        return ConfigError(
            f"{name!r} is not in {_place(self.registry)}, and this client is strict; {meant}add to"
            f' its [locks]: {toml_key(written)} = "what it protects"'
        )


def collision(names: tuple[str, ...], key: Key) -> KeyCollision:
    """Make the error of several names with one key."""
    each = " and ".join(map(repr, names))
    instead = "give one of them another name"
    if any(Key.of(name) == key for name in names):
        instead += ", or a fixed key of its own in the registry"
    else:
        instead += ', or keys = "hashtextextended", which has 64 bits'
    return KeyCollision(
        f"{each} have the same key, {key.parts}, so they would exclude each other; {instead}",
        names=names,
        key=key,
    )


def toml_key(name: str) -> str:
    """A name as a key in TOML."""
    if _BARE.fullmatch(name):
        return name
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(registry: Registry | str | Path | Literal[True]) -> Registry:
    """Return the registry that `registry=` means; True is the nearest file.

    Raises:
        ConfigError: there is none, or something in it is wrong.
    """
    if isinstance(registry, Registry):
        return registry
    if registry is True or isinstance(registry, str | Path):
        return Registry.load(None if registry is True else registry)
    raise ConfigError(
        f"registry is a path, an advlock.Registry, or True for the nearest file, not {registry!r}"
    )


def _place(registry: Registry) -> str:
    return f"the registry {registry.path}" if registry.path else "the registry"
