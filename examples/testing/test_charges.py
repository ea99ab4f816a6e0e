"""Tests of `charges`: the real client, no PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from charges import charge_all, nightly

import advlock

if TYPE_CHECKING:
    from advlock.testing import MemoryServer

CUSTOMERS = ("ann", "bob", "cyd")


def test_everybody_is_charged(advlock_memory: MemoryServer) -> None:
    """On the one host that comes, and after it the lock is free."""
    charged: list[str] = []
    assert nightly(advlock_memory.locks(), CUSTOMERS, charged.append) == len(CUSTOMERS)
    assert charged == [*CUSTOMERS]
    assert not advlock_memory.holders("charges")


def test_one_host_at_a_time(advlock_memory: MemoryServer) -> None:
    """Another host is at it: this one leaves it alone."""
    charged: list[str] = []
    with advlock_memory.hold("charges"):
        assert nightly(advlock_memory.locks(), CUSTOMERS, charged.append) is None
    assert charged == []


def test_a_lost_lock_stops_it(advlock_memory: MemoryServer) -> None:
    """The server ends the session in the middle: another host may begin, so this one stops."""
    charged: list[str] = []

    def charge(customer: str) -> None:
        charged.append(customer)
        if customer == "bob":
            advlock_memory.lose("charges")

    with pytest.raises(advlock.LockError):
        nightly(advlock_memory.locks(), CUSTOMERS, charge)
    assert charged == ["ann", "bob"]


def test_nobody_charges_without_the_lock() -> None:
    """Whoever calls the inner function by itself is told."""
    with pytest.raises(advlock.LockNotHeld):
        charge_all(CUSTOMERS, print)
