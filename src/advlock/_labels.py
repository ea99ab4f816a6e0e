"""What metrics call locks: few names, however many there are. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Fold: TypeAlias = Callable[[str], str | None] | str | Iterable[str] | None

OTHER: Final = "other"
MOST: Final = 200
# What the cron locks besides a job: a lock of each scheduler that lives, and of each tick of a job
# that may overlap itself.
_OURS: Final = ("cron-host:*", "cron:*@*")


class Labels:
    """Finds the label of a lock's name.

    A name that `fold` knows is what `fold` says. Else one that comes from a template of the
    registry is that template, `user:{id}`. Else it is itself, as long as there are fewer than
    `max_names` labels; every further one is `other`.

    Args:
        fold: A callable that returns the label of a name, or None where it does not know it; or
            patterns such as `"user:*"`, whose labels they are themselves.
        max_names: How many labels there may be.

    Raises:
        ConfigError: a parameter cannot be right.
    """

    def __init__(self, fold: Fold = None, max_names: int = MOST) -> None:
        if not isinstance(max_names, int) or isinstance(max_names, bool) or max_names < 1:
            raise ConfigError(f"max_names must be a whole number of at least 1, not {max_names!r}")
        self._max = max_names
        self._seen: dict[str, None] = {}
        self._fold: Callable[[str], str | None] | None = None
        patterns: tuple[str, ...] = ()
        if callable(fold):
            self._fold = fold
        elif fold is not None:
            patterns = (fold,) if isinstance(fold, str) else tuple(fold)
        self._patterns = [(each, _pattern(each)) for each in (*patterns, *_OURS)]

    def of(self, facts: Mapping[str, Any]) -> str:
        """Return the label of the lock that an event is about."""
        return self.name(facts["lock"], facts.get("key"), facts.get("template"))

    def name(self, name: object, key: object = None, template: str | None = None) -> str:
        """Return the label of a name.

        Args:
            name: As it was asked for: a string, a number or a pair.
            key: The lock's key, for a name that is no string.
            template: The template of the registry that the name comes from.
        """
        text = name if isinstance(name, str) else str(key or name)
        label = (self._folded(text) or template or text) if isinstance(name, str) else text
        if label in self._seen:
            return label
        if len(self._seen) >= self._max:
            return OTHER
        self._seen[label] = None
        return label

    def _folded(self, text: str) -> str | None:
        if self._fold is not None and (label := self._fold(text)) is not None:
            return str(label)
        return next((each for each, known in self._patterns if known.fullmatch(text)), None)


def _pattern(text: object) -> re.Pattern[str]:
    if not isinstance(text, str) or not text:
        raise ConfigError(f"a pattern is a string such as 'user:*', not {text!r}")
    # Not `fnmatch`: brackets are nothing special in a name.
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)
