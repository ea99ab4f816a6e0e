"""What goes wrong, and in which order; every step follows from the seed and is written down.

Three kinds of trouble, and one rule. Networks fail: packets vanish between the namespaces, proxies
freeze, drop, delay, reset and half-close. Servers fail: sessions terminated, restarts, crashes, a
fail-over. Processes fail: killed, stopped and continued. The rule: *nothing happens to a server
while somebody is cut off from it*, because no lock can tell a holder what the network keeps from
it; test_unavoidable.py shows that case alone. So after every failure of a network all is healed,
and the time that trust lasts is waited for: whoever still believes then has spoken to the server
since, and will hear from it.

A stopped process is not cut off: its kernel goes on talking to the server, and holds what the
server's end said until the process looks. So processes are killed and stopped at any time.

For the same reason three things are left to test_unavoidable.py, where the server lets go first
and the holder hears of it only as fast as the proxy is: resetting or closing the server's side
alone, and terminating a session that comes through a proxy. Here the client's side is first.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from netns import Network

    from .crew import Crew
    from .history import History
    from .pair import Pair
    from .proxy import Proxy

SERVER_EVENTS = ("terminate", "fast restart", "immediate restart", "postmaster killed", "fail-over")
NETWORK_FAULTS = (
    *("freeze up", "freeze down", "freeze both", "drop up", "drop down", "drop both"),
    *("delay up", "delay down", "delay both", "reset both", "half-close down", "half-close both"),
)
CUTS = ("to near", "to far", "both")
# Times liveness. A holder may be stopped for twice that, and so may who is granted the lock next.
PATIENCE = 10.0
_TICK = 0.1
_SHARE_OF_KILLS = 0.5
_MOST_FROZEN = 2

_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM (
    SELECT pid FROM pg_stat_activity WHERE application_name ~ %s ORDER BY random() LIMIT 3
) AS victims
"""


@dataclass(slots=True)
class Arena:
    """What there is to break, and what must go on nevertheless.

    Attributes:
        trust: For how long a client believes without news, in seconds.

        liveness: The bound of all clients.

        keys: What must be granted again after each fault.
    """

    pair: Pair
    proxies: list[Proxy]
    network: Network
    crew: Crew
    history: History
    keys: tuple[str, ...]
    liveness: float
    trust: float


class Nemesis:
    """Breaks things until its time is over.

    Attributes:
        log: Every step: when, in seconds of the monotonic clock, and what was done.
    """

    events: ClassVar[tuple[str, ...]] = SERVER_EVENTS
    victims: ClassVar = "^chaos-(direct|far)"  # whose sessions the server may terminate

    def __init__(self, arena: Arena, seed: int) -> None:
        self._arena, self._seed = arena, seed
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self.log: list[tuple[float, str]] = []

    def say(self, what: str) -> None:
        """Write a step down."""
        self.log.append((time.monotonic(), what))

    def run(self, seconds: float, enough: Callable[[], object] = bool) -> None:
        """Break networks and the server in turn, and processes all the time.

        Args:
            seconds: For how long; longer if not everything has happened to the server by then.

            enough: Asked after each turn whether to end early.

        Raises:
            AssertionError: a key was not granted any more once all was well, or a worker died.
        """
        hand = threading.Thread(target=self._break_processes)
        hand.start()
        try:
            self._break_networks_and_servers(seconds, enough)
        finally:
            self._over.set()
            hand.join()
        if self._failure:
            raise self._failure
        self._await_progress("the end")

    # -- networks and servers: never both ----------------------------------------------------------

    def _break_networks_and_servers(self, seconds: float, enough: Callable[[], object]) -> None:
        dice = random.Random(self._seed)  # noqa: S311
        until = time.monotonic() + seconds
        faults, events = Bag(dice, NETWORK_FAULTS), Bag(dice, self.events)
        cuts = Bag(dice, CUTS)
        while time.monotonic() < until or not events.drawn_all:
            if self._failure or enough():
                return
            self._break_networks(dice, cuts, faults)
            time.sleep(self._arena.trust)
            event = events.draw()
            self._break_server(dice, event)
            self._await_progress(event)

    def _break_networks(self, dice: random.Random, cuts: Bag, faults: Bag) -> None:
        arena = self._arena
        cut = cuts.draw()
        self.say(f"packets dropped {cut}")
        arena.network.cut(to_near=cut != "to far", to_far=cut != "to near")
        for proxy in arena.proxies:
            fault, direction = faults.draw().rsplit(" ", 1)
            scope = dice.choice(("present", "new", "all"))
            self.say(f"{fault} {direction}, {scope} connections of port {proxy.port}")
            late = (dice.uniform(0, 0.2), dice.uniform(0, 0.2)) if fault == "delay" else ()
            proxy.strike(fault, direction, *late, scope=scope)
        longest = dice.choice((arena.trust, 1.7 * arena.liveness))
        time.sleep(dice.uniform(0.1, longest))
        arena.network.heal()
        for proxy in arena.proxies:
            proxy.heal()
            # Neither end of these will ever hear from the other again; TCP alone would take long.
            proxy.strike("reset", scope="dropped")
        self.say("networks healed")

    def _break_server(self, dice: random.Random, event: str) -> None:
        pair = self._arena.pair
        self.say(event)
        if event == "terminate":
            with pair.connect() as session:
                session.execute(_TERMINATE, [self.victims])
        elif event == "postmaster killed":
            pair.crash()
        elif event == "fail-over":
            pair.add_standby()
            mode: Literal["fast", "immediate"] = dice.choice(("fast", "immediate"))
            pair.fail_over(mode)
            for proxy in self._arena.proxies:
                proxy.switch("127.0.0.1", pair.primary.port)
        else:
            pair.restart("fast" if event == "fast restart" else "immediate")
        self.say(f"{event} is through")

    def _await_progress(self, after: str) -> None:
        """Wait until every key was granted to somebody once more."""
        since, limit = time.monotonic_ns(), time.monotonic() + PATIENCE * self._arena.liveness
        missing = set(self._arena.keys)
        while missing:
            for event in self._arena.history.read_on():
                if event["event"] == "granted" and event["at"] > since:
                    missing.discard(event["key"])
            assert time.monotonic() < limit, f"{missing} were not granted any more after: {after}"
            time.sleep(_TICK)
        self.say(f"every key was granted again after: {after}")

    # -- processes: at any time --------------------------------------------------------------------

    def _break_processes(self) -> None:
        try:
            dice = random.Random(self._seed + 1)  # noqa: S311
            thaws: dict[str, float] = {}
            while not self._over.wait(dice.uniform(0.2, 1.0)):
                self._thaw_the_due(thaws)
                self._break_one(dice, thaws)
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._failure = error
        finally:
            self._thaw_the_due(dict.fromkeys(thaws, 0.0))

    def _thaw_the_due(self, thaws: dict[str, float]) -> None:
        for post in self._arena.crew.posts:
            if post.frozen and time.monotonic() >= thaws[post.name]:
                self._arena.crew.thaw(post)
                self.say(f"continued {post.name}")

    def _break_one(self, dice: random.Random, thaws: dict[str, float]) -> None:
        crew = self._arena.crew
        post = dice.choice(crew.posts)
        if dice.random() < _SHARE_OF_KILLS:
            crew.kill(post)
            crew.start(post)
            self.say(f"killed and replaced {post.name}")
        elif not post.frozen and sum(post.frozen for post in crew.posts) < _MOST_FROZEN:
            longest = dice.choice((self._arena.trust, 2 * self._arena.liveness))
            thaws[post.name] = time.monotonic() + dice.uniform(0.0, longest)
            crew.freeze(post)
            self.say(f"stopped {post.name}")


class Bag:
    """Draws at random, and everything once before anything twice.

    Attributes:
        drawn_all: Whether everything was drawn.
    """

    def __init__(self, dice: random.Random, things: tuple[str, ...]) -> None:
        self._dice, self._things = dice, things
        self._left: list[str] = []
        self.drawn_all = False

    def draw(self) -> str:
        """Return the next thing."""
        if not self._left:
            self._left = self._dice.sample(self._things, len(self._things))
        drawn = self._left.pop()
        self.drawn_all = self.drawn_all or not self._left
        return drawn
