"""A chaos run: workers on every route to the server, everything that breaks, and the verdict.

    python3 dev.py test tests/chaos -k test_chaos --chaos-minutes 10 [--chaos-seed N]

runs for that long, with the default liveness; without the option it is the short run of CI. What
happens follows from the seed, as far as the scheduler of the machine lets it.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clusters import temporary_home
from netns import network
from servers import locks_in_db
from waiting import eventually

from advlock._liveness import Bounds

from .crew import Post, crew
from .history import History, Violation, check
from .nemesis import Arena, Nemesis
from .pair import Pair
from .proxy import proxy

if TYPE_CHECKING:
    from pathlib import Path

    from netns import Network

    from .crew import Crew
    from .proxy import Proxy

KEYS = ("red", "green", "blue", "white")
_RELEASE_SECONDS = 5.0


@dataclass(slots=True)
class Verdict:
    """What came out.

    Attributes:
        violations: What the checker found.

        crashes: What the workers died of, or said on stderr.

        failure: Why the run ended early, such as no progress on a key; empty if it did not.

        left: The advisory locks that were there when all workers were dead.

        steps: What went wrong on purpose.

        counts: The events of the workers.
    """

    seed: int
    violations: list[Violation] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    failure: str = ""
    left: str = ""
    steps: list[tuple[float, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        """Whether nothing at all is wrong."""
        return not (self.violations or self.crashes or self.failure or self.left)

    def faults(self) -> Counter[str]:
        """What went wrong on purpose, and how often."""
        processes = ("killed and replaced", "closed and replaced", "stopped", "continued")
        words = (*processes, "packets dropped", "networks")
        return Counter(
            next((word for word in words if step.startswith(word)), step.partition(",")[0])
            for _, step in self.steps
            if not step.startswith("every key") and not step.endswith("is through")
        )

    def statistics(self) -> str:
        """The run in two lines."""
        told = ", ".join(f"{number} {event}" for event, number in sorted(self.counts.items()))
        faults = ", ".join(f"{number} {fault}" for fault, number in sorted(self.faults().items()))
        return f"seed {self.seed}; workers: {told}\nfaults: {faults}"

    def __str__(self) -> str:
        lines = [self.statistics(), self.failure, self.left]
        lines += [f"{at:.3f} s  {step}" for at, step in self.steps]
        lines += [*self.crashes[:5], *map(str, self.violations[:20])]
        return "\n".join(line for line in lines if line)


def chaos(
    bindir: Path,
    directory: Path,
    *,
    seconds: float,
    liveness: float,
    seed: int,
    without_trust: bool = False,
) -> Verdict:
    """Run and judge.

    Args:
        bindir: The programs of the server.

        directory: An empty one, for what the workers write.

        seconds: How long to break things.

        liveness: The bound of all clients.

        seed: Of everything random.

        without_trust: Run the control, whose workers never ask whether a lock is lost; it ends
            as soon as that has shown.
    """
    verdict = Verdict(seed)
    with ExitStack() as stack:
        net = stack.enter_context(network())
        pair = Pair(bindir, stack.enter_context(temporary_home()), guests=(net.far,))
        pair.start()
        proxies = [stack.enter_context(proxy("127.0.0.1", pair.primary.port)) for _ in "ab"]
        posts = _posts(pair, net, proxies, liveness)
        for post in posts:
            post.arguments += ["--without-trust"] if without_trust else []
        team = stack.enter_context(crew(directory, posts, seed))
        history = History(directory)
        trust = Bounds(liveness).trust
        arena = Arena(pair, proxies, net, team, history, KEYS, liveness, trust)
        nemesis = Nemesis(arena, seed)
        verdict.steps = nemesis.log
        try:
            nemesis.run(seconds, lambda: without_trust and check(history.holds()))
        except Exception:  # noqa: BLE001 - told together with all that led to it
            verdict.failure = traceback.format_exc()
        judge(team, history, verdict)
        if not verdict.failure:
            _look_for_locks(pair, verdict)
    return verdict


def _posts(pair: Pair, net: Network, proxies: list[Proxy], liveness: float) -> list[Post]:
    """Two worlds on each of four routes; every other route has a lease as well."""
    far = pair.dsn(net.near)
    routes: list[tuple[str, str, Network | None, list[str]]] = [
        ("direct", pair.dsn("127.0.0.1"), None, []),
        ("far", far, net, [f"--lease={liveness}"]),
        ("proxied-a", pair.proxied_dsn(proxies[0].port), None, []),
        ("proxied-b", pair.proxied_dsn(proxies[1].port), None, [f"--lease={liveness}"]),
    ]
    common = [f"--liveness={liveness}", f"--keys={','.join(KEYS)}"]
    return [
        Post(f"{route}-{world}", world, dsn, [*common, *more], there)
        for route, dsn, there, more in routes
        for world in ("sync", "async")
    ]


def judge(team: Crew, history: History, verdict: Verdict) -> None:
    """End whoever is left, and read what all have written."""
    for post in team.posts:
        if post.process and post.process.poll() is None:
            team.kill(post)
    verdict.violations = check(history.holds())
    verdict.counts = Counter(event["event"] for event in history.events)
    verdict.counts.update(
        f"{event['kind']}s" for event in history.events if event["event"] == "trouble"
    )
    verdict.crashes = [e["trace"] for e in history.events if e["event"] == "crash"]
    if complaints := team.complaints():
        verdict.crashes.append(complaints)


def _look_for_locks(pair: Pair, verdict: Verdict) -> None:
    with pair.connect() as session:
        try:
            eventually(lambda: not locks_in_db(session), within=_RELEASE_SECONDS)
        except AssertionError:
            verdict.left = "locks were left behind: " + ", ".join(map(str, locks_in_db(session)))
