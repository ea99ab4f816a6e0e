"""What is known of the patient so far: what the checks learn, and what the verdicts need. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from advlock._doctor._kinds import POSTGRESQL, Kind
from advlock._inspect._stuck import IDLE, WAITING

if TYPE_CHECKING:
    from advlock._key import Key
    from advlock._pooling import Verdict


@dataclass(frozen=True, slots=True)
class Limits:
    """Where the doctor begins to complain, and how long it looks. All times are in seconds.

    Attributes:
        step: How long one question may take.

        total: How long all may take, connecting first not counted.

        death: How long a lock may outlive its connection.

        clock: How far the server's clock may be off.

        filling: How full the lock table may be; `full` where it is an error.

        waiting: How long somebody may wait for a lock.

        idle: How long an idle session may hold one.

        stalled: How long a holder may idle in its transaction while others wait for the lock.
    """

    step: float = 3.0
    total: float = 8.0
    death: float = 3.0
    clock: float = 1.0
    filling: float = 0.5
    full: float = 0.9
    waiting: float = WAITING
    idle: float = IDLE
    stalled: float = 30.0


@dataclass(slots=True)
class About:
    """The patient, as far as it is known.

    Attributes:
        limits: See there.

        version: The server's version as a number, such as 150009.

        release: The same as the server says it, such as `15.9`.

        role: The role of our sessions.

        database: The database they are in.

        superuser: Whether that role is one.

        kind: What runs there.

        pooling: What stands between us and the server; None until that is known.

        replica: Whether it is a read replica.

        unsound: The code of the finding that says that locks exclude nobody here.

        direct: The server's own address, where the pooler's gives it away; without the password.

        keys: The keys of the names that were given, by which a lock's name can be told.
    """

    limits: Limits = field(default_factory=Limits)
    version: int = 0
    release: str = ""
    role: str = ""
    database: str = ""
    superuser: bool = False
    kind: Kind = POSTGRESQL
    pooling: Verdict | None = None
    replica: bool = False
    unsound: str = ""
    direct: str = ""
    keys: dict[Key, Key] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """What runs there, in two words."""
        return f"{self.kind.name} {self.kind.release or self.release}".strip()

    @property
    def pooled(self) -> bool:
        """Whether a pooler stands in between, as far as is known."""
        return self.pooling is None or self.pooling.pooling.value != "direct"

    @property
    def pinned(self) -> bool:
        """Whether advlock takes its locks in a transaction there, and its waiters poll."""
        return self.pooled and (self.pooling is None or self.pooling.pins)
