"""What the doctor saw, on its way from those who look to those who judge. Pure."""

from __future__ import annotations

from typing import NamedTuple

Rows = list[tuple[str | None, ...]]


class Exclusion(NamedTuple):
    """What two sessions were told about one key.

    Attributes:
        pids: Their server processes.

        error: What the server said to the first try, if that was an error.

        first: The answer to it; None without one.

        visible: Whether pg_locks then showed the lock, as the first session's.

        second: The answer to the second session's try.

        released: The answer to the first session's unlock.

        third: The answer to the second session's next try.
    """

    pids: tuple[str | None, str | None]
    error: str = ""
    first: str | None = None
    visible: bool = False
    second: str | None = None
    released: str | None = None
    third: str | None = None


class Server(NamedTuple):
    """What runs there.

    Attributes:
        number: The version as a number, such as 150009.

        release: The version as the server reported it at connect, such as `15.9`.

        version: The answer of `version()`; empty where there was none.

        traces: What providers and extensions leave in the catalogs.
    """

    number: int
    release: str
    version: str
    traces: frozenset[str]


class Override(NamedTuple):
    """What became of our settings on a session of our own.

    Attributes:
        wanted: What we set, by name.

        refusal: What the server said, if it refused.

        in_force: What it then said was in force: name, value, unit.

        tcp: Whether the server's end of the connection is TCP; None where nobody knows.

        through: Whether a pooler stands in between.
    """

    wanted: dict[str, str]
    refusal: str
    in_force: Rows
    tcp: bool | None
    through: bool


class Clock(NamedTuple):
    """The server's clock against ours, in seconds: ahead where it is positive."""

    offset: float
    round_trip: float


class Tokens(NamedTuple):
    """What fencing tokens need.

    Attributes:
        fence: The row about the sequence `advlock.fence`, if there is one.

        may_create: Whether this role could make it.

        functions: Which functions the role may call: signature and `t` or `f`.
    """

    fence: Rows
    may_create: bool
    functions: Rows
