"""What the catalogue is made of: entries, each with its source, and what they say of a key. Pure.

There are five kinds, by what it takes to know the key: nothing (`Fixed`), names that the database
has (`Computed`), a name that only the application has (`Named`), a number from a row (`PerRow`),
or the third column of `pg_locks` alone (`Structural`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from advlock._key import Key

if TYPE_CHECKING:
    from advlock._catalogue._facts import Facts

# From what a database has: keys, and what tells one of them from the others.
Made: TypeAlias = Iterable[tuple[Key, str]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a key seems to be.

    Attributes:
        tool: Who takes it.

        meaning: What for.

        source: Where that was read: `owner/repository@commit:path`.

        certain: Whether the key can hardly be anything else: it is the tool's own number and no
            other tool's, or the tool's tables are in this database. False for a guess.
    """

    tool: str
    meaning: str
    source: str
    certain: bool

    def __str__(self) -> str:
        """Say it in a line: `Prisma Migrate: any prisma migrate command`."""
        return f"{self.tool}: {self.meaning}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One lock of one tool, or one family of them.

    Attributes:
        tool: Who takes it.

        key: The key, or how it is made, as it would be written in SQL.

        meaning: What it is taken for.

        source: Where that was read: `owner/repository@commit:path`.

        traces: What shows that the tool is used in a database, any of it: `table`,
            `schema.table`, `table(column)` or `extension:name`.

        witness: What confirms it beside the source: a test of the tool's own that was computed
            anew, a public report that has the value, or the tool itself in a test of ours.
    """

    kind: ClassVar[str]

    tool: str
    key: str
    meaning: str
    source: str
    traces: tuple[str, ...] = ()
    witness: str = ""

    def known(self, detail: str = "", *, certain: bool) -> Known:
        """Say it of one key; `detail` is what tells it from others of the same entry."""
        # Anybody may name a table as they like, and terminals obey what they print.
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in detail)
        meaning = f"{self.meaning} ({shown})" if detail else self.meaning
        return Known(self.tool, meaning, self.source, certain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed(Entry):
    """A lock whose key is the same everywhere."""

    kind: ClassVar[str] = "fixed"
    value: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed(Entry):
    """A lock whose key follows from names that the database has.

    Attributes:
        make: Returns every key that it may have in such a database.
    """

    kind: ClassVar[str] = "computed"
    make: Callable[[Facts], Made]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Entry):
    """A lock whose key follows from a name that only the application has.

    Attributes:
        of: Makes the key; takes the name and the codec of the server's encoding. None if the
            tool would not take such a name.
    """

    kind: ClassVar[str] = "by name"
    of: Callable[[str, str], Key | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PerRow(Entry):
    """A lock with a number in its key that says which row, table or name it is about.

    Attributes:
        pair: Whether the key is two integers.

        guess: Says of such a key what it is about and whether that is beyond doubt, or None if the
            key is not of this entry. Asked only if one of the `traces` is there, or if there are
            none.
    """

    kind: ClassVar[str] = "per row"
    pair: bool
    guess: Callable[[Key, Facts], tuple[str, bool] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structural(Entry):
    """A lock of an extension that writes an `objsubid` of its own.

    Attributes:
        objsubid: That number.

        about: Says what the two other numbers mean.
    """

    kind: ClassVar[str] = "by objsubid"
    objsubid: int
    about: Callable[[int, int], str]
