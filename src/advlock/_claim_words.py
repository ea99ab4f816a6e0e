"""What the server's refusals of a claim mean, for drivers whose errors are told apart by code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from advlock.errors import ConfigError, UnsafeServer

if TYPE_CHECKING:
    from advlock.errors import LockError

_KINDS: Final = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_KIND: Final = re.compile(r"advlock:(?:relation:)?([vmf])(?!\w)")  # as in `_claim_sql`


def clearer(
    error: BaseException,
    sqlstate: str | None,
    said: str,
    standby: bool,  # noqa: FBT001
) -> LockError | None:
    """Return an error that says what to do; None where the server's own does.

    Args:
        error: The driver's; it may get a note.
        sqlstate: The server's code.
        said: The server's words.
        standby: Whether the driver was told that the server is a read replica.
    """
    match sqlstate:
        case "22P02" if kind := _KIND.search(said):
            return ConfigError(only_tables(f"this is {_KINDS[kind[1]]}"))
        # The words around it are in the server's language.
        case "0A000" if "FOR UPDATE" in said:
            return ConfigError(only_tables(f"the server says: {said}"))
        case "42809":
            return ConfigError(only_tables(f"the server says: {said}"))
        case "25006" if standby:
            return UnsafeServer(
                "this connection is to a read replica, which locks no rows. "
                "Use a connection to the primary",
                reason="replica",
            )
        case "25006":
            error.add_note("advlock: rows are locked in a transaction that may write")
        case "42501":
            error.add_note("advlock: to claim rows, a role needs SELECT and UPDATE on the table")
    return None


def only_tables(why: str) -> str:
    """Say what rows are claimed from."""
    return (
        f"rows are claimed from a table, where each can be locked; {why}. Name the table behind it"
    )
