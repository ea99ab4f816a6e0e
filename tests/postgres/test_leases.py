"""idle_session_timeout, set by a session on itself, makes the server end it like a lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.pq import ExecStatus
from waiting import eventually

from .helpers import answers, entry, is_gone, send
from .lan import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

LEASE = 2.0  # seconds
SLACK = 1.0  # for the machine
HEARTBEAT = "/* heartbeat */"
ACTIVITY = "SELECT state, query, backend_xid, backend_xmin FROM pg_stat_activity WHERE pid = %s"

HOLDER = """
import sys, time, psycopg
session = psycopg.connect(sys.argv[1], autocommit=True)
session.execute("SELECT set_config('idle_session_timeout', %s, false)", sys.argv[2:3])
print(session.info.backend_pid, time.monotonic(), flush=True)
session.execute("SELECT pg_advisory_lock(" + sys.argv[3] + ")")
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A process that holds a lock, or waits for it, and can be stopped.

    Attributes:
        process: The process.

        pid: Its backend.

        last: Just before its last statement, on the monotonic clock.
    """

    process: subprocess.Popen[bytes]
    pid: int
    last: float

    def freeze(self) -> None:
        """Stop the process, as a machine does that is paused."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)


@contextmanager
def client(dsn: str, lease: float, key: int) -> Iterator[Client]:
    """Run a process that locks `key` under a lease, 0 for none, and then does nothing."""
    command = [sys.executable, "-c", HOLDER, dsn, f"{lease * 1000:.0f}", str(key)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            pid, last = process.stdout.readline().split()
            yield Client(process, int(pid), float(last))
        finally:
            process.kill()


def look_until_granted(watch: Watch, pid: int) -> None:
    """Return once the witness has seen this backend's lock."""

    def granted() -> bool:
        watch.look()
        return pid in watch.granted

    eventually(granted, message="the lock is granted")


def look_until_freed(watch: Watch, pid: int) -> tuple[float, float]:
    """Return the last look that saw this backend's lock, and the first that missed it."""

    def freed() -> float | None:
        watch.look()
        return watch.freed.get(pid)

    eventually(freed, message="the lock is free")
    return watch.held[pid], watch.freed[pid]


def test_a_frozen_holder_is_ended_one_lease_after_its_last_statement(
    connect: Connect, dsn: str, key: int
) -> None:
    """Its lock is free then, and not before; the lock of a frozen one without a lease is not."""
    watch = Watch(connect())
    with client(dsn, 0, key) as plain, client(dsn, LEASE, key + 1) as leased:
        for frozen in (plain, leased):
            look_until_granted(watch, frozen.pid)
            frozen.freeze()
        held, freed = look_until_freed(watch, leased.pid)
        assert freed - leased.last >= LEASE
        assert held - leased.last <= LEASE + SLACK
        assert plain.pid not in watch.freed


def test_a_waiter_is_not_idle_and_its_lease_begins_with_the_grant(
    connect: Connect, dsn: str, key: int
) -> None:
    """A frozen waiter outlives its lease in the queue, is granted, and is ended a lease later."""
    witness = connect()
    watch = Watch(witness)
    witness.execute(f"SELECT pg_advisory_lock({key})")
    with client(dsn, LEASE, key) as waiter:
        eventually(lambda: entry(witness, waiter.pid, key) is False, message="a waiter")
        waiter.freeze()
        time.sleep(max(0, waiter.last + 1.5 * LEASE - time.monotonic()))
        assert entry(witness, waiter.pid, key) is False
        granted = time.monotonic()
        witness.execute(f"SELECT pg_advisory_unlock({key})")
        look_until_granted(watch, waiter.pid)
        held, freed = look_until_freed(watch, waiter.pid)
        assert freed - granted >= LEASE
        assert held - granted <= LEASE + SLACK


def test_an_empty_statement_is_a_heartbeat(connect: Connect, key: int) -> None:
    """A comment alone renews the lease; the session that sends none is ended meanwhile.

    It leaves nothing that holds VACUUM back, and the server shows it as the last statement.
    """
    witness, beating, silent = connect(), connect(), connect()
    for session in (beating, silent):
        session.execute(f"SET idle_session_timeout = '{LEASE}s'")
        session.execute(f"SELECT pg_advisory_lock({key + session.info.backend_pid})")
    ended = time.monotonic() + 2.5 * LEASE
    while time.monotonic() < ended:
        send(beating, HEARTBEAT)
        assert [result.status for result in answers(beating)] == [ExecStatus.EMPTY_QUERY]
        time.sleep(LEASE / 5)
    shown = witness.execute(ACTIVITY, (beating.info.backend_pid,)).fetchone()
    assert shown == ("idle", HEARTBEAT, None, None)
    assert is_gone(witness, silent.info.backend_pid)
