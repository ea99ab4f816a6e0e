"""A nightly job that charges customers: on one host at a time, and never without its lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import advlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def nightly(
    locks: advlock.Locks, customers: Iterable[str], charge: Callable[[str], object]
) -> int | None:
    """Charge every customer; return how many, or None where another host is at it."""
    with locks.attempt("charges") as held:
        return None if held is None else charge_all(customers, charge)


def charge_all(customers: Iterable[str], charge: Callable[[str], object]) -> int:
    """Charge every customer; whoever calls this holds the lock, and has not lost it meanwhile."""
    count = 0
    for customer in customers:
        advlock.assert_held("charges")
        charge(customer)
        count += 1
    return count
