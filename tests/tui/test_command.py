"""`advlock top` as a program: on a terminal, without one, without the extra, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually, stop

from advlock.cli.top import _full_screen

from .helpers import is_idle
from .scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg
    from servers import Server

SOURCE = Path(__file__).parents[2] / "src"
ADVLOCK = [sys.executable, "-m", "advlock"]
# As if the extra were not installed.
WITHOUT = (
    "import sys; sys.modules['textual'] = None; from advlock.cli import main; sys.exit(main())"
)
LEAVES = b"\x1b[?1049l"  # back from the alternate screen
PATIENCE = 15.0  # seconds; less than the 25 that a question may take


def _environment(dsn: str) -> dict[str, str]:
    ours = ("ADVLOCK_", "PG", "DATABASE_URL", "NO_COLOR", "COLORFGBG")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    path = os.pathsep.join(filter(None, (str(SOURCE), env.get("PYTHONPATH"))))
    return env | {"PYTHONPATH": path, "ADVLOCK_DSN": dsn, "TERM": "xterm-256color"}


def hear_interrupts() -> None:
    """A shell has what it runs in the background ignore them, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program on a terminal of 80 columns and 24 lines; stderr is the terminal's, too."""

    def __init__(self, dsn: str, *argv: str, **env: str) -> None:
        self.master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        self.output = b""
        self.process = subprocess.Popen(
            argv,
            env=_environment(dsn) | env,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            preexec_fn=self._take,  # noqa: PLW1509 - two calls of the kernel, no lock
        )
        os.set_blocking(self.master, False)

    def _take(self) -> None:
        hear_interrupts()
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def type(self, keys: bytes) -> None:
        """Type."""
        os.write(self.master, keys)

    def shows(self, text: str) -> None:
        """Wait until a program has written this."""
        eventually(lambda: text.encode() in self._read(), within=PATIENCE)

    def ends(self) -> int:
        """Wait for the end; return the exit code."""

        def ended() -> bool:
            self._read()
            return self.process.poll() is not None

        eventually(ended, within=PATIENCE, message=repr(self.output[-2000:]))
        self._read()
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Whether the terminal was left as it was found."""
        back = LEAVES in self.output or b"\x1b[?1049h" not in self.output
        return back and termios.tcgetattr(self._slave) == self.before

    def _read(self) -> bytes:
        with contextlib.suppress(BlockingIOError, OSError):
            while more := os.read(self.master, 65536):
                self.output += more
        return self.output

    def close(self) -> None:
        """End what still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def started(dsn: str) -> Iterator[Any]:
    """Starts programs, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(*argv: str, dsn: str = dsn, **env: str) -> Terminal:
            terminal = Terminal(dsn, *argv, **env)
            stack.callback(terminal.close)
            return terminal

        yield start


@pytest.fixture
def scene(dsn: str) -> Iterator[Scene]:
    """Sessions that end with the test."""
    with contextlib.ExitStack() as stack:
        yield Scene(dsn, stack)


def test_on_a_terminal(scene: Scene, started: Any) -> None:
    """It shows the lock that was asked for, ends with `q`, and leaves the terminal as it was."""
    scene.holds("nightly", "web-2:42", 60)
    scene.holds("deploy", "ci-7:99", 60)
    terminal = started(*ADVLOCK, "top", "nightly", "--refresh", "200ms")
    terminal.shows("web-2:42")
    terminal.type(b"q")
    assert terminal.ends() == 0
    assert terminal.is_as_before()
    assert b"ci-7:99" not in terminal.output
    assert b"Traceback" not in terminal.output


def test_a_signal_ends_it_properly(scene: Scene, started: Any) -> None:
    """The terminal is given back then, too, and the exit code says which signal it was."""
    scene.holds("nightly", "web-2:42", 60)
    terminal = started(*ADVLOCK, "top")
    terminal.shows("web-2:42")
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.ends() == 143
    assert terminal.is_as_before()


def test_it_ends_while_the_server_hangs(
    scene: Scene, started: Any, admin: psycopg.Connection[Any], server: Server
) -> None:
    """Ctrl-C ends the process although its question is never answered."""
    if server.cluster is None:
        pytest.skip("the processes of the server of ADVLOCK_TEST_DSN are out of reach")
    scene.holds("nightly", "web-2:42", 60)
    terminal = started(*ADVLOCK, "top", "--refresh", "200ms")
    terminal.shows("web-2:42")
    query = """SELECT pid FROM pg_stat_activity
        WHERE application_name = 'advlock top' AND datname = current_database()"""
    row = admin.execute(query).fetchone()
    assert row is not None
    # Not in the midst of a look: it has locks on the server's own tables, for which others wait.
    terminal.type(b" ")
    terminal.shows("Space goes on")
    eventually(lambda: is_idle(admin, row[0]), within=PATIENCE)
    stop(row[0])
    try:
        terminal.type(b" ")
        terminal.shows("no answer for")
        terminal.type(b"\x03")
        assert terminal.ends() == 0
        assert terminal.is_as_before()
    finally:
        os.kill(row[0], signal.SIGCONT)


def test_a_database_that_is_not_there(started: Any) -> None:
    """It says so on the terminal as it was, with the exit code for it."""
    terminal = started(*ADVLOCK, "top", dsn="postgresql://127.0.0.1:1/nowhere")
    assert terminal.ends() == 69
    assert terminal.is_as_before()
    after = terminal.output.rpartition(LEAVES)[2]
    assert b"advlock: " in after
    assert b"Traceback" not in terminal.output


@pytest.mark.parametrize("how", ["plain", "without"])
def test_the_plain_table(scene: Scene, started: Any, how: str) -> None:
    """With --plain, and without the extra: what `ps --watch` shows."""
    scene.holds("nightly", "web-2:42", 60)
    if how == "without":
        terminal = started(sys.executable, "-c", WITHOUT, "top")
        terminal.shows("pip install 'advlock[tui]'")
    else:
        terminal = started(*ADVLOCK, "top", "--plain")
    terminal.shows("web-2:42")
    assert b"\x1b[?1049h" not in terminal.output
    assert (b"advlock[tui]" in terminal.output) == (how == "without")
    terminal.type(b"\x03")
    assert terminal.ends() == 130


def test_without_a_terminal(dsn: str, scene: Scene) -> None:
    """Into a pipe it writes one table after the other."""
    scene.holds("nightly", "web-2:42", 60)
    with subprocess.Popen(
        [*ADVLOCK, "top", "--refresh", "200ms", "--waiting"],
        env=_environment(dsn) | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=hear_interrupts,  # noqa: PLW1509 - one call of the kernel, no lock
    ) as process:
        assert process.stdout is not None
        try:
            scene.waits("nightly", "web-3:7", 5)
            while b"web-3:7" not in process.stdout.readline():
                pass
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()


def test_a_terminal_that_cannot_move_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dumb one gets the plain table, as does one whose keys nobody types."""
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert _full_screen()
    monkeypatch.setenv("TERM", "dumb")
    assert not _full_screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert not _full_screen()


@pytest.mark.parametrize("value", ["0", "50ms", "never", "-1"])
def test_how_often_is_checked(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A pause that is too short, or none, is wrong usage."""
    from advlock.cli import main  # noqa: PLC0415 - as a program would

    assert main(["top", "--refresh", value]) == 64
    capsys.readouterr()
