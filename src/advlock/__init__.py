"""Exactly one process should be doing this right now — on the Postgres you already have.

Names are imported on first use, so that the command pays for what it runs and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advlock._aheld import AsyncHeld
    from advlock._alocks import AsyncLocks
    from advlock._cron._ascheduler import AsyncScheduler
    from advlock._cron._function import CronRun, JobPolicies
    from advlock._cron._scheduler import Scheduler
    from advlock._doctor import Finding, Report, doctor
    from advlock._held import Held
    from advlock._holder import Holder
    from advlock._key import Key
    from advlock._lock import AsyncLock, Lock
    from advlock._locks import Locks
    from advlock._xact import try_xact_lock, xact_lock
    from advlock.errors import (
        ConfigError,
        DatabaseUnavailable,
        KeyCollision,
        LockError,
        LockLost,
        LockNotHeld,
        LockTimeout,
        TooManyLocks,
        UnsafeServer,
    )

    __version__: str

_MODULES = {
    "_aheld": ("AsyncHeld",),
    "_alocks": ("AsyncLocks",),
    "_cron._ascheduler": ("AsyncScheduler",),
    "_cron._function": ("CronRun", "JobPolicies"),
    "_cron._scheduler": ("Scheduler",),
    "_doctor": ("Finding", "Report", "doctor"),
    "_held": ("Held",),
    "_holder": ("Holder",),
    "_key": ("Key",),
    "_lock": ("AsyncLock", "Lock"),
    "_locks": ("Locks",),
    "_xact": ("try_xact_lock", "xact_lock"),
    "errors": (
        "ConfigError",
        "DatabaseUnavailable",
        "KeyCollision",
        "LockError",
        "LockLost",
        "LockNotHeld",
        "LockTimeout",
        "TooManyLocks",
        "UnsafeServer",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AsyncHeld",
    "AsyncLock",
    "AsyncLocks",
    "AsyncScheduler",
    "ConfigError",
    "CronRun",
    "DatabaseUnavailable",
    "Finding",
    "Held",
    "Holder",
    "JobPolicies",
    "Key",
    "KeyCollision",
    "Lock",
    "LockError",
    "LockLost",
    "LockNotHeld",
    "LockTimeout",
    "Locks",
    "Report",
    "Scheduler",
    "TooManyLocks",
    "UnsafeServer",
    "doctor",
    "try_xact_lock",
    "xact_lock",
]


if not TYPE_CHECKING:  # or a type checker would let every misspelt name pass

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - costs more than all the rest

            return version("advlock")
        if name in _HOME:
            value = globals()[name] = getattr(import_module(f"advlock.{_HOME[name]}"), name)
            return value
        msg = f"module 'advlock' has no attribute {name!r}"
        raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
