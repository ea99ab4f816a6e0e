"""Leader election: how soon the next one leads, and what two hundred candidates cost.

Times from the event to the next leader's first line of work; every candidate is a process, and they
share CLOCK_MONOTONIC. The servers are of the benchmark's own, because one of them is reached over a
network that is cut (which needs root), and the other has room for the candidates.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

# The network to cut, and the servers, are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

try:
    from clusters import temporary_home
    from leader import standbys
    from netns import network
    from servers import find_servers
except ModuleNotFoundError as missing:
    sys.exit(f"{missing}: run `python3 dev.py test tests/leader` first, which installs it")

from advlock._liveness import LIVENESS
from advlock.embedded._cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netns import Network

LEASE: Final = 5.0
PATIENCE: Final = 60.0  # seconds
_SETTINGS: Final = {"max_connections": "250", "fsync": "off", "autovacuum": "off"}
_CANDIDATE: Final = """
import signal, sys, time, advlock
lease = float(sys.argv[2]) or None
leader = advlock.Locks(sys.argv[1], lease=lease).leader("bench")
signal.signal(signal.SIGTERM, lambda *_: leader.close())
for term in leader.terms():
    print(time.monotonic_ns(), flush=True)
    while not term.lost:
        time.sleep(0.001)
"""


class Candidate:
    """A process that leads when it can, and says when it begins."""

    def __init__(self, dsn: str, lease: float = 0.0, network: Network | None = None) -> None:
        command = [sys.executable, "-c", _CANDIDATE, dsn, str(lease)]
        if network is not None:
            command = network.command(*command)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)

    def leads(self) -> int:
        """Wait until it begins to lead; when that was, in nanoseconds."""
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "it never led"
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """Kill it, also when it is stopped."""
        with self.process as process:
            process.kill()


def report(*, rounds: int, candidates: int, seconds: float) -> dict[str, Any]:
    """Measure both, and say so line by line."""
    found: dict[str, Any] = {}
    with servers() as (dsn, far, net):
        ends: dict[str, tuple[Callable[[Candidate], None], str, float, Network | None]] = {
            "clean exit (TERM, `leader.close()`)": (signals(signal.SIGTERM), dsn, 0.0, None),
            "kill -9": (signals(signal.SIGKILL), dsn, 0.0, None),
            f"SIGSTOP, lease={LEASE:g}": (signals(signal.SIGSTOP), dsn, LEASE, None),
        }
        if net is not None:
            ends[f"packets dropped, liveness={LIVENESS:g}"] = (lambda _: net.cut(), far, 0.0, net)
        for what, (end, where, lease, there) in ends.items():
            times = [failover(end, where, dsn, lease, there) for _ in range(rounds)]
            found[what] = times
            print(line(what, times), flush=True)
        with (
            psycopg.connect(dsn, autocommit=True) as admin,
            standbys.candidates(dsn, admin, candidates),
        ):
            cost = standbys.watch(admin, candidates, seconds)
        found["standbys"] = cost._asdict()
        print(
            f"{cost.candidates} candidates for {cost.seconds:.0f} s: {cost.sessions} sessions,"
            f" {100 * cost.cpu:.1f} % of one processor in the server, oldest snapshot"
            f" {1000 * cost.snapshot:.0f} ms or {cost.xmin} transactions (of {cost.made})",
            flush=True,
        )
    return found


def failover(
    end: Callable[[Candidate], None], dsn: str, near: str, lease: float, there: Network | None
) -> float:
    """Milliseconds from the end of a leader to the begin of the next."""
    with ExitStack() as stack:
        first = Candidate(dsn, lease, there)
        stack.callback(first.end)
        first.leads()
        second = Candidate(near)
        stack.callback(second.end)
        with psycopg.connect(near, autocommit=True) as admin:
            waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while admin.execute(waits).rowcount == 0:
                time.sleep(0.01)
        time.sleep(random.uniform(0.0, 1.5))  # noqa: S311 - no heartbeat decides when it ends
        began = time.monotonic_ns()
        end(first)
        took = (second.leads() - began) / 1e6
        if there is not None:
            there.heal()
        return took


def signals(signum: int) -> Callable[[Candidate], None]:
    """Make what sends a signal."""
    return lambda candidate: candidate.process.send_signal(signum)


def line(what: str, times: list[float]) -> str:
    """One result for people."""
    low, middle, high = min(times), statistics.median(times), max(times)
    unit, scale = ("s", 1000.0) if middle > 1000 else ("ms", 1.0)
    told = " / ".join(f"{one / scale:.2f}" for one in (low, middle, high))
    return f"{what:42} → the next leads: {told} {unit} (min / median / max of {len(times)})"


@contextlib.contextmanager
def servers() -> Iterator[tuple[str, str, Network | None]]:
    """Start a server; yield how to reach it, how from a network that can be cut, and that."""
    with ExitStack() as stack:
        net = stack.enter_context(network()) if os.geteuid() == 0 else None
        home = stack.enter_context(temporary_home())
        found = find_servers(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        newest = max(found, key=lambda one: int(one.version.partition(".")[0])).cluster
        assert newest is not None, "the benchmark starts a server of its own: unset its DSN"
        cluster = Cluster(newest.bindir, home / "leader", tcp=True, settings=dict(_SETTINGS))
        if net is not None:
            cluster._settings |= {"listen_addresses": "*"}
        cluster.init()
        if net is not None:
            hba = cluster.data / "pg_hba.conf"
            hba.write_text(hba.read_text() + f"host all all {net.far}/32 trust\n")
        cluster.start()
        far = f"host={net.near} port={cluster.port} user=postgres dbname=postgres" if net else ""
        yield cluster.dsn(), far, net
