"""Who the server runs as, and how its programs are run.

PostgreSQL refuses to run as root. Creating an account for it, or opening directories to one, would
change the machine behind its owner's back; an unprivileged account that is there already will do.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNPRIVILEGED = ("nobody", "postgres")
_DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Account:
    """The account that owns the server's files and runs its programs.

    Attributes:
        name: Its login name, or its uid where it has none.

        uid: Its user id.

        gid: Its group id.

        foreign: True when it is not our own, that is, when we are root.
    """

    name: str
    uid: int
    gid: int
    foreign: bool

    @classmethod
    def current(cls) -> Account:
        """Ourselves; for root, an unprivileged account that exists already.

        Raises:
            ConfigError: We are root and no such account exists.
        """
        if os.geteuid() != 0:
            return cls(str(os.geteuid()), os.geteuid(), os.getegid(), foreign=False)
        for name in _UNPRIVILEGED:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(name, entry.pw_uid, entry.pw_gid, foreign=True)
        raise ConfigError(
            "PostgreSQL does not run as root, and there is no account 'nobody' or 'postgres' to run"
            " it as: run advlock as an ordinary user"
        )

    def adopt(self, path: Path) -> None:
        """Give `path` to the account; nothing to do when it is our own."""
        if self.foreign:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_enter(self, path: Path) -> bool:
        """Whether the account gets into the directory `path`, every directory above included."""
        return self.run(["test", "-x", str(path)])[0] == 0

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Run a program to its end as this account; return its exit code and what it wrote.

        A signal that Python would turn into an exception is kept back until the program has ended:
        whoever cleans up after an interrupt then finds all of its traces or none. For the same
        reason it runs in a session of its own, out of reach of the terminal's Ctrl-C.

        Raises:
            OSError: The program is missing, or this account may not execute it.
        """
        switch: dict[str, Any] = {}
        if self.foreign:
            switch = {"user": self.uid, "group": self.gid, "extra_groups": []}
        with tempfile.TemporaryFile() as output, signals_deferred():
            process = subprocess.Popen(  # noqa: S603
                argv,
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **switch,
            )
            code = process.wait()
            output.seek(0)
            return code, output.read().decode(errors="replace").strip()


def _environment() -> dict[str, str]:
    """Ours, without what steers PostgreSQL: its programs would obey PGDATA or PGOPTIONS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Keep signals that have Python handlers back until the block has ended.

    Signals with their default action are left alone: they end the process, and a later start
    cleans up as after `kill -9`. Outside the main thread there is nothing to keep back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _DEFERRED}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in ours:
            signal.signal(number, lambda got, _frame: arrived.append(got))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for received in arrived:
            signal.raise_signal(received)
