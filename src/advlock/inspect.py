"""Look at the locks of a server, by name: who holds them, who waits, and since when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from advlock._holder import Holder, Waiter
from advlock._inspect._tree import LockTree, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from advlock._key import Name
    from advlock._registry._registry import Registry

__all__ = ["Holder", "LockTree", "Snapshot", "Waiter", "look"]


def look(
    dsn: str | None = None,
    names: Iterable[Name] = (),
    *,
    registry: Registry | str | Path | Literal[True] | None = None,
    all_databases: bool = False,
) -> Snapshot:
    """Look once, over a connection of its own.

    It locks nothing, so it also works on a read replica, whose locks are its own. A client that is
    there anyway can do the same with `Locks.inspect`.

    Args:
        dsn: The database, as for `Locks`.
        names: Only these locks; all without it. A name means the slots of its semaphore, too.
        registry: The names that there are, as for `Locks`.
        all_databases: The locks of all databases on the server. Names mean something only within
            their database, so those of the others are named only where a tool has one key for all.

    Raises:
        ConfigError: `dsn`, a name or the registry is wrong.
        DatabaseUnavailable: the database cannot be reached, or gave no answer.
    """
    from advlock import _dsn  # noqa: PLC0415 - what is seen can do without a driver
    from advlock._client import names_of  # noqa: PLC0415
    from advlock._inspect._window import Window  # noqa: PLC0415
    from advlock._registry._names import read  # noqa: PLC0415

    known = None if registry is None else read(registry)
    where = _dsn.resolve(dsn, given="dsn")
    with Window(
        where, registry=known, all_databases=all_databases, application_name="advlock inspect"
    ) as window:
        return window.look(names_of(names))
