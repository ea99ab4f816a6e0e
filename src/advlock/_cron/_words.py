"""Times for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from advlock._cron._zone import zone_of


def utc(when: datetime) -> str:
    """Return a time as all times are shown: `2026-11-26 03:00:00 UTC`."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def at(when: datetime, timezone: str) -> str:
    """Return a time in UTC, and what clocks in a zone show then, if that is another time."""
    there, here = when.astimezone(zone_of(timezone)), when.astimezone(UTC)
    if there.utcoffset() == here.utcoffset():
        return utc(when)
    shown = "%H:%M:%S" if there.date() == here.date() else "%Y-%m-%d %H:%M:%S"
    return f"{utc(when)} ({there:{shown}} in {timezone})"
