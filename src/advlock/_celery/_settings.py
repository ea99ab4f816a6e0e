"""What a Celery app's configuration says of locks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from advlock._locks import Locks
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from celery import Celery

NAME: Final = "celery-beat"
# A beat that is stopped (SIGSTOP, a paused VM) has to be succeeded, too, so there is a lease where
# a client by itself has none. In seconds.
LEASE: Final = 30.0
_OPTIONS: Final = ("namespace", "liveness", "lease", "registry", "strict")
_GREEN: Final = ("gevent", "eventlet")


def setting(app: Celery, name: str, default: Any = None) -> Any:
    """Read `advlock_…` of the app's configuration."""
    value = app.conf.get(f"advlock_{name}")
    return default if value is None else value


def make(app: Celery, **defaults: Any) -> Locks:
    """Make a client with what the app's configuration says.

    Raises:
        ConfigError: there is no address, a setting cannot be right, or threads are not threads.
    """
    refuse_green_threads()
    given = {name: setting(app, name) for name in _OPTIONS}
    known = {name: value for name, value in given.items() if value is not None}
    return Locks(setting(app, "dsn"), **defaults | known)


def refuse_green_threads() -> None:
    """Refuse a process whose threads share one: our heartbeats would stop while a task computes.

    Raises:
        ConfigError: gevent or eventlet has replaced `threading`.
    """
    for name in _GREEN:
        patcher: Any = sys.modules.get("gevent.monkey" if name == "gevent" else "eventlet.patcher")
        asked = "is_module_patched" if name == "gevent" else "is_monkey_patched"
        if patcher is not None and getattr(patcher, asked)(
            "threading" if name == "gevent" else "thread"
        ):
            raise ConfigError(
                f"{name} has replaced this process's threads, and a lock needs a real one that "
                f"goes on while tasks run; use `celery worker --pool prefork` or `threads`"
            )
