"""Locks in SQLAlchemy's transactions: of a `Session` or a `Connection`, sync or async.

`Locks.from_engine(engine)` makes a client for locks that are longer than a transaction.
"""

from __future__ import annotations

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - whether it is there
except ImportError as error:
    msg = "advlock.sqlalchemy needs SQLAlchemy: pip install 'advlock[sqlalchemy]'"
    raise ImportError(msg) from error

from advlock._sqlalchemy._claim import claim
from advlock._sqlalchemy._xact import try_xact_lock, xact_lock

__all__ = ["claim", "try_xact_lock", "xact_lock"]
