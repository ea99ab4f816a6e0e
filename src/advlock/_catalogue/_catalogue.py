"""The catalogue of well-known locks: what a key that `pg_locks` shows may be. Pure.

Keys that can be known beforehand are computed once, for one database; looking one up is a look into
a dictionary, and a handful of guesses for a key that is not there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias

from advlock._catalogue._computed import COMPUTED
from advlock._catalogue._entries import ENTRIES
from advlock._catalogue._entry import Known
from advlock._catalogue._facts import Facts
from advlock._catalogue._fixed import FIXED
from advlock._catalogue._named import formulas_of
from advlock._catalogue._rows import PARENTS, PER_ROW
from advlock._catalogue._structural import STRUCTURAL
from advlock._key import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from advlock._catalogue._entry import Entry

__all__ = ["ENTRIES", "Catalogue", "Known", "formulas_of"]

_ORDINARY: Final = (1, 2)  # the values of objsubid that are PostgreSQL's own
# A number below a million, or 1234567890, is what anybody would write who needs a number.
_ANYBODYS: Final = 1 << 20
_COUNTED: Final = 1234567890

_Columns: TypeAlias = tuple[int, int, int]


class Catalogue:
    """What is known of the locks of one database.

    Args:
        facts: What that database has (`advlock._catalogue._facts.facts`). Keys mean something only
            within their database, so do not ask one database's catalogue about another's locks.
            None for what can be known without any database.
    """

    entries: tuple[Entry, ...] = ENTRIES

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts: Final = Facts() if facts is None else facts
        self._exact: Final = self._precomputed()
        here = [e for e in PER_ROW if not e.traces or self.facts.any(e.traces)]
        self._guesses: Final = {pair: [e for e in here if e.pair is pair] for pair in (False, True)}
        self._structural: Final = {entry.objsubid: entry for entry in STRUCTURAL}

    @classmethod
    def elsewhere(cls, database: str) -> Catalogue:
        """Return what can be known of a database by its name alone, as if it had `public` only."""
        return cls(Facts(database, schemas=("public",)))

    def identify(self, classid: int, objid: int, objsubid: int) -> tuple[Known, ...]:
        """Say what a lock may be; several answers mean "one of".

        Args:
            classid: The high half of the key, unsigned, as `pg_locks` shows it.
            objid: The low half, likewise.
            objsubid: 1 for one bigint, 2 for two ints; others belong to extensions.

        Returns:
            What is certain first, then other tools with the same key, then guesses; nothing for a
            key that is unknown.
        """
        if objsubid not in _ORDINARY:
            return self._of_extension(classid, objid, objsubid)
        exact = self._exact.get((classid, objid, objsubid), ())
        if exact and exact[0].certain:
            return exact
        return exact + self._guessed(Key.from_pg(classid, objid, objsubid))

    def _guessed(self, key: Key) -> tuple[Known, ...]:
        found = []
        for entry in self._guesses[key.pair]:
            guess = entry.guess(key, self.facts)
            if guess is not None:
                detail, certain = guess
                found.append(entry.known(detail, certain=certain))
        return tuple(found)

    def _of_extension(self, classid: int, objid: int, objsubid: int) -> tuple[Known, ...]:
        entry = self._structural.get(objsubid)
        if entry is None:
            return ()
        certain = self.facts.any(entry.traces)
        return (entry.known(entry.about(classid, objid), certain=certain),)

    def _precomputed(self) -> Mapping[_Columns, tuple[Known, ...]]:
        claims: dict[Key, dict[tuple[Entry, str], None]] = defaultdict(dict)
        for fixed in FIXED:
            claims[fixed.value][fixed, ""] = None
        for computed in (*COMPUTED, PARENTS):
            for key, detail in computed.make(self.facts):
                claims[key][computed, detail] = None
        return {
            (key.classid, key.objid, key.objsubid): self._judged(key, claimed)
            for key, claimed in claims.items()
        }

    def _judged(self, key: Key, claims: Iterable[tuple[Entry, str]]) -> tuple[Known, ...]:
        """Order the tools that claim a key: first those that are used here."""
        claims = list(claims)
        tools = {entry.tool for entry, _ in claims}
        beyond_doubt = len(tools) == 1 and _distinctive(key)
        known = [
            entry.known(detail, certain=beyond_doubt or self.facts.any(entry.traces))
            for entry, detail in claims
        ]
        return tuple(sorted(known, key=lambda one: not one.certain))


def _distinctive(key: Key) -> bool:
    return key.pair or (abs(key.value) >= _ANYBODYS and key.value != _COUNTED)
