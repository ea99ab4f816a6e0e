"""The clients of this process: one for each alias, made on first use, closed at exit."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from advlock._locks import Locks
from advlock.django import _settings
from advlock.django._address import address

if TYPE_CHECKING:
    from advlock.django._address import Address

_mutex = threading.Lock()
_clients: dict[tuple[object, ...], tuple[Locks, Address]] = {}


def locks(using: str = "default") -> Locks:
    """Return this process's client for an alias: its locks live in that database.

    There is one for all threads; it connects on first use, with one session of its own, and is
    closed at exit. After a fork (gunicorn's `--preload`) the child has one without locks. While
    tests run it leads to their database.

    Args:
        using: An alias of `DATABASES` whose engine is PostgreSQL.

    Raises:
        ConfigError: it is none, or the setting `ADVLOCK` cannot be right.
    """
    where = address(using)
    with _mutex:
        known = _clients.get(where.identity)
        if known is None:
            _clients[where.identity] = known = (make(where), where)
    client = known[0]
    client._dsn = where.dsn  # with the password of this moment, for when it connects again
    return client


def make(where: Address, **options: Any) -> Locks:
    """Make a client of its own, with the options of the project."""
    client = Locks(where.dsn.conninfo, **_settings.read().options | options)
    client._dsn = where.dsn  # what to call it in messages
    return client


def close(*, of_tests_only: bool = False) -> None:
    """Close them: all, or those for databases of tests, which could not be dropped otherwise."""
    with _mutex:
        gone = [key for key, (_, at) in _clients.items() if at.of_a_test or not of_tests_only]
        clients = [_clients.pop(key)[0] for key in gone]
    for client in clients:
        client.close()


def _after_fork() -> None:
    global _mutex  # noqa: PLW0603 - another thread may have held it
    _mutex = threading.Lock()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
