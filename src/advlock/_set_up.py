"""The first words on a session: make it ours, or find out why it cannot be. Pure, as `_plan` is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock import _sql
from advlock._plan import PASSING, Refused, Script, Step, server_error
from advlock.errors import UnsafeServer

if TYPE_CHECKING:
    from advlock._liveness import Bounds
    from advlock._plan import Rows, SessionPlan

_LARGEST_PID: Final = 2**22  # Linux's; a pooler makes its numbers up
_FACTS: Final = slice(len(_sql.OPENING), len(_sql.OPENING) + 3)  # the answers that count


class Identity(NamedTuple):
    """Which server a session is on.

    A promotion starts a new timeline; a restored or another cluster is another system.
    """

    system: str
    timeline: int

    def is_behind(self, other: Identity) -> bool:
        """Whether this is a former primary, in the eyes of one that was connected to `other`."""
        return self.system == other.system and self.timeline < other.timeline


class Greeting(NamedTuple):
    """What the server said of itself.

    Attributes:
        server: Which one it is.

        backend_pid: The process that answers. Only if it is the one that the session began with,
            the settings are the session's.
    """

    server: Identity
    backend_pid: int


def set_up(startup_pid: int, bounds: Bounds) -> SessionPlan[Greeting]:
    """Make a new session ours: immune to a DBA's defaults, and safe to lock on.

    Afterwards the server is a primary that really locks. If it talks to us directly, the session's
    settings are `_sql.SETTINGS` and those of `bounds`; behind a pooler nothing is left of this.

    Raises:
        UnsafeServer: the server is a read replica, or no PostgreSQL that locks.
    """
    key = (str(random.getrandbits(63)),)
    try:
        answer = yield Script(
            (
                *map(Step, _sql.OPENING),
                Step(_sql.TRY_ONE, key),
                Step(_sql.SET_UP, settings(startup_pid, bounds)),
                Step(_sql.UNLOCK_ONE, key),
                Step(_sql.COMMIT),
            )
        )
    except Refused as refusal:
        if refusal.sqlstate[:2] in PASSING:
            raise server_error(refusal) from refusal
        raise _refused(refusal) from refusal
    return _judge(answer)


def looks_direct(startup_pid: int) -> bool:
    """Whether this may be the number of a server's process; a pooler's hardly ever may."""
    return 0 < startup_pid <= _LARGEST_PID


def settings(owner: int, bounds: Bounds) -> tuple[str, ...]:
    """Return the parameters of `_sql.SET_UP`.

    Args:
        owner: The process whose session is ours to change; 0 for this transaction only.

        bounds: What depends on the client.
    """
    ours = {**_sql.SETTINGS, **bounds.settings()}
    return (_array(ours), _array(ours.values()), str(owner))


def read(row: tuple[str | None, ...]) -> tuple[Greeting, bool]:
    """Read the answer to `_sql.SET_UP`: who answers, and whether it holds any advisory lock.

    Raises:
        UnsafeServer: it is a read replica.
    """
    backend_pid, in_recovery, system, timeline, locks, _ = row
    if in_recovery == "t":
        raise UnsafeServer(
            "this server is a read replica: it grants advisory locks of its own, whatever the "
            "primary has granted. Connect to the primary, e.g. with several hosts and "
            "?target_session_attrs=read-write in the DSN",
            reason="replica",
        )
    server = Identity(system or "", int(timeline or "0", 16))
    return Greeting(server, int(backend_pid or 0)), locks == "t"


def _judge(answer: Rows) -> Greeting:
    (taken,), facts, (released,) = (rows[0] if rows else (None,) for rows in answer[_FACTS])
    greeting, locks = read(facts) if len(facts) > 1 else (None, False)
    if greeting is None or not (taken == released == "t" and locks):
        raise UnsafeServer(
            "this server says that it locks and does not: the lock that advlock took for a test is "
            "not in pg_locks. Its advisory locks are stubs, which exclude nobody, as CockroachDB's "
            "are; point advlock at a PostgreSQL server",
            reason="stub",
        )
    return greeting


def _refused(refusal: Refused) -> UnsafeServer:
    return UnsafeServer(
        f"the server refused advlock's set-up ({refusal.sqlstate}: {refusal.message}). "
        f"It may speak PostgreSQL's protocol without being PostgreSQL 14 or newer; "
        f"point advlock at a PostgreSQL server",
        reason="refused",
    )


def statement_pooling(direct: str | None) -> UnsafeServer:
    """Refuse a pooler that no transaction can pin.

    Args:
        direct: The server's own address, where it is known.
    """
    address = direct or "postgresql://user@database-host:5432/name"
    return UnsafeServer(
        f"a connection pooler in statement mode stands between advlock and the server: it lends a "
        f"server session for one statement only, so no lock can be held through it. Set "
        f"pool_mode = transaction or session there, or give advlock the server's own address, "
        f"{'' if direct else 'e.g. '}ADVLOCK_DSN={address}",
        reason="pooler",
    )


def _array(values: object) -> str:
    quoted = (str(value).replace("\\", "\\\\").replace('"', '\\"') for value in values)  # type: ignore[attr-defined]
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"
