"""Semaphores among processes that are killed, frozen and cut off: never more than there are slots.

The record is the server's (`semaphore/worker.py`): both ends of every row are moments at which the
session with the slot was alive, by the server's clock.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from semaphore.crew import Crew, disagreed, doubles, most_at_once

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    import pytest
    from psycopg import Connection

_SECONDS = 4.0
_SLOTS = 3
_WORKERS = 5
_ODD = _SLOTS + 1  # what one of them says instead
DEEDS = ("kill", "terminate", "freeze")
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM (
    SELECT pid FROM pg_stat_activity
    WHERE application_name LIKE 'advlock%' AND datname = current_database()
    ORDER BY random() LIMIT 1
) AS victim
"""


class Nemesis:
    """Kills, freezes and cuts off, as the seed has it."""

    def __init__(self, crew: Crew, admin: Connection[Any], name: str, seed: int) -> None:
        self.deeds: Counter[str] = Counter()
        self._crew, self._admin, self._name = crew, admin, name
        self._random = random.Random(seed)  # noqa: S311 - to be repeated

    def rage(self, seconds: float) -> None:
        """Go on for so long."""
        workers = [self._start(seconds) for _ in range(_WORKERS)]
        self._crew.start("slots", seconds, self._name, _ODD, 0.2)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(self._random.uniform(0.05, 0.2))
            left_out = [deed for deed in DEEDS if not self.deeds[deed]]
            # Not too many are killed: to start takes longer than to hold a slot.
            deed = left_out[0] if left_out else self._random.choices(DEEDS, (1, 3, 2))[0]
            self.deeds[deed] += 1
            if deed == "terminate":
                self._admin.execute(_TERMINATE)
                continue
            victim = self._random.choice(workers)
            if deed == "kill":
                victim.kill()
                workers[workers.index(victim)] = self._start(left)
            else:
                with contextlib.suppress(ProcessLookupError):
                    victim.send_signal(signal.SIGSTOP)
                    time.sleep(0.15)
                    victim.send_signal(signal.SIGCONT)

    def _start(self, seconds: float) -> subprocess.Popen[str]:
        return self._crew.start("slots", seconds, self._name, _SLOTS, 2.0)


def test_semaphore_chaos(
    dsn: str,
    admin: Connection[Any],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Never more than the slots at a time, no slot twice, and nobody who says another number."""
    minutes = request.config.getoption("--chaos-minutes", None)
    seed = request.config.getoption("--chaos-seed", None) or random.randrange(10**6)  # noqa: S311
    name = f"chaos-{uuid.uuid4().hex[:8]}"
    with Crew(dsn, admin) as crew:
        nemesis = Nemesis(crew, admin, name, seed)
        nemesis.rage(60.0 * minutes if minutes else _SECONDS)
        said = Counter(line.split()[0] for line in crew.said())
        rows = crew.rows()
    facts = f"seed {seed}: {len(rows)} holds, {dict(nemesis.deeds)}, {dict(said)}"
    record_property("chaos", facts)
    assert not doubles(rows), (facts, doubles(rows)[:3])
    assert not disagreed(rows), (facts, disagreed(rows)[:3])
    assert most_at_once(rows) <= _ODD, facts
    assert most_at_once(row for row in rows if row.said == _SLOTS) <= _SLOTS, facts
    assert set(DEEDS) == set(nemesis.deeds), facts
    assert len({row.who for row in rows}) >= _WORKERS, facts


def test_unprotected_they_are_more(dsn: str, admin: Connection[Any]) -> None:
    """The control: the same record of processes that nothing keeps apart shows it."""
    name = f"chaos-{uuid.uuid4().hex[:8]}"
    with Crew(dsn, admin, together=True) as crew:
        for said in (_SLOTS, _SLOTS, _SLOTS, _ODD, _ODD):
            crew.start("unprotected", 0.8, name, said)
        crew.said()
        rows = crew.rows()
    assert doubles(rows)
    assert disagreed(rows)
    assert most_at_once(rows) > _SLOTS
