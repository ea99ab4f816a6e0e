"""A chaos run through a pooler: workers before it and beside it, and forty clients who share it.

    python3 dev.py test tests/chaos -k test_chaos_pooled --chaos-minutes 10 [--chaos-seed N]

PgBouncer lends server sessions by the transaction. Six workers reach it directly, over a network
that can be cut, and through a proxy; two more go to the server itself, for the same keys.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from bouncers import PROGRAM, Bouncer
from clusters import temporary_home
from netns import network
from psycopg.conninfo import make_conninfo
from waiting import eventually

from advlock._liveness import Bounds

from .crew import Post, crew
from .history import History, Violation, check
from .load import load
from .pair import Pair, quiet_ports
from .pooled_nemesis import FLEETING, LASTING, PooledArena, PooledNemesis
from .proxy import proxy
from .run import KEYS, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from netns import Network

POOLER: dict[str, object] = {
    "listen_addr": "*",
    "default_pool_size": 22,
    **FLEETING,
    "server_login_retry": 1,
    "query_wait_timeout": 2,
}
# When the server or the pooler ends a session, the news is handed on to the client, by the pooler
# and then by the proxy, while the lock goes straight to the next holder. Nobody can be quicker than
# that; so a hold that came through the pooler and ended so may be believed in for as long as these
# two processes may have to wait for a processor, and not a moment longer. Nothing else is excused.
ALLOWANCE = 0.05  # seconds
_NOTICED = 1.0  # seconds after such an end, within which the next holder has written down its grant
_SLACK = 2.0  # seconds, on a busy machine
_ADVISORY = "SELECT pid, classid, objid, granted FROM pg_locks WHERE locktype = 'advisory'"


@dataclass(slots=True)
class PooledVerdict(Verdict):
    """What came out.

    Attributes:
        excused: Overlaps within the allowance.

        load: What the forty clients did.
    """

    excused: list[Violation] = field(default_factory=list)
    load: Counter[str] = field(default_factory=Counter)

    def statistics(self) -> str:
        """The run in four lines."""
        guests = ", ".join(f"{number} {what}" for what, number in sorted(self.load.items()))
        longest = max((violation.seconds for violation in self.excused), default=0.0)
        return (
            f"{Verdict.statistics(self)}\nother clients of the pooler: {guests}\n"
            f"within the allowance: {len(self.excused)}, the longest {longest * 1000:.1f} ms"
        )


def sort_out(violations: list[Violation], endings: list[tuple[int, int]]) -> list[Violation]:
    """Return those that only the pooler's own delay can excuse; the list keeps the others."""
    excused = [one for one in violations if _is_excused(one, endings)]
    violations[:] = [one for one in violations if one not in excused]
    return excused


def _is_excused(violation: Violation, endings: list[tuple[int, int]]) -> bool:
    lost, next_one = violation.earlier, violation.later
    return (
        violation.kind == "overlap"
        and lost.worker.startswith("pooled")
        and not lost.released
        and violation.seconds <= ALLOWANCE
        and any(began <= next_one.start <= ended + _NOTICED * 1e9 for began, ended in endings)
    )


@contextmanager
def pooler(upstream: str) -> Iterator[Bouncer]:
    """Start a PgBouncer in transaction mode, whose port is no client's by chance."""
    if not PROGRAM.exists():
        pytest.skip("PgBouncer is not installed")
    with temporary_home() as home:
        made = Bouncer(upstream, home, "transaction", dict(POOLER))
        (made.port,) = quiet_ports(1)
        made.settings["listen_port"] = made.port
        made.start()
        try:
            yield made
        finally:
            made.kill()


@contextmanager
def arena(
    bindir: Path, directory: Path, liveness: float, seed: int, *arguments: str
) -> Iterator[PooledArena]:
    """Start the server, the pooler, everybody who uses it, and what can come between them.

    Args:
        bindir: The programs of the server.

        directory: An empty one, for what the workers write.

        liveness: The bound of all clients.

        seed: Of everything random.

        arguments: More for the workers behind the pooler.
    """
    with ExitStack() as stack:
        net = stack.enter_context(network())
        pair = Pair(bindir, stack.enter_context(temporary_home()))
        pair.start()
        bouncer = stack.enter_context(pooler(pair.primary.dsn(host="127.0.0.1")))
        between = stack.enter_context(proxy("127.0.0.1", bouncer.port))
        routes = {
            "pooled": (bouncer.dsn(), None),
            "pooled-far": (make_conninfo(bouncer.dsn(), host=net.near), net),
            "pooled-proxied": (make_conninfo(bouncer.dsn(), port=between.port), None),
            "direct": (pair.dsn("127.0.0.1"), None),
        }
        posts = _posts(routes, liveness, arguments)
        guests = stack.enter_context(load(bouncer.dsn(), seed))
        team = stack.enter_context(crew(directory, posts, seed))
        history, trust = History(directory), Bounds(liveness).behind_a_pooler().trust
        yield PooledArena(
            *(pair, [between], net, team, history, KEYS, liveness, trust, bouncer, guests)
        )


def _posts(
    routes: dict[str, tuple[str, Network | None]], liveness: float, arguments: tuple[str, ...]
) -> list[Post]:
    """Two worlds on each route."""
    common = [f"--liveness={liveness}", f"--keys={','.join(KEYS)}"]
    more = [*common, *arguments]
    return [
        Post(f"{route}-{world}", world, dsn, common if route == "direct" else more, there)
        for route, (dsn, there) in routes.items()
        for world in ("sync", "async")
    ]


def chaos(
    bindir: Path,
    directory: Path,
    *,
    seconds: float,
    liveness: float,
    seed: int,
    without_trust: bool = False,
) -> PooledVerdict:
    """Run and judge; see `arena`, and `run.chaos` for what it has not."""
    verdict = PooledVerdict(seed)
    flags = ["--without-trust"] if without_trust else []
    with arena(bindir, directory, liveness, seed, *flags) as ground:
        nemesis = PooledNemesis(ground, seed)
        verdict.steps = nemesis.log
        try:
            nemesis.run(seconds, lambda: without_trust and _overlaps(ground, nemesis))
            verdict.load = ground.load.tally()
            _dismiss_some(ground)
        except Exception:  # noqa: BLE001 - told together with all that led to it
            verdict.failure = traceback.format_exc()
        judge(ground.crew, ground.history, verdict)
        verdict.excused = sort_out(verdict.violations, nemesis.endings)
        verdict.crashes += _misjudged(ground.history)
        if not verdict.failure:
            verdict.left = locks_left(ground)
    return verdict


def _overlaps(ground: PooledArena, nemesis: PooledNemesis) -> list[Violation]:
    found = check(ground.history.holds())
    sort_out(found, nemesis.endings)
    return found


def _dismiss_some(ground: PooledArena) -> None:
    """Have every other worker say goodbye; the rest is killed."""
    # What they leave in the pool must not go away by itself.
    ground.bouncer.reload(**LASTING)
    team = ground.crew
    for post in team.posts[::2]:
        team.dismiss(post)


def _misjudged(history: History) -> list[str]:
    """Every word that this server, or this pooler, is not safe: both are."""
    return [e["words"] for e in history.events if e.get("kind") in ("UnsafeServer", "ConfigError")]


def locks_left(ground: PooledArena) -> str:
    """Wait until no session of the server has an advisory lock; say which remain."""
    with ground.pair.connect() as session:

        def locks() -> list[tuple[object, ...]]:
            return session.execute(_ADVISORY).fetchall()

        try:
            eventually(lambda: not locks(), within=ground.liveness + _SLACK)
        except AssertionError:
            return f"locks were left behind: {locks()}"
    return ""


def object_to(ground: PooledArena, patience: float) -> tuple[list[Violation], str]:
    """Wait until a control shows what it is; return what the checker found, and what was left."""

    def signs() -> object:
        history = ground.history
        return check(history.holds()) or [e for e in history.events if e.get("kind") == "LockLost"]

    ground.bouncer.reload(**LASTING)
    eventually(signs, within=patience)
    for post in ground.crew.posts:
        ground.crew.kill(post)
    return check(ground.history.holds()), locks_left(ground)
