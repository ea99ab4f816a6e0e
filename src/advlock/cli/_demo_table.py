"""What the database knows in `advlock demo`, asked without any help of the cron's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg

from advlock.cli._demo_count import Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_ROWS: Final[LiteralString] = """
SELECT scheduled_at, state, reason, run_id::text, pid, started_at IS NOT NULL
FROM advlock.cron_run ORDER BY scheduled_at
"""
# What has a row here has made the tables, and watches the clock.
_READY: Final[LiteralString] = "SELECT pid FROM advlock.cron_host"
_SINCE: Final[LiteralString] = "SELECT min(created_at) FROM advlock.cron_set"
_NOW: Final[LiteralString] = "SELECT clock_timestamp()"


class Table:
    """The tables of one database, or in the control, of each host's own."""

    def __init__(self, dsns: Sequence[str]) -> None:
        self._databases = [psycopg.connect(dsn, autocommit=True) for dsn in dsns]

    def rows(self) -> list[Row]:
        """Every row of history, by tick."""
        return sorted((Row(*row) for row in self._ask(_ROWS)), key=lambda row: row.tick)

    def ready(self) -> set[int]:
        """The process ids of the schedulers that have come up."""
        return {pid for (pid,) in self._ask(_READY)}

    def since(self) -> datetime | None:
        """From when on ticks are due: when the first scheduler told of the job."""
        return min((since for (since,) in self._ask(_SINCE) if since), default=None)

    def now(self) -> datetime:
        """The clock that ticks go by."""
        now: datetime = self._ask(_NOW)[0][0]
        return now

    def close(self) -> None:
        """Disconnect."""
        for database in self._databases:
            database.close()

    def _ask(self, query: LiteralString) -> list[tuple[Any, ...]]:
        answers: list[tuple[Any, ...]] = []
        for database in self._databases:
            try:
                answers += database.execute(query).fetchall()
            except psycopg.errors.UndefinedTable:  # nobody has made it yet
                continue
        return answers


def split(dsn: str, count: int) -> list[str]:
    """Make so many databases on the server; where each of them is."""
    names = [f"host_{number}" for number in range(1, count + 1)]
    with psycopg.connect(dsn, autocommit=True) as server:
        for name in names:
            server.execute(
                psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name))
            )
    return [psycopg.conninfo.make_conninfo(dsn, dbname=name) for name in names]
