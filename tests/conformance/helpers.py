"""What the promises ask of the server, as a bystander."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from servers import locks_in_db
from waiting import aeventually

from advlock import Key
from advlock._ledger import ASKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from psycopg import Connection
    from servers import LockRow

    Admin = Connection[Any]
    Sessions = Callable[[str], list[object]]

_ENTRIES = """
SELECT pid, granted, mode FROM pg_locks
WHERE locktype = 'advisory' AND classid = %s::bigint::oid
  AND objid = %s::bigint::oid AND objsubid = %s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
_END = "SELECT count(pg_terminate_backend(pid)) FROM unnest(%s::int[]) AS pid"


def one(session: Admin, sql: str, *params: object) -> Any:
    """The first column of the first row."""
    row = session.execute(sql, params or None).fetchone()
    assert row is not None
    return row[0]


def entries(admin: Admin, name: Any) -> list[tuple[int, bool, str]]:
    """Who holds a key and who waits for it: (pid, granted, mode)."""
    key = Key.of(name)
    high, low = (key.value >> 32) & 0xFFFFFFFF, key.value & 0xFFFFFFFF
    return admin.execute(_ENTRIES, (high, low, 2 if key.pair else 1)).fetchall()


def holding(admin: Admin, *names: Any) -> list[int]:
    """The server processes that hold one of these."""
    return [pid for name in names for pid, granted, _ in entries(admin, name) if granted]


def waiting(admin: Admin, *names: Any) -> list[int]:
    """The server processes that wait for one of these."""
    return [pid for name in names for pid, granted, _ in entries(admin, name) if not granted]


def backends(admin: Admin, application: str) -> list[int]:
    """The server processes of one client."""
    return [pid for (pid,) in admin.execute(_BACKENDS, (application,))]


def terminate(admin: Admin, *pids: int) -> int:
    """End sessions, as a DBA does."""
    return int(one(admin, _END, list(pids)))


def others_locks(admin: Admin, *mine: int) -> list[LockRow]:
    """Every advisory lock, and every wait for one, but those of the sessions `mine`."""
    return [row for row in locks_in_db(admin) if row.pid not in mine]


async def no_locks(admin: Admin, *mine: int, within: float = 5.0) -> None:
    """Wait until nobody but the sessions `mine` holds a lock or waits for one."""
    left: list[LockRow] = []

    def none_left() -> bool:
        left[:] = others_locks(admin, *mine)
        return not left

    try:
        await aeventually(none_left, within=within)
    except AssertionError:
        raise AssertionError(f"locks stayed behind: {left[:5]} ({len(left)} in all)") from None


async def is_waiting(admin: Admin, *names: Any, count: int = 1) -> list[int]:
    """Wait until `count` sessions wait on the server; who they are."""
    return await aeventually(
        lambda: len(pids := waiting(admin, *names)) >= count and pids, message="a waiter"
    )


async def contends(client: Any, admin: Admin, *names: Any, count: int = 1) -> None:
    """Wait until `count` callers of our client wait for these: on the server, or, pinned, polling.

    A client that is pinned asks again and again instead, so nobody sees it in pg_locks.
    """
    keys = [client._ascii_key(name) for name in names]

    def naps(ticket: Any) -> bool:
        return ticket.key in keys and ticket.state is ASKING and ticket.waker is not None

    def are_there() -> bool:
        if client._pinned:
            return sum(map(naps, client._ledger.tickets())) >= count
        return len(waiting(admin, *names)) >= count

    await aeventually(are_there, message="a waiter")


async def turns_red(check: Coroutine[Any, Any, None]) -> None:
    """Expect a check to fail: what it checks was switched off."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await check


async def soon(task: asyncio.Task[Any], within: float = 5.0) -> Any:
    """The outcome of a pending call, which must come soon."""
    done, _ = await asyncio.wait([task], timeout=within)
    assert done, f"still pending after {within} s"
    return task.result()


class Counting:
    """A wire that counts what is sent."""

    def __init__(self, wire: Any, sent: list[str]) -> None:
        self.__dict__.update(_wire=wire, _sent=sent)

    def __getattr__(self, name: str) -> Any:
        if name in ("send_ops", "send_script"):
            self._sent.append(name)
        return getattr(self._wire, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wire, name, value)
