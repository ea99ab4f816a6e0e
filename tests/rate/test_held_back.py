"""A long transaction keeps VACUUM from cleaning up: permits are granted as quickly all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from advlock import Locks
from advlock._rate import _desk, _plan, _sql
from advlock._rate._desk import Desk
from advlock._rate._plan import Answer
from advlock._rate._rate import Rate

from .test_decide import KEY, START

if TYPE_CHECKING:
    from psycopg import Connection

MANY = 12_000
LIMIT = 1000
WINDOW = 10_000_000  # microseconds
LATER = START.replace(hour=23).isoformat()
# A permit each second, each in a window of its own.
FILL = """
INSERT INTO advlock.rate_grant (key, first, upto, at, n, past, until)
SELECT %s, i, i, %s + i * interval '1 s', 1, greatest(0, i - %s),
       %s + i * interval '1 s' + %s * interval '1 microsecond'
FROM generate_series(1, %s) AS i
"""


def pages(admin: Connection[Any]) -> int:
    """How many pages one decision reads."""
    admin.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
    admin.execute("SET enable_bitmapscan = off")
    admin.execute("DEALLOCATE ALL")
    admin.execute(_sql.PREPARE)
    ask = (
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
        f"EXECUTE advlock_rate({KEY}, '{{1}}', '{{0}}', {LIMIT}, {WINDOW}, 0, 1, '{LATER}')"
    )
    row = admin.execute(ask.encode()).fetchone()
    assert row
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@pytest.mark.parametrize("knows", [True, False])
def test_the_dead_are_not_searched(
    table: Connection[Any], database: str, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """What was cleaned up is still in the index. The control: the last row does not say how far."""
    if not knows:
        control = _sql.PREPARE.replace("row.first > last.past", "row.first > 0")
        monkeypatch.setattr(_sql, "PREPARE", control)
    table.execute(FILL, [KEY, START, LIMIT, START, WINDOW, MANY])
    with psycopg.connect(database) as somebody:
        somebody.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        somebody.execute("SELECT count(*) FROM advlock.rate_grant")
        table.execute("DELETE FROM advlock.rate_grant WHERE first < %s", [MANY - 9])
        read = pages(table)
    assert (read < 60) is knows, read


def test_cleaning_up_that_takes_too_long_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It keeps others waiting, and would go wrong again."""
    monkeypatch.setattr(_desk, "sweeps", lambda: True)
    desk = Desk(Rate(1, 1.0), None, None)
    granted = [Answer(0.0, granted=True)]
    assert not desk.sweeps([Answer(1.0, granted=False)], 0.0)
    assert desk.sweeps(granted, 0.0)  # and fails
    assert not desk.sweeps(granted, 59.0)
    assert desk.sweeps(granted, 60.0)
    desk.note_swept(7, well=True)
    assert desk.sweeps(granted, 60.1)
    assert desk.swept == 7


def test_what_there_is_too_much_of_goes_bit_by_bit(table: Connection[Any], dsn: str) -> None:
    """Whoever comes after a long pause removes a bounded number at a time, the oldest first."""
    many = 5000
    with Locks(dsn) as locks:
        limit = locks.rate_limit("x", 5, 1)
        limit.acquire()
        key = locks._key("rate:x", None).value
        table.execute("TRUNCATE advlock.rate_grant")
        table.execute(
            FILL, [key, START.replace(year=2020), LIMIT, START.replace(year=2020), 1, many + 9]
        )
        swept, well = limit._ask(lambda _, key: _plan.sweep(key, 0), None)
    assert (swept, well) == (many, True)
