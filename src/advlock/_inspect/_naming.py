"""What a key is called, and who says so. Pure.

The registry's word counts most, then that of the process which took the lock, then what was asked
for, then the catalogue of other tools' locks. A name that somebody wrote down is believed only if
it hashes to the key: everybody may write into `application_name`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from advlock import _label
from advlock._key import Key
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from advlock._catalogue._catalogue import Catalogue
    from advlock._inspect._session_row import SessionRow
    from advlock._inspect._tree import Kind
    from advlock._label import Label
    from advlock._registry._entry import Entry
    from advlock._registry._registry import Registry

Columns = tuple[int, int, int]

# A signature has the name of a semaphore, and not which of its slots; so many are tried.
SLOTS: Final = 64
_MOST_KNOWN: Final = 100_000
_SPACES: Final = (1, 2)


class Recorded(NamedTuple):
    """A name that somebody wrote down for a key, with how the key is made of it."""

    name: str
    scheme: str = "hashtextextended"
    seed: int = 0
    description: str = ""


class Signed(NamedTuple):
    """What a session signed, and whether it has to do with one lock only."""

    label: Label
    single: bool | None


class Naming(NamedTuple):
    """What a lock is called; the fields are those of `LockTree`."""

    key: Key | None
    name: str | None = None
    kind: Kind = "unknown"
    description: str = ""
    owner: str = ""
    candidates: tuple[str, ...] = ()


class Namer:
    """Names keys, and remembers what it found out about each.

    Args:
        registry: The project's registry, if there is one.

        catalogue: The well-known locks of the database that is looked at.

        elsewhere: Makes the catalogue of another database on the server, of its name.

        called: What else is known: keys with what they are called.
    """

    def __init__(
        self,
        registry: Registry | None = None,
        catalogue: Catalogue | None = None,
        elsewhere: Callable[[str], Catalogue] | None = None,
        called: Mapping[Key, Naming] | None = None,
    ) -> None:
        self.registry = registry
        self._catalogue = catalogue
        self._elsewhere = elsewhere
        self._called = called or {}
        self._encoding = "utf-8"
        self._forget()

    def _forget(self) -> None:
        self._made: dict[tuple[str, str, int], Key | None] = {}
        self._slots: dict[str, dict[Key, Key]] = {}
        self._fixed: dict[tuple[Columns, str | None], Naming] = {}
        self._told_before: dict[tuple[Columns, Recorded], Naming | None] = {}
        self._others: dict[str, Catalogue] = {}

    def speak(self, encoding: str) -> None:
        """Hash in the server's encoding from now on, given as Python's codec."""
        sizes = (
            len(self._made),
            len(self._fixed),
            len(self._told_before),
            len(self._slots) * SLOTS,
        )
        many = max(sizes) > _MOST_KNOWN
        if encoding != self._encoding or many:
            self._encoding = encoding
            self._forget()

    def name(
        self,
        columns: Columns,
        recorded: Sequence[Recorded] = (),
        signed: Sequence[Signed] = (),
        asked: Mapping[Key, Naming] | None = None,
    ) -> Naming:
        """Name a lock of the database that is looked at.

        Args:
            columns: `classid`, `objid` and `objsubid`, as pg_locks shows them.
            recorded: What was written down for it, the newest last.
            signed: What those signed who hold it or wait for it.
            asked: What somebody looks for, with what it would be called.
        """
        fixed = self._look_up(columns, None)
        if fixed.key is None or not (recorded or signed or asked or self._called):
            return fixed
        if fixed.kind == "registered":
            return self._registered(fixed, recorded)
        if told := self._told_once(columns, fixed.key, recorded, signed):
            return told
        for known in (asked or {}, self._called):
            if (given := known.get(fixed.key)) is not None and given.name is not None:
                return given
        return fixed

    def name_elsewhere(self, columns: Columns, database: str) -> Naming:
        """Name a lock of another database: what is the same in each, and no name of ours."""
        return self._look_up(columns, database)

    def since(self, session: SessionRow, key: Key | None) -> datetime | None:
        """Since when a session holds a lock, where it signed that, and about this lock."""
        label = session.label
        if label is None or label.since is None or key is None:
            return None
        return label.since if self._is_about(label, key, single=session.single) else None

    def _is_about(self, label: Label, key: Key, *, single: bool | None) -> bool:
        if not label.name:
            return False
        if not label.complete:
            whole = _label._ascii(key.name or "")
            return bool(single) or (bool(whole) and whole.startswith(label.name))
        return label.name == _label.name_of(key) or self._signed_key(label.name, key) is not None

    def make(self, name: str) -> Key | None:
        """Make the key of a name; None where the server's encoding has no such name."""
        return self._make(name, "hashtextextended", 0)

    # -- what never changes for a key ------------------------------------------------------------

    def _look_up(self, columns: Columns, database: str | None) -> Naming:
        found = self._fixed.get((columns, database))
        if found is None:
            found = self._fixed[columns, database] = self._find(columns, database)
        return found

    def _find(self, columns: Columns, database: str | None) -> Naming:
        key = Key.from_pg(*columns) if columns[2] in _SPACES else None
        if key is not None and database is None and self.registry is not None:
            entries = self.registry.of_key(key, encoding=self._encoding)
            if entries:
                return _of_entries(entries, key, self._encoding)
        catalogue = self._catalogue if database is None else self._catalogue_of(database)
        known = catalogue.identify(*columns) if catalogue is not None else ()
        if not known:
            return Naming(key)
        words = tuple(map(str, known))
        certain = [one for one in known if one.certain]
        if len({one.tool for one in certain}) != 1:
            return Naming(key, None, "well-known", "", "", words)
        meaning = certain[0].meaning if len(certain) == 1 else ""
        others = words if len(words) > 1 else ()
        return Naming(key, certain[0].tool, "well-known", meaning, "", others)

    def _catalogue_of(self, database: str) -> Catalogue | None:
        if self._elsewhere is None:
            return None
        if database not in self._others:
            self._others[database] = self._elsewhere(database)
        return self._others[database]

    # -- what somebody said ----------------------------------------------------------------------

    def _registered(self, fixed: Naming, recorded: Sequence[Recorded]) -> Naming:
        """Of several entries with this key, take the one that was recorded."""
        if fixed.candidates:
            for one in reversed(recorded):
                if one.name in fixed.candidates:
                    return fixed._replace(name=one.name)
        return fixed

    def _told_once(
        self, columns: Columns, key: Key, recorded: Sequence[Recorded], signed: Sequence[Signed]
    ) -> Naming | None:
        """Remember the common case, a name that one process recorded: it is there every time."""
        if signed or len(recorded) != 1:
            return self._told(key, recorded, signed)
        which = (columns, recorded[0])
        if which not in self._told_before:
            self._told_before[which] = self._told(key, recorded, signed)
        return self._told_before[which]

    def _told(
        self, key: Key, recorded: Sequence[Recorded], signed: Sequence[Signed]
    ) -> Naming | None:
        told = [self._signed_key(one.label.name, key) for one in signed if one.label.complete]
        believed = {made: "" for made in told if made is not None}
        for one in reversed(recorded):
            made = self._make(one.name, one.scheme, one.seed)
            if made == key:
                believed.setdefault(made, "")
                believed[made] = believed[made] or one.description
        if believed:
            return self._recorded(believed, [one.name for one in recorded])
        for label, single in signed:
            if single and label.name and not label.complete:
                return Naming(key, f"{label.name}…", "recorded")
        return None

    def _recorded(self, believed: Mapping[Key, str], names: Iterable[str]) -> Naming:
        key, description = next(iter(believed.items()))
        assert key.name is not None
        same = [n for n in dict.fromkeys(names) if self._is_same(n, key)]
        candidates = tuple(same) if len(same) > 1 else ()
        entry = self.registry.find_full(key.name) if self.registry is not None else None
        if entry is not None and entry.key is None:
            description = entry.description or description
            return Naming(key, spelled(key), "registered", description, entry.owner, candidates)
        return Naming(key, spelled(key), "recorded", description, "", candidates)

    def _is_same(self, name: str, key: Key) -> bool:
        return self._make(name, key.scheme, key.seed) == key

    def _signed_key(self, name: str, key: Key) -> Key | None:
        """Make that key of a name, if the name makes it."""
        made = self._slots.get(name)
        if made is None:
            keys = [self._make(name, "hashtext", 0)]
            seeds = range(-1 - SLOTS, SLOTS)
            keys += [self._make(name, "hashtextextended", seed) for seed in seeds]
            made = self._slots[name] = {one: one for one in reversed(keys) if one is not None}
        return made.get(key)

    def _make(self, name: str, scheme: str, seed: int) -> Key | None:
        if (name, scheme, seed) in self._made:
            return self._made[name, scheme, seed]
        key = None
        try:
            if scheme == "hashtext":
                key = Key.hashtext(name, encoding=self._encoding)
            elif scheme == "hashtextextended":
                make = Key.slot if seed >= 0 else Key.agreed
                key = make(name, seed if seed >= 0 else -1 - seed, encoding=self._encoding)
        except ConfigError:  # a name that is none there
            pass
        self._made[name, scheme, seed] = key
        return key


def spelled(key: Key) -> str | None:
    """Say a key's name: of a semaphore's slot, which one."""
    if not key.name or not key.seed:
        return key.name
    if key.seed < 0:
        slots = -1 - key.seed
        return f"{key.name} (of {slots})" if slots else f"{key.name} (queue)"
    return f"{key.name} (slot {key.seed})"


def _of_entries(entries: Sequence[Entry], key: Key, encoding: str) -> Naming:
    entry = entries[0]
    names = tuple(one.name if one.key is not None else one.full for one in entries)
    made = key if entry.key is not None else entry.make(encoding=encoding)
    others = names if len(names) > 1 else ()
    return Naming(made, names[0], "registered", entry.description, entry.owner, others)
