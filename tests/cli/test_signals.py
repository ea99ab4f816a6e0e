"""Signals: forwarded while the command runs, obeyed while we still wait for the lock."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .helpers import IN_CALLBACK, SIGNALS, WORKER, alive, sessions, state

if TYPE_CHECKING:
    from psycopg import Connection

    from .helpers import Cli


def short(signum: signal.Signals) -> str:
    """A signal's name as the worker tells it."""
    return signum.name.removeprefix("SIG")


@pytest.mark.parametrize("signum", SIGNALS, ids=short)
def test_a_signal_reaches_the_whole_group(cli: Cli, name: str, signum: signal.Signals) -> None:
    """Each of the six signals is forwarded to the command and to its own child."""
    started = cli.start("run", name, "--", *WORKER, "--fork", "--ends-on", short(signum))
    started.lines(2)
    started.send(signum)
    assert started.lines(2) == {f"child got {short(signum)}", f"grandchild got {short(signum)}"}
    assert started.code() == 0


def test_signals_of_different_kinds_all_arrive(cli: Cli, name: str) -> None:
    """Signals that come in a burst are forwarded one by one, and none is lost."""
    started = cli.start("run", name, "--", *WORKER, "--ends-on", "nothing")
    child = started.worker()
    for signum in SIGNALS:
        started.send(signum)
    assert started.lines(6) == {f"child got {short(signum)}" for signum in SIGNALS}
    os.kill(child, signal.SIGKILL)
    assert started.code() == 128 + signal.SIGKILL


@pytest.mark.parametrize("signum", SIGNALS, ids=short)
def test_a_signal_ends_the_wait(
    cli: Cli, admin: Connection[Any], name: str, signum: signal.Signals
) -> None:
    """While waiting, each of the six ends advlock with 128+n; nobody waits at the server then."""
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    started = cli.start("run", name, "--", "echo", "ran")
    assert started.said().startswith(f"advlock: waiting for '{name}'")
    started.send(signum)
    assert started.code() == 128 + signum
    assert started.stderr() == ""
    eventually(lambda: not sessions(admin, name, granted=False), message="nobody in the queue")
    admin.execute("SELECT pg_advisory_unlock_all()")


def test_a_signal_ends_the_wait_for_a_slot(cli: Cli, name: str) -> None:
    """The polling wait for one of several slots ends on TERM too."""
    holder = cli.start("run", "--slots", "1", name, "--", *WORKER)
    holder.worker()
    waiter = cli.start("run", "--slots", "1", name, "--", "true")
    assert "waiting" in waiter.said()
    waiter.send(signal.SIGTERM)
    assert waiter.code() == 128 + signal.SIGTERM
    holder.send(signal.SIGTERM)
    assert holder.code() == 0


def test_a_signal_ends_a_connect_that_hangs(cli: Cli, name: str) -> None:
    """A server that accepts and then says nothing does not keep us from ending on TERM."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"host=127.0.0.1 port={silent.getsockname()[1]} sslmode=disable user=x"
        started = cli.start("run", name, "--dsn", address, "--", "true")
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)
            started.send(signal.SIGTERM)
            assert started.code() == 128 + signal.SIGTERM


def test_the_command_starts_with_clean_signals(cli: Cli, name: str) -> None:
    """The command has no signal blocked and none ignored, SIGPIPE included."""
    code, out, _ = cli("run", name, "--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    assert code == 0
    # Above 31 are the C library's own: glibc's posix_spawn ignores 32 and 33 for the new program.
    assert {int(line.split()[1], 16) & 0x7FFFFFFF for line in out.splitlines()} == {0}


def test_nohup_is_respected(cli: Cli, name: str) -> None:
    """A signal that was ignored when we were started stays so, for us and for the command."""

    def ignoring_hup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    script = "grep SigIgn /proc/self/status; read line"
    started = cli.start(
        *("run", name, "--", "sh", "-c", script),
        preexec_fn=ignoring_hup,
        stdin=subprocess.PIPE,
    )
    ignored = int(started.line().split()[1], 16)
    assert ignored >> (signal.SIGHUP - 1) & 1
    started.send(signal.SIGHUP)
    assert started.process.stdin
    started.process.stdin.write(b"go on\n")
    assert started.code() == 0


def test_the_command_has_a_session_of_its_own(cli: Cli, name: str) -> None:
    """Without a terminal the command leads a session, so that its group is all there is of it."""
    started = cli.start("run", name, "--", *WORKER)
    child = started.worker()
    assert os.getsid(child) == os.getpgid(child) == child
    started.send(signal.SIGTERM)
    assert started.code() == 0


def test_ctrl_z_stops_a_command_in_another_session(cli: Cli, name: str) -> None:
    """TSTP stops the command and then us, CONT continues both, and nothing is forgotten."""
    started = cli.start("run", name, "--", *WORKER)
    child = started.worker()
    started.send(signal.SIGTSTP)
    eventually(lambda: state(child) == state(started.pid) == "T", message="both stopped")
    started.send(signal.SIGCONT)
    eventually(lambda: state(child) != "T" and state(started.pid) != "T", message="both go on")
    started.send(signal.SIGTERM)
    assert started.line() == "child got TERM"
    assert started.code() == 0


def test_a_stopped_command_hears_of_its_end(cli: Cli, name: str) -> None:
    """A command that is stopped when its time is over is continued, so that TERM reaches it."""
    started = cli.start("run", "--max-runtime", "4", "-k", "15", name, "--", *WORKER)
    os.kill(started.worker(), signal.SIGSTOP)
    assert started.line() == "child got TERM"
    assert started.code() == 124


def test_no_orphan_when_term_ends_the_command(cli: Cli, name: str) -> None:
    """After TERM to the wrapper neither it nor the command is left (hashicorp/consul#797)."""
    started = cli.start("run", name, "--", "sleep", "60", stdout=subprocess.DEVNULL)
    child = eventually(lambda: _only_child(started.pid))
    started.send(signal.SIGTERM)
    assert started.code() == 128 + signal.SIGTERM
    assert not alive(child)


def _only_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return int(children.strip() or 0)


@pytest.mark.parametrize("signum", SIGNALS, ids=short)
def test_a_signal_is_heard_where_python_ignores_what_is_raised(
    cli: Cli, admin: Connection[Any], name: str, signum: signal.Signals
) -> None:
    """In a finalizer, or in a callback of the import system; nothing is said of it."""
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    program = (*IN_CALLBACK, str(signum.value), "_Raise")
    started = cli.program(*program, "run", name, "--", "echo", "ran")
    assert started.line() == "in a callback"
    assert started.code() == 128 + signum
    assert "gnored" not in started.stderr()
    admin.execute("SELECT pg_advisory_unlock_all()")
