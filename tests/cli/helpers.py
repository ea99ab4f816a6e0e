"""Start `advlock` as a real process, read what its command tells, and ask the server."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

SOURCE = Path(__file__).parents[2] / "src"
ADVLOCK = [sys.executable, "-m", "advlock"]
WORKER = [sys.executable, "-S", "-E", str(Path(__file__).with_name("worker.py"))]
IN_CALLBACK = [sys.executable, str(Path(__file__).with_name("signal_in_callback.py"))]
SIGNALS = [
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
]
PATIENCE = 20.0  # seconds; for things that are to happen at once, on a busy machine

# Independent of advlock's own hash: the formula as a DBA types it.
_HOLDING = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted = %s AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::int8 << 32) | objid::int8 = hashtextextended(%s, %s)
"""


def environment(dsn: str) -> dict[str, str]:
    """Our environment, with this source tree and this database, and no other database."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ADVLOCK_")}
    env.pop("DATABASE_URL", None)
    path = os.pathsep.join(filter(None, (str(SOURCE), env.get("PYTHONPATH"))))
    return env | {"PYTHONPATH": path, "ADVLOCK_DSN": dsn}


def default_signals() -> None:
    """Undo what whoever started the tests ignores: a shell's `&` takes INT and QUIT away."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Running:
    """One process that was started, and the lines of its stdout."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self._seen = b""

    def line(self) -> str:
        """The next line on stdout."""
        assert self.process.stdout
        end = time.monotonic() + PATIENCE
        while b"\n" not in self._seen:
            ready = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready[0], f"no line on stdout; so far: {self._seen!r}"
            chunk = os.read(self.process.stdout.fileno(), 4096)
            assert chunk, f"stdout has ended; stderr: {self.stderr()!r}"
            self._seen += chunk
        line, _, self._seen = self._seen.partition(b"\n")
        return line.decode()

    def lines(self, count: int) -> set[str]:
        """The next lines, of processes that write in no particular order."""
        return {self.line() for _ in range(count)}

    def worker(self, role: str = "child") -> int:
        """Wait until a `worker.py` is ready; its process id."""
        told, _, pid = self.line().rpartition(" ")
        assert told == role
        return int(pid)

    def said(self) -> str:
        """The next line on stderr; it must not be mixed with `stderr`."""
        assert self.process.stderr
        ready = select.select([self.process.stderr], [], [], PATIENCE)
        assert ready[0], "nothing on stderr"
        return self.process.stderr.readline().decode().rstrip("\n")

    def stderr(self) -> str:
        """The rest of stderr, up to its end."""
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def send(self, signum: int) -> None:
        """Send a signal to this process alone."""
        self.process.send_signal(signum)

    def code(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(PATIENCE)


class Cli:
    """Starts `advlock` with one database; `close` ends what is left."""

    def __init__(self, dsn: str) -> None:
        self.env = environment(dsn)
        self._started: list[Running] = []

    def start(self, *args: str, prefix: tuple[str, ...] = (), **popen: Any) -> Running:
        """Start `advlock ARGS` with pipes on stdout and stderr, and without a terminal."""
        return self.program(*prefix, *ADVLOCK, *args, **popen)

    def program(self, *argv: str, **popen: Any) -> Running:
        """Start any program in the same way."""
        settings: dict[str, Any] = {
            "env": self.env,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "preexec_fn": default_signals,
            "bufsize": 0,
        }
        self._started.append(Running(subprocess.Popen(argv, **(settings | popen))))
        return self._started[-1]

    def __call__(self, *args: str, **popen: Any) -> tuple[int, str, str]:
        """Run `advlock ARGS` to its end: exit code, stdout, stderr."""
        running = self.start(*args, **popen)
        out, err = running.process.communicate(timeout=PATIENCE)
        return running.process.returncode, (out or b"").decode(), (err or b"").decode()

    def close(self) -> None:
        """Kill what is left."""
        for running in self._started:
            with running.process as process:
                process.kill()


def sessions(
    admin: Connection[Any], name: str, *, slot: int = 0, granted: bool = True
) -> list[int]:
    """The server processes that hold a lock (or, if not granted, wait for it)."""
    return [pid for (pid,) in admin.execute(_HOLDING, (granted, name, slot))]


def alive(pid: int) -> bool:
    """Whether a process runs: it exists and is no zombie."""
    return state(pid) not in {"", "Z", "X"}


def state(pid: int) -> str:
    """A process's state letter, as ps shows it; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
