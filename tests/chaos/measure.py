"""How long things take: the numbers of the guarantees page, measured anew.

    PYTHONPATH=tests .venv/bin/python -m chaos.measure [--runs 20] [--server pg18]

It needs root, for the network that is cut, and about four minutes a server. Every holder and every
waiter is a process of its own; the times are CLOCK_MONOTONIC, which they share.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from clusters import temporary_home
from netns import network
from servers import find_servers, locks_in_db

from advlock._liveness import LIVENESS, Bounds

from .crew import Post, crew
from .history import History
from .pair import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from netns import Network

    from .crew import Crew

ROWS = 5  # pairs of a holder and a waiter, each with a key of its own, for each cut
LEASE = 15.0
_NANO = 1e9
_PATIENCE = 60.0


class Bench:
    """A server, a network, and pairs of a holder and a waiter."""

    def __init__(self, pair: Pair, network: Network, team: Crew) -> None:
        self.pair, self.network = pair, network
        self._crew = team
        self._history = History(team.directory)
        self._dice = random.Random(3)  # noqa: S311

    def pairs(self, number: int, route: str, *arguments: str) -> list[tuple[Post, Post]]:
        """Start so many holders and, when they hold, as many waiters; return when these wait."""
        dsn = self.pair.dsn(self.network.near if route == "far" else "127.0.0.1")
        there = self.network if route == "far" else None
        rows = []
        for row in range(number):
            key, world = f"--keys=key{row}", ("sync", "async")[row % 2]
            common = [key, "--crowd=1", "--work=1000"]
            holder = Post(f"holder-{row}", world, dsn, [*common, *arguments], there)
            waiter = Post(f"waiter-{row}", world, self.pair.dsn("127.0.0.1"), common)
            rows.append((holder, waiter))
        since = time.monotonic_ns()
        for role in (0, 1):
            for posts in rows:
                self._crew.posts.append(posts[role])
                self._crew.start(posts[role])
                # Their heartbeats shall not fall together, nor decide when the trouble begins.
                time.sleep(self._dice.uniform(0.0, 0.5))
            if role == 0:
                for holder, _ in rows:
                    self.when("granted", since, holder)
        self._await_waiters(number)
        return rows

    def _await_waiters(self, number: int) -> None:
        with self.pair.connect() as session:
            _until(lambda: sum(not lock.granted for lock in locks_in_db(session)) == number)

    def when(self, event: str, since: int, *posts: Post) -> int:
        """Wait until one of these workers wrote this down, and return when it happened."""
        names = {post.name for post in posts}

        def first() -> int:
            self._history.read_on()
            matching = (
                e["at"]
                for e in self._history.events
                if e["event"] == event and e["worker"] in names and e["at"] > since
            )
            return min(matching, default=0)

        return _until(first)

    def kill(self, post: Post) -> int:
        """Kill a worker; return when."""
        now = time.monotonic_ns()
        self._crew.kill(post)
        return now

    def freeze(self, post: Post) -> int:
        """Stop a worker; return when."""
        now = time.monotonic_ns()
        self._crew.freeze(post)
        return now

    def clear(self, rows: list[tuple[Post, Post]]) -> None:
        """End all of them, and wait for the server to notice."""
        for post in [post for row in rows for post in row]:
            if post.process and post.process.poll() is None:
                self._crew.kill(post)
        with self.pair.connect() as session:
            _until(lambda: not locks_in_db(session))


def _until(condition: object, pause: float = 0.02) -> int:
    assert callable(condition)
    limit = time.monotonic() + _PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < limit, "it did not come true"
        time.sleep(pause)
    return int(answer)


@contextmanager
def bench(bindir: Path) -> Iterator[Bench]:
    """Start a server and a network; both end with the block."""
    with ExitStack() as stack:
        net = stack.enter_context(network())
        pair = Pair(bindir, stack.enter_context(temporary_home()), guests=(net.far,))
        pair.start()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield Bench(pair, net, stack.enter_context(crew(directory, [])))


# -- the measurements ------------------------------------------------------------------------------


class Table:
    """The rows of the report, in the order in which they were measured."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}

    def add(self, what: str, start: int, end: int) -> None:
        """Add a sample."""
        self._samples.setdefault(what, []).append((end - start) / _NANO)

    def __str__(self) -> str:
        lines = ["| from → to | min | median | max | runs |", "|---|---|---|---|---|"]
        for what, seconds in self._samples.items():
            times = (min(seconds), statistics.median(seconds), max(seconds))
            told = " | ".join(_seconds(one) for one in times)
            lines.append(f"| {what} | {told} | {len(seconds)} |")
        return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def measure_kill(on: Bench, table: Table, runs: int) -> None:
    """From `kill -9` of a holder to the next grant."""
    for _ in range(0, runs, ROWS):
        rows = on.pairs(ROWS, "direct")
        for holder, waiter in rows:
            killed = on.kill(holder)
            granted = on.when("granted", killed, waiter)
            table.add("`kill -9` of the holder → the next grant", killed, granted)
        on.clear(rows)


def measure_cut(on: Bench, table: Table, runs: int) -> None:
    """From dropped packets to what the holder knows, and to the server's release."""
    in_order = True
    for _ in range(0, runs, ROWS):
        rows = on.pairs(ROWS, "far")
        before = time.monotonic_ns()
        on.network.cut()
        for holder, waiter in rows:
            lost, granted = on.when("lost", before, holder), on.when("granted", before, waiter)
            table.add("packets dropped → `Held.lost` is True", before, lost)
            table.add("packets dropped → the next grant", before, granted)
            table.add("`Held.lost` is True → the next grant", lost, granted)
            in_order = in_order and lost < granted
        on.network.heal()
        on.clear(rows)
    assert in_order, f"granted before lost:\n{table}"


def measure_freeze(on: Bench, table: Table, runs: int) -> None:
    """From SIGSTOP to the release, in lease mode."""
    for _ in range(0, runs, ROWS):
        rows = on.pairs(ROWS, "direct", f"--lease={LEASE}")
        stopped = [on.freeze(holder) for holder, _ in rows]
        for (_, waiter), since in zip(rows, stopped, strict=True):
            granted = on.when("granted", since, waiter)
            table.add(f"SIGSTOP with `lease={LEASE:.0f}` → the next grant", since, granted)
        on.clear(rows)


def measure_restart(on: Bench, table: Table, runs: int, mode: Literal["fast", "immediate"]) -> None:
    """From a restart of the server to the next grant."""
    for _ in range(runs):
        rows = on.pairs(1, "direct")
        stopped = time.monotonic_ns()
        with _noticing(on.pair) as ready:
            on.pair.restart(mode)
        granted = on.when("granted", stopped, *rows[0])
        table.add(f"{mode} restart: the stop → the next grant", stopped, granted)
        table.add(f"{mode} restart: connections accepted → the next grant", ready[0], granted)
        on.clear(rows)


@contextmanager
def _noticing(pair: Pair) -> Iterator[list[int]]:
    """Note when the server takes connections again after it did not."""
    ready: list[int] = []
    dsn = pair.primary.dsn()

    def ask() -> None:
        was_down = False
        while not ready:
            try:
                psycopg.connect(dsn).close()
            except psycopg.OperationalError:
                was_down = True
            else:
                if was_down:
                    ready.append(time.monotonic_ns())
            time.sleep(0.002)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    yield ready
    asker.join(_PATIENCE)


def main() -> None:
    """Measure, and print a table for each server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--server", help="only this one, such as pg18")
    options = parser.parse_args()
    with temporary_home() as home:
        for server in find_servers(home):
            if server.cluster is None or options.server not in {None, server.name}:
                continue
            with bench(server.cluster.bindir) as on:
                table = Table()
                measure_kill(on, table, options.runs)
                measure_restart(on, table, options.runs, "fast")
                measure_restart(on, table, options.runs, "immediate")
                measure_freeze(on, table, options.runs)
                measure_cut(on, table, options.runs)
            trust = Bounds().trust
            print(f"PostgreSQL {server.version}, liveness {LIVENESS:g} s, trust {trust:g} s\n")  # noqa: T201 - the report
            print(table, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
