"""The vocabulary of failure: one root, few words, fields instead of prose.

Every error pickles (a task queue may carry it across processes), keeps what it knows in fields,
and ends its message with what to type next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._holder import Holder
    from advlock._key import Key


class LockError(Exception):
    """The root of everything advlock raises on purpose."""

    __module__ = "advlock"

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message or self.__doc__)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and fields, so that subclasses need no code of their own."""
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[LockError], args: tuple[Any, ...], fields: dict[str, Any]) -> LockError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class LockTimeout(LockError, TimeoutError):
    """Somebody else held the lock for longer than `wait`.

    `holders` says who holds it and who waits, as the server saw it when time ran out (empty when
    the server could not be asked in time).
    """

    __module__ = "advlock"

    name: str
    key: Key
    wait: float
    holders: Sequence[Holder] = ()


class RateLimited(LockError, TimeoutError):
    """No permit was to be had within `wait`.

    `retry_after` says in how many seconds as many permits will be free if nobody else takes them;
    `limit` and `per` are those of the limit.
    """

    __module__ = "advlock"

    name: str
    limit: int
    per: float
    wait: float
    retry_after: float


class LockLost(LockError):
    """The server no longer grants us a lock that we believed we held. Somebody else may have it."""

    __module__ = "advlock"

    name: str
    key: Key


class LockNotHeld(LockError, RuntimeError):
    """A lock was released that is not held."""

    __module__ = "advlock"


class UnsafeServer(LockError):
    """Mutual exclusion cannot hold on this server; advlock refuses to pretend that it does."""

    __module__ = "advlock"

    reason: str


class KeyCollision(LockError):
    """Two different names have the same key, so they would exclude each other."""

    __module__ = "advlock"

    names: tuple[str, ...]
    key: Key


class ConfigError(LockError, ValueError):
    """An argument, a setting or a file cannot be right; the message says what to write instead."""

    __module__ = "advlock"


class DatabaseUnavailable(LockError, ConnectionError):
    """No session with the database: unknown host, refused, wrong password, or it went away."""

    __module__ = "advlock"

    sqlstate: str | None = None


class TooManyLocks(LockError):
    """One lock more than this client's `max_locks`, or than the server's lock table, can take."""

    __module__ = "advlock"
