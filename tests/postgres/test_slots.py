"""What semaphores believe about the server: one statement that declares, looks and takes."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from advlock import _sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

REQUEST = re.sub(r"\$\d", "%s", _sql.DECLARING_BATCH.replace("%", "%%"))
PLANNER: dict[str, dict[str, str]] = {
    "as it is": {},
    "generic plans": {"plan_cache_mode": "force_generic_plan"},
    "custom plans": {"plan_cache_mode": "force_custom_plan"},
    "everything dear": {"cpu_tuple_cost": "1e9", "jit": "on", "jit_above_cost": "0"},
    "parallel": {"force_parallel_mode": "on", "debug_parallel_query": "on"},
    "no materializing": {"enable_material": "off", "enable_memoize": "off"},
    "no hashes": {"enable_hashagg": "off", "enable_hashjoin": "off"},
}
SETTINGS = """
    SELECT set_config(name, wanted, false)
    FROM unnest(%s::text[], %s::text[]) AS w (name, wanted)
    JOIN pg_settings USING (name)"""


def ask(session: Connection[Any], *ops: tuple[int, int]) -> list[bool]:
    """Send one combined request."""
    codes, keys = zip(*ops, strict=True)
    rows = session.execute(REQUEST, (list(codes), list(keys)), prepare=True).fetchall()
    return [answer for (answer,) in rows]


@pytest.fixture
def agreed() -> int:
    """Keys that are alike but for their last 16 bits; this one's are 0."""
    return int.from_bytes(secrets.token_bytes(8), signed=True) & ~0xFFFF


@pytest.mark.parametrize("planner", PLANNER)
def test_who_declares_sees_who_differs(connect: Connect, agreed: int, planner: str) -> None:
    """Whoever differs is refused and holds nothing of it; the same may come; then the other."""
    mine, other = connect(), connect()
    settings = PLANNER[planner]
    for session in (mine, other):
        session.execute(SETTINGS, ([*settings], [*settings.values()]))
    declare, first = _sql.DECLARE, _sql.DECLARE_FIRST
    assert ask(mine, (declare, agreed + 4)) == [True]
    assert ask(other, (declare, agreed + 5), (first, agreed + 5)) == [False, False]
    assert ask(other, (_sql.UNLOCK_SHARED, agreed + 5)) == [False]
    assert ask(other, (declare, agreed + 4)) == [True]
    # Somebody waits: only the first of those may declare now.
    assert ask(mine, (_sql.TRY, agreed)) == [True]
    assert ask(other, (declare, agreed + 4), (first, agreed + 4)) == [False, True]
    assert ask(mine, (_sql.UNLOCK, agreed), (_sql.UNLOCK_SHARED, agreed + 4)) == [True, True]
    assert ask(other, *[(_sql.UNLOCK_SHARED, agreed + 4)] * 3) == [True, True, False]
    assert ask(mine, (declare, agreed + 5)) == [True]


@pytest.mark.parametrize("planner", PLANNER)
def test_each_row_looks_anew(connect: Connect, agreed: int, planner: str) -> None:
    """What an earlier row of the same request took or released counts for the next."""
    session = connect()
    settings = PLANNER[planner]
    session.execute(SETTINGS, ([*settings], [*settings.values()]))
    declare, release = _sql.DECLARE, _sql.UNLOCK_SHARED
    rows = [(declare, 4), (declare, 5), (release, 4), (declare, 5), (declare, 4), (release, 5)]
    answers = ask(session, *((code, agreed + slots) for code, slots in rows))
    assert answers == [True, False, True, True, False, True]


def test_in_from_the_server_would_not_look_anew(connect: Connect, key: int) -> None:
    """The trap beside it: a function in FROM, as in pg_locks, keeps its rows for the statement."""
    session = connect()
    sql = """
        SELECT pg_try_advisory_lock(%s + n) AND (
            SELECT count(*) FROM {} WHERE (held).locktype = 'advisory'
               AND (held).pid = pg_backend_pid() AND n IS NOT NULL) = n
        FROM generate_series(1, 3) AS n"""
    lists = "(SELECT pg_lock_status() AS held) AS every"
    looks = session.execute(sql.format(lists), (key,)).fetchall()
    session.execute("SELECT pg_advisory_unlock_all()")
    keeps = session.execute(sql.format("pg_lock_status() AS held"), (key,)).fetchall()
    assert [row[0] for row in looks] == [True, True, True]
    assert [row[0] for row in keeps] == [True, False, False]


def test_other_keys_do_not_matter(connect: Connect, agreed: int) -> None:
    """Keys that differ in more than the last 16 bits, pairs of ints, other databases' locks."""
    mine, other = connect(), connect()
    assert ask(other, (_sql.DECLARE, agreed + 4)) == [True]
    for change in (1 << 16, 1 << 32, 1 << 62):
        assert ask(mine, (_sql.DECLARE, (agreed ^ change) + 5)) == [True]
    other.execute("SELECT pg_advisory_unlock_all()")
    high, low = agreed >> 32, agreed << 32 & (1 << 64) - 1
    low = (low - (1 << 64) if low >> 63 else low) >> 32
    other.execute("SELECT pg_advisory_lock_shared(%s::int, %s::int)", (high, low + 7))
    assert ask(mine, (_sql.DECLARE, agreed + 5)) == [True]
