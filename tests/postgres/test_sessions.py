"""How a session begins and ends, and what that does to its locks."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .helpers import entry, hang_up, one, start_waiting, waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]

# Two sessions: the child gets the socket of the first, and must not keep that of the second.
PARENT = """
import os, subprocess, sys, psycopg
dsn, mode, inherited, closed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
first, second = (psycopg.connect(dsn, autocommit=True) for _ in range(2))
first.execute(f"SELECT pg_advisory_lock({inherited})")
second.execute(f"SELECT pg_advisory_lock({closed})")
if mode == "fork":
    child = os.fork()
    if not child:
        os.close(second.fileno())
        sys.stdin.read()
        os._exit(0)
else:
    passed = [first.fileno()] if mode == "pass_fds" else []
    child = subprocess.Popen(["cat"], pass_fds=passed).pid
print(child, flush=True)
os.waitpid(child, 0)
"""


def try_lock(session: Connection[Any], key: int) -> bool:
    """Try for `key` without waiting."""
    granted: bool = one(session, f"SELECT pg_try_advisory_lock({key})")
    return granted


def test_direct_connections_know_their_backend(connect: Connect) -> None:
    """Without a pooler the process id of the startup packet is the backend's own."""
    session = connect()
    assert session.info.backend_pid == one(session, "SELECT pg_backend_pid()")


def test_a_vanished_idle_client_frees_its_locks(connect: Connect, key: int) -> None:
    """A socket closed without goodbye while idle frees the session's locks."""
    holder, other = connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    assert try_lock(other, key) is False
    hang_up(holder)
    eventually(lambda: try_lock(other, key), message="the lock is free")


def test_cancel_and_close_takes_a_waiter_out_of_the_queue(connect: Connect, key: int) -> None:
    """A waiter that cancels and closes leaves the queue, and its own locks are free."""
    holder, waiter = connect(), connect()
    waiter.execute("SET client_connection_check_interval = 0")
    waiter.execute(f"SELECT pg_advisory_lock({key + 1})")
    holder.execute(f"SELECT pg_advisory_lock({key})")
    start_waiting(holder, waiter, key)
    waiter.pgconn.get_cancel().cancel()
    hang_up(waiter)
    eventually(lambda: try_lock(holder, key + 1), message="the waiter's own lock is free")
    assert entry(holder, waiter.info.backend_pid, key) is None


def test_a_killed_waiter_leaves_when_the_server_checks_its_connection(
    connect: Connect, key: int
) -> None:
    """client_connection_check_interval removes a dead waiter; without it a ghost stays queued."""
    holder, checked, ghost = connect(), connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    checked.execute("SET client_connection_check_interval = '200ms'")
    ghost.execute("SET client_connection_check_interval = 0")
    for waiter in (ghost, checked):
        start_waiting(holder, waiter, key)
        hang_up(waiter)
    eventually(
        lambda: entry(holder, checked.info.backend_pid, key) is None,
        message="the checked waiter left the queue",
    )
    assert waits(holder, ghost, key)


def test_a_ghost_in_the_queue_is_granted_and_then_goes(connect: Connect, key: int) -> None:
    """A dead waiter gets its turn; its backend then fails to answer, ends and frees the lock."""
    holder, ghost, live = connect(), connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    ghost.execute("SET client_connection_check_interval = 0")
    start_waiting(holder, ghost, key)
    hang_up(ghost)
    start_waiting(holder, live, key)
    holder.execute(f"SELECT pg_advisory_unlock({key})")
    eventually(lambda: entry(holder, live.info.backend_pid, key), message="the live one has it")


@pytest.mark.parametrize("mode", ["fork", "pass_fds", "close_fds"])
def test_an_inherited_socket_keeps_the_lock(
    connect: Connect, dsn: str, key: int, mode: str
) -> None:
    """After kill -9 of the parent the lock stays exactly as long as a child has its socket."""
    witness = connect()
    command = [sys.executable, "-c", PARENT, dsn, mode, str(key), str(key + 1)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            eventually(lambda: try_lock(witness, key + 1), message="the other lock is free")
            if mode == "close_fds":
                eventually(lambda: try_lock(witness, key), message="the lock is free")
                return
            os.kill(child, 0)
            assert try_lock(witness, key) is False
        finally:
            parent.stdin.close()
        eventually(lambda: try_lock(witness, key), message="free after the child's end")


def test_rollback_and_reset_all_keep_session_locks(connect: Connect, key: int) -> None:
    """ROLLBACK and RESET ALL keep a session's locks; DISCARD ALL frees them."""
    holder, other = connect(), connect()
    holder.execute("BEGIN")
    holder.execute(f"SELECT pg_advisory_lock({key})")
    for keeps in ("ROLLBACK", "RESET ALL", "UNLISTEN *", "DEALLOCATE ALL", "CLOSE ALL"):
        holder.execute(keeps)
        assert try_lock(other, key) is False, keeps
    holder.execute("DISCARD ALL")
    assert try_lock(other, key) is True


def test_a_terminated_holder_frees_its_locks(connect: Connect, key: int) -> None:
    """pg_terminate_backend frees the locks of an idle holder, which sees it on its socket."""
    holder, other = connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    other.execute("SELECT pg_terminate_backend(%s)", (holder.info.backend_pid,))
    eventually(lambda: try_lock(other, key), message="the lock is free")
    assert select.select([holder.fileno()], [], [], 5.0)[0]
