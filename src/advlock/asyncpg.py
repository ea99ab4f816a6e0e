"""Locks in asyncpg's transactions: on a `Connection`, or one that a pool has lent."""

from __future__ import annotations

try:
    import asyncpg as _asyncpg  # noqa: F401 - whether it is there
except ImportError as error:
    msg = "advlock.asyncpg needs asyncpg: pip install 'advlock[asyncpg]'"
    raise ImportError(msg) from error

from advlock._asyncpg._claim import claim
from advlock._asyncpg._xact import try_xact_lock, xact_lock

__all__ = ["claim", "try_xact_lock", "xact_lock"]
