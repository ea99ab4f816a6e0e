"""The setting `ADVLOCK`: read where it is used, so that `override_settings` works."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.conf import settings

from advlock import _duration
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN: Final = ("MIGRATE", "MIGRATE_WAIT", "DSN", "OPTIONS")
# What `Locks` takes and a project may choose; the address is DATABASES' or DSN's.
_OPTIONS: Final = (
    "namespace",
    "keys",
    "max_connections",
    "max_locks",
    "application_name",
    "liveness",
    "lease",
    "registry",
    "strict",
)


class Settings(NamedTuple):
    """What `ADVLOCK` says.

    Attributes:
        migrate: Whether `migrate` takes the lock.

        migrate_wait: How long it waits for it, in seconds; None for ever.

        dsn: The address for the locks, where that of the alias is not to be used: one for all
            aliases, or by alias.

        options: The parameters of `Locks` and `AsyncLocks`.
    """

    migrate: bool
    migrate_wait: float | None
    dsn: str | Mapping[str, str]
    options: dict[str, Any]

    def dsn_of(self, using: str) -> str | None:
        """The address that is meant for the locks of an alias, if there is one of its own."""
        return (self.dsn if isinstance(self.dsn, str) else self.dsn.get(using)) or None


def read() -> Settings:
    """Read it.

    Raises:
        ConfigError: it cannot be right.
    """
    given = getattr(settings, "ADVLOCK", {})
    _check_names("ADVLOCK", given, _KNOWN)
    migrate = given.get("MIGRATE", False)
    if not isinstance(migrate, bool):
        raise ConfigError(f"ADVLOCK['MIGRATE'] must be True or False, not {migrate!r}")
    dsn = given.get("DSN", "")
    addresses = dsn.values() if isinstance(dsn, dict) else (dsn,)
    if not all(isinstance(each, str) for each in addresses):
        raise ConfigError(
            "ADVLOCK['DSN'] must be an address such as 'postgresql://db/shop', or a dict "
            "{'default': 'postgresql://db/shop'}"
        )
    if isinstance(dsn, dict):
        _check_names("ADVLOCK['DSN']", dsn, tuple(settings.DATABASES))
    options = given.get("OPTIONS", {})
    _check_names("ADVLOCK['OPTIONS']", options, _OPTIONS)
    return Settings(migrate, _wait(given.get("MIGRATE_WAIT", "10m")), dsn, dict(options))


def _wait(given: Any) -> float | None:
    try:
        return None if given is None else _duration.seconds(given)
    except ConfigError as error:
        raise ConfigError(f"ADVLOCK['MIGRATE_WAIT']: {error}") from None


def _check_names(what: str, given: object, known: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"{what} must be a dict, not {type(given).__name__}")
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise ConfigError(f"{what} has no {name!r}; {hint}")
