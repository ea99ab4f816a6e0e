"""What a database has, as far as keys are made of it. Pure."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock._catalogue import _sql
from advlock._catalogue._entries import ENTRIES
from advlock._key import pg_encoding
from advlock._plan import Refused, Script, Step
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from advlock._plan import SessionPlan

# Tables by which a tool is known, or whose names or oids are in its keys. The patterns are for
# tools that let a user choose the name. Together they only say which tables come first.
_NAMES: Final = sorted(
    {trace.partition("(")[0].rpartition(".")[2] for entry in ENTRIES for trace in entry.traces}
    | {"job", "states", "subscriptions", "stream_events"}
)
_PATTERNS: Final = (
    "%migrations",
    "%flyway%",
    "%schema\\_history",
    "%databasechangeloglock",
    "%pgqueuer",
    "%pgqueuer\\_statistics",
    "q\\_%",
)
_COLUMNS: Final = ("dirty", "inserted_at")
_MOST: Final = 4000
# Bytes that are no text stay what they are on the way in and out again.
_ESCAPED: Final = "surrogateescape"


class Table(NamedTuple):
    """A table, or a sequence that a tool is known by."""

    oid: int
    schema: str
    name: str
    partitioned: bool = False
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Its name with its schema, as people write it."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class Facts:
    """What one database has; the same key in another database is another lock.

    Attributes:
        database: Its name; empty if nothing could be learnt.

        codec: The Python codec of its encoding.

        schemas: The names of its schemas, without the system's.

        tables: Those that were asked for, and others, up to a bound.

        extensions: The names of its extensions.

        publications: The names of its publications.
    """

    database: str = ""
    codec: str = "utf-8"
    schemas: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    extensions: frozenset[str] = frozenset()
    publications: tuple[str, ...] = ()

    @cached_property
    def by_oid(self) -> Mapping[int, Table]:
        """The tables by their oids."""
        return {table.oid: table for table in self.tables}

    @cached_property
    def _traces(self) -> frozenset[str]:
        found = {f"extension:{name}" for name in self.extensions}
        for table in self.tables:
            found |= {table.name, str(table)}
            found |= {f"{table.name}({column})" for column in table.columns}
        return frozenset(found)

    def any(self, traces: Iterable[str]) -> bool:
        """Tell whether one of these is there; see `Entry.traces` for how they are written."""
        return not self._traces.isdisjoint(traces)

    def named(self, *endings: str) -> list[Table]:
        """Return the tables whose names end so."""
        return [table for table in self.tables if table.name.endswith(endings)]

    def bytes(self, text: str) -> bytes | None:
        """Return the text's bytes in the server's encoding; None where that has no such text."""
        try:
            return text.encode(self.codec, _ESCAPED)
        except UnicodeEncodeError:
            return None


def facts(most: int = _MOST) -> SessionPlan[Facts]:
    """Ask the database for its names, in one round trip; nothing it has makes this fail.

    Args:
        most: How many tables to ask for.
    """
    arguments = (_array(_NAMES), _array(_PATTERNS), _array(_COLUMNS), str(most))
    try:
        answer = yield Script((Step(_sql.FACTS, arguments),))
    except Refused:
        # A right that was taken away, a statement_timeout: the fixed keys need none of it.
        return Facts()
    encoding, told = answer[0][0]
    return _read(encoding or "", told or "")


def _read(encoding: str, told: str) -> Facts:
    try:
        codec = pg_encoding(encoding)
    except ConfigError:
        codec = "ascii"  # every server encoding has ASCII in it
    text = base64.b64decode(told).decode(codec, _ESCAPED)
    names: Mapping[str, Any] = json.loads(text)
    return Facts(
        names["database"],
        codec,
        tuple(names["schemas"] or ()),
        tuple(
            Table(oid, schema, name, partitioned, tuple(columns or ()))
            for oid, schema, name, partitioned, columns in names["tables"] or ()
        ),
        frozenset(names["extensions"] or ()),
        tuple(names["publications"] or ()),
    )


def _array(texts: Iterable[str]) -> str:
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"
