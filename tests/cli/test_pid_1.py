"""As the first process of a container: no default actions, and everybody's orphans."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from .helpers import SIGNALS, WORKER

if TYPE_CHECKING:
    from .helpers import Cli, Running

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def _permitted() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _permitted(), reason="needs unshare and the right to use it")

# Leaves an orphan, waits for its end, then looks at /proc until no zombie is left (or too long).
ORPHANS = """
test "$PPID" = 1 || exit 9
(sleep 0.2 & echo $! > "$1")
while kill -0 "$(cat "$1")" 2> /dev/null && test "$((n += 1))" -lt 100; do sleep 0.05; done
! grep -q '^State:.Z' /proc/[0-9]*/status
"""

# A first process that waits for its own child and for nobody else.
CARELESS = "import subprocess, sys; sys.exit(subprocess.Popen(sys.argv[1:]).wait())"


def wrapper(started: Running) -> int:
    """The process outside of whose namespace the wrapper is PID 1."""

    def child() -> int:
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text()
        return int(children.split()[0]) if children.strip() else 0

    return eventually(child)


def test_orphans_are_reaped(cli: Cli, name: str, tmp_path: Path) -> None:
    """An orphan that ends does not stay as a zombie."""
    orphan = str(tmp_path / "orphan")
    started = cli.start("run", name, "--", "sh", "-c", ORPHANS, "sh", orphan, prefix=UNSHARE)
    assert started.code() == 0


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_signals_are_forwarded(cli: Cli, name: str, signum: signal.Signals) -> None:
    """A first process has no default actions; ours still hears each of the six."""
    told = signum.name.removeprefix("SIG")
    started = cli.start("run", name, "--", *WORKER, "--ends-on", told, prefix=UNSHARE)
    started.worker()
    os.kill(wrapper(started), signum)
    assert started.line() == f"child got {told}"
    assert started.code() == 0


def test_a_container_that_reaps_nothing_does_not_delay_us(cli: Cli, name: str) -> None:
    """Zombies that the first process ignores are not taken for a group that still runs."""
    prefix = (*UNSHARE, sys.executable, "-c", CARELESS)
    rules = ("--max-runtime", "4", "-k", "30")
    started = cli.start("run", *rules, name, "--", *WORKER, "--fork", prefix=prefix)
    started.lines(4)
    assert started.code() == 124
    assert "KILL" not in started.stderr()


def test_term_ends_the_wait(cli: Cli, name: str) -> None:
    """TERM while waiting for the lock ends a first process, too."""
    holder = cli.start("run", name, "--", *WORKER)
    holder.worker()
    waiter = cli.start("run", name, "--", "true", prefix=UNSHARE)
    assert "waiting" in waiter.said()
    os.kill(wrapper(waiter), signal.SIGTERM)
    assert waiter.code() == 128 + signal.SIGTERM
    holder.send(signal.SIGTERM)
    assert holder.code() == 0
