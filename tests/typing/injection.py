"""What a type checker has to refuse: SQL that is not written in the source.

Read by tests/test_literals.py alone: mypy takes any string for a literal one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import advlock

if TYPE_CHECKING:
    import psycopg


def sync(conn: psycopg.Connection, state: str) -> None:
    """Input belongs into `params`."""
    advlock.claim(conn, "job", where="state = %s", params=[state])
    advlock.claim(conn, "job", where=f"state = '{state}'")  # refused
    advlock.claim(conn, "job", where="state = " + state)  # refused
    advlock.claim(conn, state, order_by=state)


async def asynchronous(conn: psycopg.AsyncConnection, state: str) -> None:
    """The same for tasks."""
    await advlock.claim(conn, "job", where="state = %(state)s", params={"state": state})
    await advlock.claim(conn, "job", where=state)  # refused
