"""Several APScheduler 3 on one job store, each tick once: `advlock[apscheduler]`.

`scheduler = BackgroundScheduler(executors={"default": ClaimingExecutor()})` in each process.
"""

from __future__ import annotations

try:
    import apscheduler as _apscheduler
except ImportError as _missing:
    _how = "APScheduler is not installed: pip install 'advlock[apscheduler]'"
    raise ImportError(_how, name=_missing.name) from _missing

from advlock._apscheduler._executor import ClaimingExecutor
from advlock._apscheduler._store import shared

del _apscheduler

__all__ = ["ClaimingExecutor", "shared"]

for _name in __all__:
    globals()[_name].__module__ = "advlock.apscheduler"
