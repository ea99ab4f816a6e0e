"""`--lease`: the server's clock decides over an advlock that does not run any more."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waiting import eventually

from advlock._liveness import Bounds
from advlock.cli.exits import Exit

from .helpers import PATIENCE, WORKER, Cli, alive, sessions

if TYPE_CHECKING:
    from psycopg import Connection

LEASE = 2.0
BOUNDS = Bounds(lease=LEASE)
SEVERAL = 2.2 * LEASE
BUSY = 3.0  # seconds that a busy machine may take more
OPTIONS = ("--lease", f"{LEASE}s")


def free_after(admin: Connection[Any], name: str) -> float:
    """How many seconds from now on the server keeps the lock."""
    start = time.monotonic()
    eventually(lambda: not sessions(admin, name), within=PATIENCE, message="the lease ended")
    return time.monotonic() - start


def wake_ups(pid: int) -> int:
    """How often a process went to sleep of its own accord."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", _status(pid), re.MULTILINE)
    assert found
    return int(found[1])


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_heartbeats_keep_the_lease_and_a_frozen_advlock_loses_it(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """For several leases the lock stays, at a few wake-ups each; stopped, it is free after one."""
    started = cli.start("run", *OPTIONS, name, "--", *WORKER)
    started.worker()
    held_by, woken = sessions(admin, name), wake_ups(started.pid)
    time.sleep(SEVERAL)
    woken = wake_ups(started.pid) - woken
    assert sessions(admin, name) == held_by
    beats = SEVERAL / BOUNDS.heartbeat
    assert beats / 2 < woken < 4 * beats + 5, "a quiet run sleeps"
    started.send(signal.SIGSTOP)
    assert LEASE - BOUNDS.heartbeat - 0.5 < free_after(admin, name) < LEASE + BUSY
    started.send(signal.SIGCONT)
    assert started.line() == "child got TERM"
    assert started.code() == Exit.LOST
    assert "terminating connection due to idle-session timeout" in started.stderr()


def test_the_lease_ends_after_kill_9_though_the_command_runs(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """Nobody sends heartbeats any more; without a lease the same lock would stay."""
    leased = cli.start("run", *OPTIONS, name, "--", *WORKER)
    control = cli.start("run", f"{name}-control", "--", *WORKER)
    workers = [leased.worker(), control.worker()]
    leased.send(signal.SIGKILL)
    control.send(signal.SIGKILL)
    assert LEASE - BOUNDS.heartbeat - 0.5 < free_after(admin, name) < LEASE + BUSY
    assert sessions(admin, f"{name}-control")
    for worker in workers:
        assert alive(worker)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda pid=worker: not alive(pid))
