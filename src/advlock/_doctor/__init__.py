"""`advlock.doctor`: does mutual exclusion hold on this database, and what would endanger it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advlock._doctor._report import Finding, Report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._key import Name, Scheme

__all__ = ["Finding", "Report", "doctor"]


def doctor(
    dsn: str | None = None, names: Iterable[Name] = (), *, keys: Scheme = "hashtextextended"
) -> Report:
    """Examine a database: whether locks hold there, what could break them, what to do about it.

    It tries what locks do on a private random key, with sessions of its own, and otherwise only
    reads; nothing is left behind, also when it is interrupted. On a server that does not answer it
    gives up after about ten seconds.

    Args:
        dsn: The database, as for `Locks`.
        names: Names of locks: reported are those that have one key, and other reports then call
            these locks by their names.
        keys: How names become keys, as for `Locks`.

    Raises:
        ConfigError: `dsn`, or what stands in its place, is wrong, or a name cannot be one.
        DatabaseUnavailable: The database cannot be reached.
    """
    from advlock._doctor._exam import examine  # noqa: PLC0415 - a report can do without a driver

    return examine(dsn, names, keys)


doctor.__module__ = "advlock"
