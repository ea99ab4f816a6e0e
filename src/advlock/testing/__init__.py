"""For tests of code that uses advlock: a server of locks in the process, or a real one.

pytest finds the fixtures by itself: `advlock_memory` is a `MemoryServer`, `advlock_postgres` a
`PostgresDatabase`. Other frameworks use the classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advlock.testing._memory import MemoryServer, Rival
    from advlock.testing._postgres import PostgresDatabase

__all__ = ["MemoryServer", "PostgresDatabase", "Rival"]

_HOME = {"MemoryServer": "_memory", "PostgresDatabase": "_postgres", "Rival": "_memory"}

if not TYPE_CHECKING:  # or a type checker would let every misspelt name pass

    def __getattr__(name: str) -> object:
        if name in _HOME:
            value = globals()[name] = getattr(import_module(f"advlock.testing.{_HOME[name]}"), name)
            return value
        msg = f"module 'advlock.testing' has no attribute {name!r}"
        raise AttributeError(msg)
