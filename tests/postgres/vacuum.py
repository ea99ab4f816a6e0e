"""How the beliefs ask whether somebody's snapshot holds VACUUM back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.errors import Diagnostic


ROWS = 1000


def leave_dead_rows(session: Connection[Any], table: str) -> None:
    """Write and delete `ROWS` rows, so that every snapshot taken so far keeps them from VACUUM."""
    session.execute(f"INSERT INTO {table} SELECT generate_series(1, {ROWS})")
    session.execute(f"DELETE FROM {table}")


def dead_rows_kept(session: Connection[Any], table: str) -> int:
    """Vacuum `table` and return how many dead rows had to stay because a snapshot may see them."""
    notices: list[str] = []

    def note(diagnostic: Diagnostic) -> None:
        notices.append(diagnostic.message_primary or "")

    session.add_notice_handler(note)
    session.execute(f"VACUUM (VERBOSE, TRUNCATE false) {table}")
    session.remove_notice_handler(note)
    found = re.search(r"(\d+) are dead but not yet removable", "\n".join(notices))
    assert found, notices
    return int(found[1])
