"""What goes wrong behind a pooler: all that can go wrong without one, and the pooler itself.

PgBouncer is killed and started again; that is an event of the server. It is frozen; that cuts its
clients off, as a failure of a network does (see the rule in `nemesis`). It is told to reload its
settings and to replace its server connections, and all of these are lent out for a second; that
must disturb nobody who holds a lock, so it happens at any time. So do goodbyes of workers, in the
middle of whatever they do.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import psycopg

from .nemesis import Arena, Nemesis

if TYPE_CHECKING:
    import random

    from bouncers import Bouncer

    from .load import Load
    from .nemesis import Bag

POOLED_EVENTS = (
    *("terminate", "fast restart", "immediate restart", "postmaster killed"),
    *("pooler killed", "pooler stopped"),
)
ANY_TIME = ("reload", "reconnect", "everything lent out")
# How long the pooler keeps a server connection; none that is lent out may be touched by either.
FLEETING: dict[str, object] = {"server_lifetime": 5, "server_idle_timeout": 3}
LASTING: dict[str, object] = {"server_lifetime": 3600, "server_idle_timeout": 600}
_SHARE_OF_THE_POOLER = 0.2
_SHARE_OF_FROZEN_POOLERS = 0.25
_SHARE_OF_GOODBYES = 0.2
_LONGEST_ABSENCE = 1.5
_LENT = 1.0


@dataclass(slots=True)
class PooledArena(Arena):
    """What there is to break.

    Attributes:
        bouncer: The pooler before the primary.

        load: Its other clients.
    """

    bouncer: Bouncer
    load: Load


class PooledNemesis(Nemesis):
    """Breaks the pooler, too.

    Attributes:
        endings: When the server or the pooler ended sessions: nanoseconds of the monotonic clock,
            from before the first until after the last.
    """

    events: ClassVar[tuple[str, ...]] = POOLED_EVENTS
    victims: ClassVar = "^chaos-(direct|pooled)"
    _arena: PooledArena

    def __init__(self, arena: PooledArena, seed: int) -> None:
        super().__init__(arena, seed)
        self.endings: list[tuple[int, int]] = []

    def _break_networks(self, dice: random.Random, cuts: Bag, faults: Bag) -> None:
        frozen = dice.random() < _SHARE_OF_FROZEN_POOLERS
        if frozen:
            self.say("pooler frozen")
            self._arena.bouncer.process.send_signal(signal.SIGSTOP)
        try:
            super()._break_networks(dice, cuts, faults)
        finally:
            if frozen:
                self._arena.bouncer.process.send_signal(signal.SIGCONT)

    def _break_server(self, dice: random.Random, event: str) -> None:
        began = time.monotonic_ns()
        try:
            if event.startswith("pooler"):
                self._break_pooler(dice, event)
            else:
                super()._break_server(dice, event)
        finally:
            self.endings.append((began, time.monotonic_ns()))

    def _break_pooler(self, dice: random.Random, event: str) -> None:
        self.say(event)
        bouncer = self._arena.bouncer
        if event == "pooler killed":
            bouncer.kill()
        else:
            bouncer.stop()
        time.sleep(dice.uniform(0.0, _LONGEST_ABSENCE))
        bouncer.start()
        self.say(f"{event} is through")

    def _break_one(self, dice: random.Random, thaws: dict[str, float]) -> None:
        if dice.random() < _SHARE_OF_THE_POOLER:
            self._disturb_pooler(dice.choice(ANY_TIME), dice.choice((FLEETING, LASTING)))
        elif dice.random() < _SHARE_OF_GOODBYES:
            self._dismiss(dice)
        else:
            super()._break_one(dice, thaws)

    def _disturb_pooler(self, how: str, settings: dict[str, object]) -> None:
        self.say(how)
        bouncer = self._arena.bouncer
        if how == "everything lent out":
            self._arena.load.sit(_LENT)
            return
        with contextlib.suppress(psycopg.OperationalError):  # it may be away just now
            if how == "reload":
                bouncer.reload(**settings)
            else:
                bouncer.ask("RECONNECT")

    def _dismiss(self, dice: random.Random) -> None:
        crew = self._arena.crew
        post = dice.choice([post for post in crew.posts if not post.frozen])
        crew.dismiss(post)
        crew.start(post)
        self.say(f"closed and replaced {post.name}")
