"""With a terminal: keys reach the command once, and the command can use the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from .helpers import ADVLOCK, WORKER, default_signals, state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .helpers import Cli, Running

CTRL_C, CTRL_BACKSLASH, CTRL_Z = b"\x03", b"\x1c", b"\x1a"

# What an interactive shell does for a foreground job: a group of its own, which gets the terminal.
# Tells when the job stops, and continues it.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    status = os.waitpid(job, os.WUNTRACED)[1]
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    os.tcsetpgrp(0, os.getpgrp())
    print(f"stopped {job}", flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""


class Terminal:
    """A pseudo-terminal: what is typed goes in at `master`."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()

    def take(self) -> None:
        """Make it the controlling terminal of the calling process, in a new session."""
        default_signals()
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def settings(self) -> dict[str, Any]:
        """How to start a program on it; its stdout is still a pipe that we read."""
        return {"stdin": self.slave, "preexec_fn": self.take}

    def type(self, keys: bytes) -> None:
        """Type."""
        os.write(self.master, keys)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal that is closed afterwards."""
    made = Terminal()
    yield made
    os.close(made.master)
    os.close(made.slave)


@pytest.fixture
def started(cli: Cli, name: str, terminal: Terminal) -> Running:
    """A worker under a lock, on a terminal; it ends on TERM."""
    return cli.start("run", name, "--", *WORKER, **terminal.settings())


def test_the_command_shares_our_foreground_group(started: Running) -> None:
    """With a terminal the command stays in our group and session, so that it may read the keys."""
    child = started.worker()
    assert os.getpgid(child) == os.getpgid(started.pid)
    assert os.getsid(child) == os.getsid(started.pid)
    started.send(signal.SIGTERM)
    assert started.code() == 0


@pytest.mark.parametrize(("key", "told"), [(CTRL_C, "INT"), (CTRL_BACKSLASH, "QUIT")])
def test_a_key_reaches_the_command_exactly_once(
    started: Running, terminal: Terminal, key: bytes, told: str
) -> None:
    """Ctrl-C and Ctrl-backslash come from the terminal; we do not send them a second time."""
    started.worker()
    terminal.type(key)
    assert started.line() == f"child got {told}"
    # Signals wait in order of their number: a second INT or QUIT would arrive before this one.
    started.send(signal.SIGUSR1)
    assert started.line() == "child got USR1"
    started.send(signal.SIGTERM)
    assert started.line() == "child got TERM"
    assert started.code() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2])
def test_a_signal_from_a_process_is_forwarded(started: Running, signum: signal.Signals) -> None:
    """`kill` of the wrapper reaches the command, also with the signals that keys send."""
    started.worker()
    started.send(signum)
    assert started.line() == f"child got {signum.name.removeprefix('SIG')}"
    if signum != signal.SIGTERM:
        started.send(signal.SIGTERM)
    assert started.code() == 0


def test_a_key_reaches_a_command_whose_stdin_is_no_terminal(
    cli: Cli, name: str, terminal: Terminal
) -> None:
    """With stdin redirected the command has a session of its own, and we pass Ctrl-C on to it."""
    settings = terminal.settings() | {"stdin": subprocess.DEVNULL}
    started = cli.start("run", name, "--", *WORKER, "--ends-on", "INT", **settings)
    assert os.getsid(started.worker()) != os.getsid(started.pid)
    terminal.type(CTRL_C)
    assert started.line() == "child got INT"
    assert started.code() == 0


def test_the_command_reads_the_terminal(cli: Cli, name: str, terminal: Terminal) -> None:
    """What is typed is the command's stdin: a prompt works under a lock."""
    script = 'echo ready; read answer; echo "answer: $answer"'
    started = cli.start("run", name, "--", "sh", "-c", script, **terminal.settings())
    assert started.line() == "ready"
    terminal.type(b"yes\n")
    assert started.line() == "answer: yes"
    assert started.code() == 0


def test_ctrl_c_ends_the_wait(cli: Cli, name: str, terminal: Terminal) -> None:
    """Ctrl-C while waiting for the lock ends advlock with 130."""
    holder = cli.start("run", name, "--", *WORKER)
    holder.worker()
    waiter = cli.start("run", name, "--", "true", **terminal.settings())
    assert "waiting" in waiter.said()
    terminal.type(CTRL_C)
    assert waiter.code() == 128 + signal.SIGINT
    holder.send(signal.SIGTERM)
    assert holder.code() == 0


def test_a_terminal_that_goes_away_ends_the_command(
    cli: Cli, name: str, terminal: Terminal
) -> None:
    """When the terminal hangs up on us as its session's leader, the command hears HUP as well."""
    started = cli.start("run", name, "--", *WORKER, "--ends-on", "HUP", **terminal.settings())
    started.worker()
    os.close(terminal.master)
    terminal.master = os.dup(terminal.slave)
    assert started.line() == "child got HUP"
    assert started.code() == 0


def test_ctrl_z_and_fg(cli: Cli, name: str, terminal: Terminal) -> None:
    """Ctrl-Z stops the whole job, the lock stays, and after `fg` everything works as before."""
    job = [ADVLOCK[0], *ADVLOCK[1:], "run", name, "--", *WORKER]
    shell = cli.program(ADVLOCK[0], "-c", SHELL, *job, **terminal.settings())
    child = shell.worker()
    terminal.type(CTRL_Z)
    wrapper = int(shell.line().removeprefix("stopped "))
    eventually(lambda: state(child) == "T", message="the command stopped, too")
    assert state(wrapper) == "T"
    assert cli("run", "-n", name, "--", "true")[0] == 75
    terminal.type(b"\n")
    eventually(lambda: state(child) != "T" and state(wrapper) != "T", message="both go on")
    terminal.type(CTRL_C)
    assert shell.line() == "child got INT"
    os.kill(wrapper, signal.SIGTERM)
    assert shell.line() == "child got TERM"
    assert shell.code() == 0
