"""The verdicts on room: the lock table, and connections. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._doctor._judge import Judged
from advlock._doctor._report import find
from advlock._inspect._hidden import identifier

if TYPE_CHECKING:
    from advlock._doctor._about import About
    from advlock._doctor._report import Finding
    from advlock._doctor._seen import Rows

# What one client may take: `max_connections` of `Locks`.
_ONE_CLIENT: Final = 4
_NEARLY_ALL: Final = 0.9
# What to type, next to what `_sql` asks.
_WHO_LOCKS: Final = "SELECT pid, count(*) FROM pg_locks GROUP BY pid ORDER BY 2 DESC"
_WHO_CONNECTS: Final = (
    "SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2"
)


def lock_table(seen: Rows, about: About) -> Judged:
    """All sessions share it, and when it is full, every one of them fails."""
    capacity, used, for_each = (int(value or 0) for value in seen[0])
    share = used / capacity if capacity else 0.0
    fact = f"{used} of about {capacity} entries in use ({share:.0%})"
    if share <= about.limits.filling:
        return Judged(fact)
    full = share > about.limits.full
    finding = find(
        "lock-table-full" if full else "lock-table-filling",
        "the server's lock table is nearly full: when it is, every session's next lock fails"
        if full
        else "the server's lock table is more than half full",
        evidence=fact,
        remedy=f"ALTER SYSTEM SET max_locks_per_transaction = {2 * for_each}; then restart the "
        f"server. Who fills it: {_WHO_LOCKS}",
    )
    return Judged(fact, (finding,))


class _Room(NamedTuple):
    what: str
    limit: int
    used: int
    raise_it: str


def connections(seen: Rows, about: About) -> Judged:
    """A client takes one connection, and up to four while it waits."""
    most, for_superusers, reserved = (int(value or 0) for value in seen[0][:3])
    may_use_reserved = seen[0][3] == "t"
    of_role, of_database, used, by_role, in_database = (int(value or 0) for value in seen[0][4:])
    limit = most
    if not about.superuser:
        limit -= for_superusers if may_use_reserved else for_superusers + reserved
    rooms = [
        _Room(
            "the server's",
            limit,
            used,
            f"ALTER SYSTEM SET max_connections = {2 * most}; then restart the server",
        )
    ]
    if of_role >= 0 and not about.superuser:
        alter = f"ALTER ROLE {identifier(about.role)} CONNECTION LIMIT"
        rooms.append(_Room(f"role {about.role}'s", of_role, by_role, f"{alter} {of_role + 20}"))
    if of_database >= 0 and not about.superuser:
        alter = f"ALTER DATABASE {identifier(about.database)} CONNECTION LIMIT"
        raise_it = f"{alter} {of_database + 20}"
        rooms.append(_Room(f"database {about.database}'s", of_database, in_database, raise_it))
    fact = "in use: " + ", ".join(f"{room.used} of {room.what} {room.limit}" for room in rooms)
    if about.pooled:
        return Judged(f"{fact}, those of the pooler included")
    return Judged(fact, tuple(found for room in rooms if (found := _tight(room))))


def _tight(room: _Room) -> Finding | None:
    left = room.limit - room.used
    if left >= _ONE_CLIENT and room.used < _NEARLY_ALL * room.limit:
        return None
    exhausted = left <= 1  # which we have
    return find(
        "connections-exhausted" if exhausted else "connections-scarce",
        "there is no connection left for a second session"
        if exhausted
        else "connections are nearly used up: a client takes one, and up to four while it waits",
        evidence=f"{room.used} of {room.what} {room.limit} connections are in use by others",
        remedy=f"{room.raise_it}; or close sessions that are not needed: {_WHO_CONNECTS}",
    )
