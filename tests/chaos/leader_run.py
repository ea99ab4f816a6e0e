"""Candidates for one lead while processes and the server break; terms must not overlap."""

from __future__ import annotations

import random
import time
import traceback
from contextlib import ExitStack
from typing import TYPE_CHECKING

from clusters import temporary_home
from waiting import eventually

from advlock._liveness import Bounds

from .crew import Post, crew
from .history import History, check
from .nemesis import Bag
from .pair import Pair
from .run import Verdict, judge

if TYPE_CHECKING:
    from pathlib import Path

    from .crew import Crew

EVENTS = ("killed", "stopped", "terminated", "fast restart", "immediate restart")
LEASE = 2.0
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Trouble:
    """What befalls the leader, the candidates and the server; follows from the seed."""

    def __init__(self, pair: Pair, team: Crew, verdict: Verdict, liveness: float) -> None:
        self._pair, self._team, self._verdict = pair, team, verdict
        self._dice = random.Random(verdict.seed)  # noqa: S311
        self._history = History(team.directory)
        self._trust = Bounds(liveness, LEASE).trust

    def run(self, seconds: float, *, until_overlap: bool) -> None:
        """Break one thing after the other; each time somebody has to lead again."""
        until, events = time.monotonic() + seconds, Bag(self._dice, EVENTS)
        self._await_terms()
        while time.monotonic() < until or not events.drawn_all:
            event = events.draw()
            self._verdict.steps.append((time.monotonic(), event))
            self._break(event)
            self._await_terms()
            if until_overlap and check(self._history.holds()):
                return

    def _break(self, event: str) -> None:
        leader = self._leader()
        if event == "killed":
            self._team.kill(leader)
            self._team.start(leader)
        elif event == "stopped":
            self._team.freeze(leader)
            time.sleep(self._dice.choice((0.2, self._trust, LEASE + 0.3)))
            self._team.thaw(leader)
        elif event == "terminated":
            with self._pair.connect() as session:
                session.execute(_TERMINATE)
        else:
            self._pair.restart("fast" if event == "fast restart" else "immediate")

    def _leader(self) -> Post:
        """Who led last."""
        self._history.read_on()
        last = max((e for e in self._history.events if e["event"] == "granted"), key=_at)
        return next(post for post in self._team.posts if post.name == last["worker"])

    def _await_terms(self) -> None:
        """Wait until two more terms have begun."""
        since = time.monotonic_ns()

        def begun() -> bool:
            self._history.read_on()
            later = [e for e in self._history.events if e["event"] == "granted" and e["at"] > since]
            return len(later) >= 2

        eventually(begun, within=20.0, message="nobody led any more")


def _at(event: dict[str, int]) -> int:
    return event["at"]


def leaders(
    bindir: Path, directory: Path, *, seconds: float, seed: int, without_trust: bool = False
) -> Verdict:
    """Run and judge.

    Args:
        bindir: The programs of the server.

        directory: An empty one, for what the candidates write.

        seconds: How long to break things.

        seed: Of everything random.

        without_trust: Run the control, whose candidates never ask whether the term is over; it
            ends as soon as that has shown.
    """
    verdict, liveness = Verdict(seed), 3.0
    with ExitStack() as stack:
        pair = Pair(bindir, stack.enter_context(temporary_home()))
        pair.start()
        arguments = [f"--liveness={liveness}", f"--lease={LEASE}"]
        arguments += ["--without-trust"] if without_trust else []
        dsn = pair.dsn("127.0.0.1")
        posts = [
            Post(f"direct-{world}-{n}", world, dsn, arguments, module="chaos.leader_worker")
            for n in range(2)
            for world in ("sync", "async")
        ]
        team = stack.enter_context(crew(directory, posts, seed))
        try:
            Trouble(pair, team, verdict, liveness).run(seconds, until_overlap=without_trust)
        except Exception:  # noqa: BLE001 - told together with all that led to it
            verdict.failure = traceback.format_exc()
        judge(team, History(directory), verdict)
    return verdict
