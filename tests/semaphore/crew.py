"""Processes that hold things, and what the server's record of it must not show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from psycopg import Connection

HERE = Path(__file__).parent
TABLE = """
CREATE TABLE IF NOT EXISTS held (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    who integer, name text, shared boolean, said integer,
    asked timestamptz, since timestamptz, until timestamptz
)
"""
WAITING = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 7 AND objid = 7
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
PATIENCE = 30.0


class Row(NamedTuple):
    """One time that somebody held something, as the server's clock has it."""

    id: int
    who: int
    name: str
    shared: bool
    said: int
    asked: datetime
    since: datetime
    until: datetime


class Crew:
    """Workers on one database, and the record that they have kept.

    Args:
        dsn: The database.

        admin: A session with it.

        together: Have all begin at once, when their end is waited for.
    """

    def __init__(self, dsn: str, admin: Connection[Any], *, together: bool = False) -> None:
        self._dsn = dsn
        self._admin = admin
        self.members: list[subprocess.Popen[str]] = []
        admin.execute(TABLE)
        admin.execute("TRUNCATE held")
        self._together = together
        if together:
            admin.execute("SELECT pg_advisory_lock(7, 7)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        for member in self.members:
            if member.poll() is None:
                member.kill()
            member.communicate()
        self._admin.execute("DROP TABLE held")
        self._admin.execute("SELECT pg_advisory_unlock_all()")

    def start(self, how: str, seconds: float, *arguments: object) -> subprocess.Popen[str]:
        """Start one; it says when it is ready."""
        path = os.pathsep.join((str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")))
        member = subprocess.Popen(
            [sys.executable, HERE / "worker.py", how, str(seconds), *map(str, arguments)],
            env=os.environ | {"ADVLOCK_DSN": self._dsn, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.members.append(member)
        return member

    def said(self) -> list[str]:
        """Wait until all have ended; what they said."""
        if self._together:
            here = lambda: self._admin.execute(WAITING).rowcount == len(self.members)  # noqa: E731
            eventually(here, within=PATIENCE)
            self._admin.execute("SELECT pg_advisory_unlock(7, 7)")
        lines: list[str] = []
        for member in self.members:
            out, _ = member.communicate(timeout=PATIENCE)
            lines += out.splitlines()
        return lines

    def rows(self) -> list[Row]:
        """Return the record."""
        found = self._admin.execute("SELECT * FROM held ORDER BY since").fetchall()
        return [Row(*row) for row in found]


def doubles(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Find two that had the same, at one time, and not both shared."""
    found = []
    inside: list[Row] = []
    for row in sorted(rows, key=lambda one: one.since):
        inside = [one for one in inside if one.until > row.since]
        others = (one for one in inside if one.name == row.name)
        found += [(one, row) for one in others if not (one.shared and row.shared)]
        inside.append(row)
    return found


def most_at_once(rows: Iterable[Row]) -> int:
    """Return how many there were inside together at most."""
    most = 0
    inside: list[Row] = []
    for row in sorted(rows, key=lambda one: one.since):
        inside = [one for one in inside if one.until > row.since]
        inside.append(row)
        most = max(most, len(inside))
    return most


def disagreed(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Find two who were inside together, and said that there are different numbers of slots."""
    found = []
    inside: list[Row] = []
    for row in sorted(rows, key=lambda one: one.since):
        inside = [one for one in inside if one.until > row.since]
        found += [(one, row) for one in inside if one.said != row.said]
        inside.append(row)
    return found


def overtakings(rows: Sequence[Row]) -> list[int]:
    """Return how many got in, while each still waited, who had asked later; the fewest first."""
    return sorted(
        sum(one.asked > row.asked and one.since < row.since for one in rows) for row in rows
    )
