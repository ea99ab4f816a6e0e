"""What was seen: every advisory lock, with who holds it and who waits. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from advlock._holder import Holder, Waiter
    from advlock._key import Key

Kind: TypeAlias = Literal["registered", "recorded", "well-known", "unknown"]


@dataclass(frozen=True, slots=True)
class LockTree:
    """One lock: who holds it, and who waits behind them.

    Attributes:
        classid: The first number that `pg_locks` shows, unsigned.

        objid: The second one.

        objsubid: The third: 1 for one bigint, 2 for two ints, else a lock of an extension.

        key: The same as a `Key`; None for a lock of an extension.

        database: The name of its database; names and keys mean something only within it. Empty
            for a lock that belongs to none.

        name: What it is called; None for an unknown one.

        kind: Who says so: `registered` (the registry's file), `recorded` (the process that took
            it), `well-known` (the catalogue: a tool's own lock), or `unknown`.

        description: What the registry or the catalogue says about it.

        owner: Whom to ask, where the registry says so.

        candidates: For a well-known key that several tools use: all of them, "one of".

        holders: Who holds it: one, or several that share it.

        waiters: Who waits, in the order of the queue as far as it can be known.
    """

    classid: int
    objid: int
    objsubid: int
    key: Key | None
    database: str
    name: str | None = None
    kind: Kind = "unknown"
    description: str = ""
    owner: str = ""
    candidates: tuple[str, ...] = ()
    holders: tuple[Holder, ...] = ()
    waiters: tuple[Waiter, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen at one moment.

    Attributes:
        at: When, by the server's clock.

        database: The database that was asked.

        role: The role that asked.

        trees: The locks, those with waiters first, then by name.

        hidden: What this role could not see, one sentence each, with what to do about it.
    """

    at: datetime
    database: str
    role: str
    trees: tuple[LockTree, ...] = ()
    hidden: tuple[str, ...] = ()


# Not in their bodies: `dataclass` looks for the module that a class names, and this one is there
# before that one.
LockTree.__module__ = Snapshot.__module__ = "advlock.inspect"
