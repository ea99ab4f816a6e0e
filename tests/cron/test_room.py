"""A host without room for all: what it did not get, somebody has, or it comes back for it."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from waiting import eventually

from .hands import job

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from .hands import Hand, Rows

_WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND locktype = 'transactionid' AND datname = current_database()
"""
_CLAIM = """
INSERT INTO advlock.cron_run (job, scheduled_at, state, claimed_at)
SELECT name, date_trunc('minute', clock_timestamp() + interval '1 minute'), 'claimed',
       clock_timestamp()
FROM unnest(%s::text[]) AS of(name)
"""


def test_what_two_wanted_and_one_got_leaves_the_rest_undecided(
    hands: Callable[..., Hand], rows: Rows, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts with room for two of three ticks claim the same two; one of them gets none.

    The third tick is nobody's yet, and it must not believe that somebody has it: if the other one
    is killed now, or believes the same, the tick is forgotten.
    """
    monkeypatch.setattr(random, "shuffle", lambda ticks: ticks)
    hand = hands(*(job(f"j{n}", "* * * * *") for n in range(3)), room=2)
    hand.turn()
    hand.ahead = timedelta(minutes=1)
    got: list[Any] = []
    with psycopg.connect(dsn) as rival:
        rival.execute(_CLAIM, [["j0", "j1"]])
        claiming = threading.Thread(target=lambda: got.extend(hand.claims()))
        claiming.start()
        eventually(lambda: rows.ask(_WAITING))
        rival.commit()
        claiming.join()
    assert got == []
    assert [claim.job.name for claim in hand.claims()] == ["j2"]
