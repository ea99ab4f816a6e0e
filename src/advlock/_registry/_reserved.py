"""Names that advlock takes for itself. Pure."""

from __future__ import annotations

from typing import Final

# As templates: what the cron locks for a job, for one tick of it and for a host, and what whoever
# makes the tables locks meanwhile.
RESERVED: Final = {
    "cron:{job}": "the cron's lock of a job",
    "cron-host:{id}": "the cron's lock of a host",
    "once:{name}": "held while something is done that is done once",
    "rate:{name}": "held for an instant while a rate limit decides",
    "advlock: schema": "held while advlock's tables are made",
}
_PREFIXES: Final = ("cron:", "cron-host:", "once:", "rate:", "advlock: ")


def reserved(name: str) -> str | None:
    """Say what a name is for, if it is one of advlock's own; without the client's namespace."""
    for prefix, meaning in zip(_PREFIXES, RESERVED.values(), strict=True):
        if name.startswith(prefix):
            return meaning
    return None
