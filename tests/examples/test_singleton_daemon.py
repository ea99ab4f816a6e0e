"""Three daemons, one of which numbers the orders, whoever dies meanwhile."""

from __future__ import annotations

import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from .conftest import Example

PATIENCE = 30.0  # seconds, on a busy machine
HOSTS = 3
_STANDBYS = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# Its row is locked as long as nobody ends that transaction.
_HALF_WAY = """
SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL
  AND state = 'idle in transaction'
"""
_END_LEADER = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
WHERE locktype = 'advisory' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def daemon(example: Callable[[str], Example]) -> Example:
    """A copy of the daemon, with its tables."""
    made = example("singleton_daemon")
    made.run("python daemon.py init")
    return made


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A bystander."""
    with psycopg.connect(url, autocommit=True) as session:
        yield session


def start(daemon: Example, admin: psycopg.Connection[Any]) -> list[subprocess.Popen[str]]:
    """Start three; one leads, and the others wait."""
    started = [daemon.start(sys.executable, "daemon.py", "run") for _ in range(HOSTS)]
    eventually(lambda: admin.execute(_STANDBYS).rowcount == HOSTS - 1, within=PATIENCE)
    return started


def leader(daemon: Example, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Who leads, of those that are alive: whoever has the greatest token."""

    def token(process: subprocess.Popen[str]) -> int:
        return max(map(int, re.findall(r"token (\d+)", daemon.said(process))), default=0)

    alive = [process for process in started if process.poll() is None]
    eventually(lambda: any(map(token, alive)), within=PATIENCE)
    return max(alive, key=token)


def order(daemon: Example, *customers: str) -> None:
    """Order, and wait for the invoices."""
    daemon.run(f"python daemon.py order {' '.join(customers)}")


def test_the_invoices_have_no_gap(daemon: Example, admin: psycopg.Connection[Any]) -> None:
    """A leader is killed, one loses its session, and TERM ends the rest."""
    started = start(daemon, admin)
    order(daemon, "a", "b")
    leader(daemon, started).kill()
    order(daemon, "c", "d")
    admin.execute(_END_LEADER)
    order(daemon, "e", "f")
    rows = admin.execute("SELECT customer, invoice FROM orders ORDER BY id").fetchall()
    assert rows == [(name, n) for n, name in enumerate("abcdef", 1)]
    alive = [process for process in started if process.poll() is None]
    for process in alive:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(PATIENCE) for process in alive] == [0] * (HOSTS - 1)


def test_a_late_leader_is_refused(daemon: Example, admin: psycopg.Connection[Any]) -> None:
    """One that does not know yet that its term is over changes nothing, and keeps nobody waiting.

    Neither when it was stopped in the middle of a transaction, which holds the row that its
    successor needs, until the server ends it.
    """
    started = start(daemon, admin)
    order(daemon, "a")
    for before, after in ("bc", "de"):
        late = leader(daemon, started)
        late.send_signal(signal.SIGSTOP)
        if before == "d":
            eventually(lambda late=late: stopped_half_way(late, admin), within=PATIENCE)
        admin.execute(_END_LEADER)
        order(daemon, before)
        fence = admin.execute("SELECT fence FROM invoice_desk").fetchone()
        late.send_signal(signal.SIGCONT)
        order(daemon, after)
        assert admin.execute("SELECT fence FROM invoice_desk").fetchone() >= fence
    rows = admin.execute("SELECT customer, invoice FROM orders ORDER BY id").fetchall()
    assert rows == [(name, n) for n, name in enumerate("abcde", 1)]


def stopped_half_way(process: subprocess.Popen[str], admin: psycopg.Connection[Any]) -> bool:
    """Let it go on for a moment, and tell whether it stands in a transaction now."""
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGSTOP)
    return admin.execute(_HALF_WAY).rowcount == 1
