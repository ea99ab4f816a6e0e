"""One `celery beat` of several sends, and tasks of which one run works: `advlock[celery]`.

`celery -A app beat -S advlock.celery.Scheduler` on every host; `single_task` below `@app.task`.
"""

from __future__ import annotations

try:
    import celery as _celery
except ImportError as _missing:
    _how = "Celery is not installed: pip install 'advlock[celery]'"
    raise ImportError(_how, name=_missing.name) from _missing

from advlock._celery._beat import Scheduler, leading
from advlock._celery._task import single_task

del _celery

__all__ = ["Scheduler", "leading", "single_task"]

for _name in __all__:
    globals()[_name].__module__ = "advlock.celery"
