"""Tasks of which one run works at a time."""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar

from celery import Task, current_app, current_task

from advlock import _observe
from advlock._celery import _settings
from advlock._client import wait_seconds
from advlock._duration import seconds as duration
from advlock._held import refuse_generator
from advlock.errors import ConfigError, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._client import Seconds
    from advlock._held import Attempt, Hold
    from advlock._locks import Locks

P = ParamSpec("P")
R = TypeVar("R")

_ON_BUSY: Final = ("skip", "retry", "fail")
_mutex = threading.Lock()
_clients: dict[int, tuple[Any, Locks]] = {}

log = logging.getLogger("advlock.celery")


def single_task(
    name: str | None = None,
    *,
    wait: Seconds = 0,
    on_busy: Literal["skip", "retry", "fail"] = "skip",
    retry_after: Seconds = None,
    key: Callable[..., object] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
    """Let one run of a task work at a time, on all workers together. Below `@app.task`.

    The lock is held while the function runs, and free as soon as its process is gone. Runs exclude
    each other; what must be done once per message or per day is for `Locks.once`.

    Args:
        name: The lock; by default the task's own name.
        wait: How long a run waits for another one to end, in seconds or as `"30s"`; a worker's slot
            waits with it. None for ever.
        on_busy: What becomes of a run that finds another one at work. `skip`: it returns None;
            `retry`: the message is sent again for later; `fail`: it raises `LockTimeout`.
        retry_after: How much later; by default the task's `default_retry_delay`. After its
            `max_retries` it fails.
        key: Called with the task's arguments, without `self`; runs exclude each other only where
            it returns the same.

    Raises:
        ConfigError: a parameter cannot be right; when called: the worker's threads are not threads
            (gevent, eventlet), or there is no address for the locks.
        LockLost: when called, at the end: the lock was lost, so another run may have begun.
    """
    if callable(name):
        raise ConfigError("write @single_task(), with the parentheses")
    if on_busy not in _ON_BUSY:
        raise ConfigError(f"on_busy is one of {', '.join(_ON_BUSY)}, not {on_busy!r}")
    countdown = None if retry_after is None else duration(retry_after)
    return _Turn(name, key, wait_seconds(wait), on_busy, countdown).decorate


class _Turn:
    """What the decorator was told."""

    def __init__(
        self,
        name: str | None,
        key: Callable[..., object] | None,
        wait: float | None,
        on_busy: str,
        retry_after: float | None,
    ) -> None:
        self._name, self._key, self._wait = name, key, wait
        self._on_busy, self._retry_after = on_busy, retry_after

    def decorate(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Wrap a task's function."""
        refuse_generator(function)
        if inspect.iscoroutinefunction(function):
            raise ConfigError(f"{function!r} is async, which Celery does not run")

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return self._run(function, args, kwargs)

        # Celery reads it to check the arguments of `delay`, and does not follow `__wrapped__`.
        wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return wrapper

    def _run(self, function: Callable[..., R], args: Any, kwargs: Any) -> R | None:
        # Of a bound one that is called by its `run` the current task, if any, is another.
        bound = bool(args) and isinstance(args[0], Task)
        current = current_task._get_current_object() if current_task else None
        task = args[0] if bound else current
        app = current_app._get_current_object() if task is None else task.app
        name = self._lock_name(function, task, args[bound:], kwargs)
        locks, began = client(app), False
        try:
            # Not by an `ExitStack`: what a soft time limit raises in its midst is in a circle with
            # the lock, which would be held until the garbage is collected.
            with self._entry(locks, name) as held:
                if held is None:
                    raise locks._timed_out(name, 0.0)
                began = True
                return function(*args, **kwargs)
        except LockTimeout as error:
            if began:
                raise  # the function's own
            self._busy(task, error)
        return None

    def _entry(self, locks: Locks, name: str) -> Hold | Attempt:
        # Not `hold(wait=0)`: that counts connecting, too, so that on the first call of a process a
        # lock that is free would be taken for busy.
        return locks.attempt(name) if self._wait == 0 else locks.hold(name, wait=self._wait)

    def _lock_name(self, function: Any, task: Any, args: Any, kwargs: Any) -> str:
        own = task.name if task is not None else f"{function.__module__}.{function.__name__}"
        name = self._name or own
        if self._key is None:
            return str(name)
        return f"{name}:{self._key(*args, **kwargs)}"

    def _busy(self, task: Any, error: LockTimeout) -> None:
        if self._on_busy == "fail":
            raise error
        if self._on_busy == "retry":
            if task is None:
                raise error  # called as a plain function: there is no message to send again
            raise task.retry(exc=error, countdown=self._retry_after)
        facts = {"event": "task.skipped", "lock": error.name}
        _observe.tell(logging.INFO, facts, "skipped, another run is at work: %s", error, to=log)


def client(app: Any) -> Locks:
    """Return this process's client for an app; after a fork, the child's has no locks yet."""
    with _mutex:
        known = _clients.get(id(app))
        if known is None:
            _clients[id(app)] = known = (app, _settings.make(app))
    return known[1]


def close() -> None:
    """Close the clients, at exit."""
    with _mutex:
        gone = [known for _, known in _clients.values()]
        _clients.clear()
    for each in gone:
        each.close()


def _after_fork() -> None:
    global _mutex  # noqa: PLW0603 - another thread may have held it
    _mutex = threading.Lock()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
