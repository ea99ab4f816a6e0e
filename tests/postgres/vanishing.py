"""One cut, many sessions: what the server does about hosts from which no packet comes any more."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from .helpers import PATIENCE, send, start_waiting
from .lan import Lan, Watch, configure

if TYPE_CHECKING:
    from collections.abc import Iterator

# One probe a second after a second of silence. On Linux the count is for sessions without a
# tcp_user_timeout only.
KEEPALIVES = {
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
}
SHORT, BOUND, LONG = 1.5, 2.5, 4.5  # tcp_user_timeout, in seconds
ANSWER_AFTER = 0.8  # seconds

# An acknowledgement may come this much after what it is for; a session that misses one is not idle.
ALL_ACKNOWLEDGED = 0.3

_FROZEN = """
import sys, psycopg
session = psycopg.connect(sys.argv[1], autocommit=True)
for setting in sys.argv[3:]:
    session.execute("SELECT set_config(%s, %s, false)", setting.split("="))
session.execute("SELECT pg_advisory_lock(" + sys.argv[2] + ")")
print(session.info.backend_pid, flush=True)
sys.stdin.read()
"""


def timeout(seconds: float) -> dict[str, str]:
    """Return the setting that limits how long the server waits for an acknowledgement."""
    return {"tcp_user_timeout": f"{seconds * 1000:.0f}"}


HOLDERS = {
    "both": KEEPALIVES | timeout(BOUND),
    "none": {},
    "timeout alone": timeout(BOUND),
    "keepalives alone": KEEPALIVES,
    "shortened": KEEPALIVES | timeout(LONG),
    "lengthened": KEEPALIVES | timeout(SHORT),
    "answer": KEEPALIVES | timeout(BOUND),
    "answer, keepalives alone": KEEPALIVES,
}
CHANGED = {"shortened": timeout(BOUND), "lengthened": timeout(LONG)}
# The settings of each waiter, and the second, counted from its last packet, in which it is granted.
WAITERS = {
    "waiter": (KEEPALIVES | timeout(BOUND), 0.5),
    "short waiter": (KEEPALIVES | timeout(SHORT), 0.5),
    # Its probes fail in second 1, 2 and 3; the third finds it silent for longer than BOUND.
    "late waiter": (KEEPALIVES | timeout(BOUND), 2.6),
}
LETS_GO = {"both", "keepalives alone", "shortened", "lengthened", "answer", *WAITERS}


@dataclass(slots=True)
class Vanished:
    """What the server did with sessions whose host vanished.

    Attributes:
        watch: When the witness saw whose lock.

        pids: The backends, by the names of their sessions.

        last: Just before the last thing that each client did, on the monotonic clock.

        cut: When no packet came through any more.

        unlocked: Just before each waiter could have its lock.
    """

    watch: Watch
    pids: dict[str, int] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    cut: float = 0.0
    unlocked: dict[str, float] = field(default_factory=dict)

    def held(self, name: str) -> bool:
        """Tell whether a session had its lock to the end."""
        pid = self.pids[name]
        return pid in self.watch.granted and pid not in self.watch.freed

    def freed_after(self, name: str) -> tuple[float, float]:
        """Return between which two seconds after its last packet a session let go.

        That packet came after `last` and before `cut`.
        """
        return self._let_go(name, self.last[name], self.cut)

    def kept_for(self, name: str) -> tuple[float, float]:
        """Return between which two seconds after its grant a session let go."""
        return self._let_go(name, self.unlocked[name], self.watch.granted[self.pids[name]])

    def _let_go(self, name: str, after: float, before: float) -> tuple[float, float]:
        """Count from something that happened after the one moment and before the other."""
        pid = self.pids[name]
        return self.watch.held[pid] - before, self.watch.freed[pid] - after


def vanish(lan: Lan) -> Vanished:
    """Cut off sessions of every kind at once, and see which lets go when; heal in the end."""
    seen = Vanished(Watch(lan.witness))
    with ExitStack() as stack:
        seen.pids["frozen"] = stack.enter_context(_frozen(lan, HOLDERS["both"]))
        settings = HOLDERS | {name: waiter for name, (waiter, _) in WAITERS.items()}
        sessions = {
            name: stack.enter_context(closing(lan.far(own))) for name, own in settings.items()
        }
        for name, changed in CHANGED.items():
            configure(sessions[name], changed)
        for key, (name, session) in enumerate(sessions.items()):
            seen.pids[name], seen.last[name] = session.info.backend_pid, time.monotonic()
            if name in WAITERS:
                lan.witness.execute(f"SELECT pg_advisory_lock({key})")
                start_waiting(lan.witness, session, key)
            else:
                session.execute(f"SELECT pg_advisory_lock({key})")
        time.sleep(ALL_ACKNOWLEDGED)
        stack.callback(lan.network.heal)
        for name in ("answer", "answer, keepalives alone"):  # last: the cut comes before the answer
            seen.last[name] = time.monotonic()
            send(sessions[name], f"SELECT pg_sleep({ANSWER_AFTER})")
        lan.network.cut()
        seen.cut = time.monotonic()
        keys = {name: key for key, name in enumerate(sessions) if name in WAITERS}
        _grant_and_look(lan, seen, keys)
    return seen


def _grant_and_look(lan: Lan, seen: Vanished, keys: dict[str, int]) -> None:
    """Let each waiter have its lock in its second; look until everybody let go who will."""
    deadline = time.monotonic() + PATIENCE
    expected = {seen.pids[name] for name in LETS_GO}
    while expected - seen.watch.freed.keys() and time.monotonic() < deadline:
        for name in list(keys):
            if time.monotonic() >= seen.last[name] + WAITERS[name][1]:
                seen.unlocked[name] = time.monotonic()
                lan.witness.execute(f"SELECT pg_advisory_unlock({keys.pop(name)})")
        seen.watch.look()
        time.sleep(0.01)


@contextmanager
def _frozen(lan: Lan, settings: dict[str, str]) -> Iterator[int]:
    """Stop a process that holds a lock, where no cut reaches it; give its backend."""
    words = [f"{name}={setting}" for name, setting in settings.items()]
    dsn = make_conninfo(lan.cluster.dsn, host=lan.network.near)
    command = [sys.executable, "-c", _FROZEN, dsn, "-1", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            process.send_signal(signal.SIGSTOP)
            yield pid
        finally:
            process.kill()
