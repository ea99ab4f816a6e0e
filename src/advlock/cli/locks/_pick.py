"""Which locks are meant: by name, by key in any spelling, by the tool whose lock it is."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from advlock._inspect._tree import LockTree, Snapshot
    from advlock._key import Key
    from advlock._registry._entry import Entry
    from advlock._registry._registry import Registry

_NUMBER: Final = re.compile(r"-?\d+")
_PAIR: Final = re.compile(r"\(?\s*(-?\d+)\s*,\s*(-?\d+)\s*\)?")
_ADDRESS: Final = re.compile(r"(\d+)/(\d+)/(\d+)")


class Wanted(NamedTuple):
    """What one word on the command line stands for.

    Attributes:
        word: As it was typed.

        address: The three numbers of pg_locks, if it spells these.

        names: The names that it is, with and without a namespace.

        keys: The keys that it is, or that are made of it; first the one that it spells.

        spells_key: Whether it spells a key, and is no name of the registry.

        entry: What the registry says of it.
    """

    word: str
    address: tuple[int, ...] | None = None
    names: frozenset[str] = frozenset()
    keys: tuple[Key, ...] = ()
    spells_key: bool = False
    entry: Entry | None = None

    def finds(self, tree: LockTree) -> bool:
        """Whether it means this lock."""
        if self.address is not None:
            return self.address == (tree.classid, tree.objid, tree.objsubid)
        if tree.key is not None and tree.key in self.keys:
            return True
        if tree.name in self.names or (tree.key is not None and tree.key.name in self.names):
            return True  # the name of a semaphore stands for all of its slots
        if tree.kind == "well-known" and self.word.casefold() in map(str.casefold, tools(tree)):
            return True
        if tree.name is None:
            return False
        # The template itself, not an instance of it: all its instances.
        whole = self.entry is not None and self.word in {self.entry.name, self.entry.full}
        return whole and self.entry is not None and self.entry.matches(tree.name)

    def name(self, tree: LockTree) -> LockTree:
        """Call a lock, whose key was made of this word and that nobody else names, by the word."""
        if tree.name is not None or tree.key is None:
            return tree
        made = next((key for key in self.keys if key == tree.key), None)
        if made is None or (self.spells_key and made == self.keys[0]):
            return tree
        slot = f" (slot {made.seed})" if made.seed else ""
        return dataclasses.replace(tree, key=made, name=self.word + slot, candidates=())


def wanted(
    word: str, registry: Registry | None, keys_of: Callable[[str], tuple[Key, ...]]
) -> Wanted:
    """Read one word.

    Args:
        word: A name, with or without the registry's namespace; a template of the registry, for all
            its instances; a tool; a key: `42`, `1,2`, or `0/42/1` as in pg_locks.
        registry: The registry, if there is one.
        keys_of: Makes the keys of a name, by every formula, as the server would.
    """
    if match := _ADDRESS.fullmatch(word):
        return Wanted(word, address=tuple(map(int, match.groups())))
    names = {word}
    entry = None if registry is None else registry.find(word)
    if registry is not None and registry.namespace:
        names.add(f"{registry.namespace}:{word}")
    spelled = _spelled(word) if entry is None else ()
    # Somebody may have locked the text '42': that it is free, nobody may say who has not looked.
    keys = (*spelled, *(key for name in sorted(names) for key in _made(name, keys_of)))
    return Wanted(word, None, frozenset(names), keys, bool(spelled), entry)


def tools(tree: LockTree) -> list[str]:
    """Which tools a well-known lock may belong to."""
    named = [] if tree.name is None else [tree.name]
    return list(dict.fromkeys([*named, *(one.partition(": ")[0] for one in tree.candidates)]))


def chosen(seen: Snapshot, words: Sequence[Wanted]) -> tuple[Snapshot, list[Wanted]]:
    """Keep the locks that are meant; return the words as well that mean none."""
    if not words:
        return seen, []
    found: dict[LockTree, LockTree] = {}
    missing = []
    for word in words:
        trees = [tree for tree in seen.trees if word.finds(tree)]
        found |= {tree: word.name(tree) for tree in trees if tree not in found}
        if not trees:
            missing.append(word)
    kept = tuple(found[tree] for tree in seen.trees if tree in found)
    return dataclasses.replace(seen, trees=kept), missing


def close(word: str, trees: Iterable[LockTree]) -> list[str]:
    """Find names among these locks that were probably meant."""
    names = list(dict.fromkeys(tree.name for tree in trees if tree.name))
    return difflib.get_close_matches(word, names, n=3)


def _spelled(word: str) -> tuple[Key, ...]:
    """Read a key that is spelled as in SQL; none if it is a name."""
    from advlock._key import Key  # noqa: PLC0415 - for those who name a lock
    from advlock.errors import ConfigError  # noqa: PLC0415

    with contextlib.suppress(ConfigError):  # too large for a key, so a name
        if _NUMBER.fullmatch(word):
            return (Key.of(int(word)),)
        if match := _PAIR.fullmatch(word):
            return (Key.of((int(match[1]), int(match[2]))),)
    return ()


def _made(name: str, keys_of: Callable[[str], tuple[Key, ...]]) -> tuple[Key, ...]:
    from advlock.errors import ConfigError  # noqa: PLC0415 - for those who name a lock

    try:
        return keys_of(name)
    except ConfigError:  # it has no key, or none on this server
        return ()
