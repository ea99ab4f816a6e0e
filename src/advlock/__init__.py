"""Exactly one process should be doing this right now — on the Postgres you already have.

Names are imported on first use, so that the command pays for what it runs and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advlock._aheld import AsyncHeld
    from advlock._alocks import AsyncLocks
    from advlock._assert import assert_held
    from advlock._claim import claim
    from advlock._cron._ascheduler import AsyncScheduler
    from advlock._cron._function import CronRun, JobPolicies
    from advlock._cron._scheduler import Scheduler
    from advlock._doctor import Finding, Report, doctor
    from advlock._held import Held
    from advlock._holder import Holder
    from advlock._key import Key
    from advlock._leader._aleader import AsyncLeader, AsyncTerm
    from advlock._leader._leader import Leader, Term
    from advlock._lock import AsyncLock, Lock
    from advlock._locks import Locks
    from advlock._once._done import Done
    from advlock._once._todo import AsyncTodo, Todo
    from advlock._rate._alimit import AsyncRateLimit
    from advlock._rate._limit import RateLimit
    from advlock._rate._rate import Permit, RateStats
    from advlock._registry._registry import Registry
    from advlock._semaphore._asemaphore import AsyncSemaphore
    from advlock._semaphore._semaphore import Semaphore
    from advlock._semaphore._slot import AsyncSlot, Slot
    from advlock._xact import try_xact_lock, xact_lock
    from advlock.errors import (
        ConfigError,
        DatabaseUnavailable,
        KeyCollision,
        LockError,
        LockLost,
        LockNotHeld,
        LockTimeout,
        RateLimited,
        TooManyLocks,
        UnsafeServer,
    )

    __version__: str

_MODULES = {
    "_aheld": ("AsyncHeld",),
    "_alocks": ("AsyncLocks",),
    "_assert": ("assert_held",),
    "_claim": ("claim",),
    "_cron._ascheduler": ("AsyncScheduler",),
    "_cron._function": ("CronRun", "JobPolicies"),
    "_cron._scheduler": ("Scheduler",),
    "_doctor": ("Finding", "Report", "doctor"),
    "_held": ("Held",),
    "_holder": ("Holder",),
    "_key": ("Key",),
    "_leader._aleader": ("AsyncLeader", "AsyncTerm"),
    "_leader._leader": ("Leader", "Term"),
    "_lock": ("AsyncLock", "Lock"),
    "_locks": ("Locks",),
    "_once._done": ("Done",),
    "_once._todo": ("AsyncTodo", "Todo"),
    "_rate._alimit": ("AsyncRateLimit",),
    "_rate._limit": ("RateLimit",),
    "_rate._rate": ("Permit", "RateStats"),
    "_registry._registry": ("Registry",),
    "_semaphore._asemaphore": ("AsyncSemaphore",),
    "_semaphore._semaphore": ("Semaphore",),
    "_semaphore._slot": ("AsyncSlot", "Slot"),
    "_xact": ("try_xact_lock", "xact_lock"),
    "errors": (
        "ConfigError",
        "DatabaseUnavailable",
        "KeyCollision",
        "LockError",
        "LockLost",
        "LockNotHeld",
        "LockTimeout",
        "RateLimited",
        "TooManyLocks",
        "UnsafeServer",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AsyncHeld",
    "AsyncLeader",
    "AsyncLock",
    "AsyncLocks",
    "AsyncRateLimit",
    "AsyncScheduler",
    "AsyncSemaphore",
    "AsyncSlot",
    "AsyncTerm",
    "AsyncTodo",
    "ConfigError",
    "CronRun",
    "DatabaseUnavailable",
    "Done",
    "Finding",
    "Held",
    "Holder",
    "JobPolicies",
    "Key",
    "KeyCollision",
    "Leader",
    "Lock",
    "LockError",
    "LockLost",
    "LockNotHeld",
    "LockTimeout",
    "Locks",
    "Permit",
    "RateLimit",
    "RateLimited",
    "RateStats",
    "Registry",
    "Report",
    "Scheduler",
    "Semaphore",
    "Slot",
    "Term",
    "Todo",
    "TooManyLocks",
    "UnsafeServer",
    "assert_held",
    "claim",
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
