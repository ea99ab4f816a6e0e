"""When to ask "still mine?", and when to stop believing it. Pure: the shells bring the time.

Two clocks run after every packet: the server's, which lets go of a client that it does not hear
any more, and ours, which stops believing. Ours runs from the *start* of the last exchange that
succeeded, the server's from some moment after that start, and ours is set shorter. So whatever
the network does, we stop first (tests/postgres/test_network.py, tests/chaos).
"""

from __future__ import annotations

import math
from typing import Final

LIVENESS: Final = 10.0  # seconds
SHORTEST_LIVENESS: Final = 3.0  # keepalives count in whole seconds
SHORTEST_LEASE: Final = 2.0
LONGEST: Final = 86400.0  # either; kernels and PostgreSQL count in integers of their own

_LATE: Final = 0.2  # how late a kernel's probe may be
_SHARE_OF_TRUST: Final = 0.8  # of the time after which the server may let go
_MOST_PROBES: Final = 60  # Linux counts up to 127
_BEATS: Final = 4  # heartbeats for each time of trust, so that a lost one is made up for


class Bounds:
    """The times that follow from `liveness` and `lease`, all in seconds.

    Args:
        liveness: See the attribute.

        lease: See the attribute.

        inherited: Whether another process may inherit the session, and keep its locks in silence.

    Attributes:
        liveness: Within so long the server lets go of a vanished host's locks.

        lease: Within so long it lets go of a frozen process's locks; None for never.

        trust: So long after the start of an exchange that succeeded we go on believing.

        heartbeat: So often we ask.
    """

    __slots__ = ("heartbeat", "inherited", "lease", "liveness", "trust")

    def __init__(
        self, liveness: float = LIVENESS, lease: float | None = None, *, inherited: bool = False
    ) -> None:
        self.liveness = liveness
        self.lease = lease
        self.inherited = inherited
        first = self._last_probe - 0.5 if lease is None else min(self._last_probe - 0.5, lease)
        self.trust = _SHARE_OF_TRUST * first
        self.heartbeat = self.trust / _BEATS

    def behind_a_pooler(self) -> Bounds:
        """The same where a pooler stands in between: there every hold is a lease.

        The server's probes end at the pooler, which may keep the session of a host that vanished
        for hours; so the session has to hear from us. Not where silence is no sign of death.
        """
        if self.lease is not None or self.inherited:
            return self
        return Bounds(self.liveness, self.liveness)

    @property
    def _first_probe(self) -> int:
        return math.ceil((math.ceil(self.liveness - _LATE) - 1) / 3)

    @property
    def _interval(self) -> int:
        return math.ceil(2 * self._first_probe / _MOST_PROBES)

    @property
    def _probes(self) -> int:
        most = math.ceil(self.liveness - _LATE) - 1 - self._first_probe
        return most // self._interval

    @property
    def _last_probe(self) -> int:
        """When the server sends its last keepalive: a whole second, clearly before `liveness`.

        With a tcp_user_timeout the kernel gives up at the first probe after that time, so half
        a second less than a whole number leaves no doubt which one it is.
        """
        return self._first_probe + self._probes * self._interval

    def settings(self) -> dict[str, str]:
        """What a session sets on the server, so that the server notices when we are gone.

        Keepalives see an idle connection, the user timeout one with an unread answer; either
        alone leaves a case open. Where the system has no user timeout, the number of keepalives
        comes to about the same. A pinned session is idle in its transaction (`_pinned`).
        """
        lease = _milliseconds(self.lease or 0.0)
        return {
            "tcp_keepalives_idle": str(self._first_probe),
            "tcp_keepalives_interval": str(self._interval),
            "tcp_keepalives_count": str(self._probes),
            "tcp_user_timeout": self.user_timeout,
            "idle_session_timeout": lease,
            "idle_in_transaction_session_timeout": lease,
        }

    @property
    def user_timeout(self) -> str:
        """The server's `tcp_user_timeout` for us, in milliseconds."""
        return _milliseconds(self._last_probe - 0.5)

    @property
    def waiting_timeout(self) -> str:
        """The same while we wait there: a vanished waiter may be granted the lock.

        It then keeps it for as long as its answer may stay unread, and TCP begins to count that
        after two thirds of a second on a slow network. The time to notice that it is gone and the
        time for that answer must add up to less than `liveness`.
        """
        return _milliseconds(max(0.5, math.floor(self.liveness / 2) - self._interval - 0.5))

    def conninfo(self) -> dict[str, str]:
        """The same for our own end, in libpq's words: it wakes a waiter on a dead network."""
        return {
            "keepalives_idle": str(self._first_probe),
            "keepalives_interval": str(self._interval),
            "keepalives_count": str(self._probes),
            "tcp_user_timeout": self.user_timeout,
        }


class Pulse:
    """When one session was last known to be there. Times are seconds of `_clock.now`.

    Attributes:
        bounds: What follows from the client's settings.

        trust: So long after `confirmed` we go on believing.

        confirmed: The start of the last exchange that succeeded.

        round_trip: How long the server's word takes to get here: no longer than this, as far as
            connecting showed.
    """

    __slots__ = ("bounds", "confirmed", "round_trip", "trust")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.trust = bounds.trust
        self.confirmed = -math.inf
        self.round_trip = math.inf

    def measure(self, seconds: float) -> None:
        """Note that a round trip took so long, or less: a busy host adds to it what it likes."""
        self.round_trip = min(self.round_trip, seconds)

    def confirm(self, start: float) -> None:
        """Note that an exchange which started then has succeeded."""
        if start > self.confirmed:  # noqa: PLR1730 - for every request, and `max` is slower
            self.confirmed = start

    def forgive(self, now: float) -> None:
        """Allow one more heartbeat's time, to one who could not ask because he was stopped.

        Not for those who may act meanwhile: only an answer tells whether the server let go.
        """
        self.confirm(now - self.bounds.trust + self.bounds.heartbeat)

    def lapsed(self, now: float) -> bool:
        """Whether the time of believing is over."""
        return now - self.confirmed >= self.trust

    def due(self, now: float) -> bool:
        """Whether to ask again; whoever looks once a heartbeat then asks early enough."""
        return now - self.confirmed >= self.bounds.heartbeat / 2

    def patience(self, start: float) -> float:
        """How long an exchange that starts now may take.

        Not beyond the trust that locks on this session live on. Without recent news of it there
        are no such locks, or they would have had a heartbeat.
        """
        trust = self.trust
        age = start - self.confirmed
        return trust - age if age < trust / 2 else trust

    def left(self, now: float) -> float:
        """How long until `lapsed`."""
        return self.confirmed + self.trust - now


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
