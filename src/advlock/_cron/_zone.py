"""Time zones by their IANA names, the same on every host. Pure."""

from __future__ import annotations

import difflib
from datetime import UTC
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from datetime import tzinfo

_SHOWN: Final = 60
_UTC: Final = frozenset(("UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal"))
# They lie beside the zones in many a zoneinfo directory. `localtime` is another one on another
# host, and `right/` counts leap seconds, of which datetime does not know.
_LOCAL: Final = ("localtime", "posixrules", "Factory")
_COPIES: Final = ("right/", "posix/")


def zone_of(name: str) -> tzinfo:
    """Return the time zone of that name.

    Raises:
        ConfigError: There is none, or it could be another one on another host.
    """
    if name in _UTC:
        return UTC  # datetime's own: no rules to look up, so everything is faster with it
    if name in _LOCAL or name.startswith(_COPIES):
        raise ConfigError(
            f"the timezone {name!r} is not the same on every host;"
            " write a name such as Europe/Berlin, or UTC"
        )
    try:
        return ZoneInfo(name)
    # ValueError: a path that leads elsewhere, or a file that holds no zone. OSError: a directory.
    except (ZoneInfoNotFoundError, ValueError, OSError):
        shown = name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…"
        raise ConfigError(f"there is no timezone {shown!r}; {_meant(name)}") from None


def _meant(name: str) -> str:
    zones = available_timezones()
    if "Europe/Berlin" not in zones:
        return "this host has no time zones at all, so install the package tzdata, or write UTC"
    wanted = name.strip().replace(" ", "_").casefold()[:_SHOWN]
    # People leave out the continent: the last part is compared too.
    spelled: dict[str, str] = {}
    for zone in sorted(zones):
        spelled.setdefault(zone.rpartition("/")[2].casefold(), zone)
    spelled |= {zone.casefold(): zone for zone in zones}
    close = difflib.get_close_matches(wanted, spelled, n=3)
    found = list(dict.fromkeys(spelled[match] for match in close))
    if wanted in spelled:
        found = [spelled[wanted]]
    if not found:
        return "write a name such as Europe/Berlin, or UTC"
    return f"did you mean {' or '.join(found)}?"
