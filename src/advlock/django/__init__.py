"""Locks in a Django project: `INSTALLED_APPS = ["advlock.django", …]`, and what is here.

They live in the database of an alias of `DATABASES`, on sessions of their own: whatever Django does
with its connections (`CONN_MAX_AGE`, a test's transaction, a pool) is nothing to them.
"""

from __future__ import annotations

try:
    import django as _django
except ImportError as error:
    msg = "advlock.django needs Django: pip install 'advlock[django]'"
    raise ImportError(msg) from error

from advlock.django._aclients import async_locks
from advlock.django._clients import locks
from advlock.django._singleton import singleton
from advlock.django._xact import try_xact_lock, xact_lock

del _django

__all__ = ["async_locks", "locks", "singleton", "try_xact_lock", "xact_lock"]

for _name in __all__:
    globals()[_name].__module__ = "advlock.django"
