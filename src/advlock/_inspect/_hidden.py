"""What this role could not see, each in a sentence that says what to type. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from advlock._inspect._read import Answer
    from advlock._inspect._session_row import SessionRow
    from advlock._inspect._tree import LockTree

_CRON: Final = ("cron_run", "cron_host")
_NO_TABLES: Final = "advlock.lock_name and the cron's tables"


def hidden(
    answer: Answer,
    sessions: Collection[SessionRow],
    trees: Sequence[LockTree],
    *,
    locked: bool = False,
) -> tuple[str, ...]:
    """Say it.

    Args:
        answer: What the server said.
        sessions: Who holds and who waits.
        trees: What was made of it.
        locked: Whether our tables could not be read though this role may.
    """
    role = identifier(answer.role)
    return (
        *_sessions(sessions, role),
        *_tables(answer.readable, role, locked=locked),
        *_blockers(trees),
        *_elsewhere(answer.database, trees),
    )


def identifier(name: str) -> str:
    """Quote a name for SQL, where it needs that."""
    if name.isidentifier() and name.isascii() and name == name.lower():
        return name
    return '"' + name.replace('"', '""') + '"'


def _sessions(sessions: Collection[SessionRow], role: str) -> Iterable[str]:
    count = sum(one.hidden for one in sessions)
    if count:
        of = f"{count} of {len(sessions)} sessions"
        yield (
            f"where {of} come from and what they do is hidden from the role {role}; as a "
            f"superuser: GRANT pg_monitor TO {role}"
        )


def _tables(readable: dict[str, bool], role: str, *, locked: bool) -> Iterable[str]:
    if locked:
        yield f"{_NO_TABLES} could not be read this time, as somebody changes them; ask again"
        return
    use = f"GRANT USAGE ON SCHEMA advlock TO {role}; GRANT SELECT ON"
    if readable.get("lock_name") is False:
        yield (
            f"the names that processes recorded are hidden from the role {role}; as the owner of "
            f"the schema: {use} advlock.lock_name TO {role}"
        )
    if any(readable.get(table) is False for table in _CRON):
        tables = ", ".join(f"advlock.{table}" for table in _CRON)
        yield (
            f"the names of the cron's locks are hidden from the role {role}; as the owner of the "
            f"schema: {use} {tables} TO {role}"
        )


def _blockers(trees: Sequence[LockTree]) -> Iterable[str]:
    count = sum(len(tree.waiters) for tree in trees)
    if count > 500:  # noqa: PLR2004 - as in `_sql.LOOK`
        yield f"whom they wait for was asked of the first 500 of {count} waiters only"


def _elsewhere(database: str, trees: Sequence[LockTree]) -> Iterable[str]:
    others = {tree.database for tree in trees if tree.name is None} - {database}
    if others:
        first = min(others)
        yield (
            f"names that were recorded in other databases are to be had there only: ask with a "
            f"--dsn whose database is {first!r}"
        )
