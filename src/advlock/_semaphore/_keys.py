"""What the server locks for a semaphore. Pure.

Slot n is the lock `hashtextextended(NAME, n)`, so slot 0 is the plain lock of that name. Whoever
has a slot also shares the key that says how many slots there are, and whoever is the first to wait
for one holds the semaphore's queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from advlock._key import Key
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._holder import Holder

MOST: Final = 1000  # slots: all of them are looked at together


class Keys:
    """The keys of one semaphore."""

    def __init__(self, slots: int, slot: Callable[[int], Key], encoding: str) -> None:
        """Make keys.

        Args:
            slots: How many slots there are.
            slot: Makes the key of one slot.
            encoding: The Python codec of the server's encoding.
        """
        self.slots = tuple(map(slot, range(slots)))
        self.encoding = encoding
        name = self.slots[0].name
        assert name is not None
        self.name = name
        self.agreed = Key.agreed(name, slots, encoding=encoding)
        self.queue = Key.agreed(name, 0, encoding=encoding)
        self.noted: set[Key] = set()  # to be recorded with their names

    def agreed_by(self, slots: int) -> Key:
        """Return the key of those who say that there are `slots`."""
        return Key.agreed(self.name, slots, encoding=self.encoding)


def check(name: Any, slots: Any) -> None:
    """Check what somebody calls a semaphore.

    Raises:
        ConfigError: it cannot be one.
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"a semaphore's name is a str, because each of its slots is a hash of it; not {name!r}"
        )
    Key.of(name)
    good = isinstance(slots, int) and not isinstance(slots, bool) and 1 <= slots <= MOST
    if not good:
        raise ConfigError(f"slots must be a whole number from 1 to {MOST}, not {slots!r}")


def disagreement(keys: Keys, others: int, holders: Sequence[Holder]) -> ConfigError | None:
    """Make the error for holders who say that there are `others` slots; None if none is left."""
    by_whom = "; ".join(str(holder) for holder in holders if not holder.waiting)
    if not by_whom:
        return None
    ours = len(keys.slots)
    return ConfigError(
        f"the semaphore {keys.name!r} has {_count(ours)} here, and {_count(others)} for others "
        f"who hold some: {by_whom}. Let all say the same; until those have left, nobody gets in "
        f"who says {ours}"
    )


def _count(slots: int) -> str:
    return f"{slots} slot{'s' * (slots > 1)}"
