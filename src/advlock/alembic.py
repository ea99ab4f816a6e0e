"""One process migrates, the others wait and find it done: a line in Alembic's `env.py`.

```
context.configure(connection=connection, target_metadata=target_metadata)
with migration_lock(connection, wait="10m"), context.begin_transaction():
    context.run_migrations()
```
"""

from __future__ import annotations

try:
    import alembic as _alembic  # noqa: F401 - whether it is there
except ImportError as error:
    msg = "advlock.alembic needs Alembic: pip install 'advlock[alembic]'"
    raise ImportError(msg) from error

from advlock._alembic._lock import migration_lock

__all__ = ["migration_lock"]

migration_lock.__module__ = "advlock.alembic"
