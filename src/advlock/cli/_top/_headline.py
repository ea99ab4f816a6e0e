"""The lines at the top of the screen. Pure."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

from advlock._duration import brief
from advlock.cli._top._view import longest_wait, stuck
from advlock.cli._top._words import counted
from advlock.cli.locks._text import visible

if TYPE_CHECKING:
    from advlock._inspect._tree import Snapshot
    from advlock.cli._top._view import View

_SILENT = 2.0  # seconds without an answer that are worth a word


class Part(NamedTuple):
    """A piece of a line, and what it means."""

    text: str
    role: str = ""


class Look(NamedTuple):
    """How one looks at a snapshot, beside the view.

    Attributes:
        every: Seconds between two looks.

        all_databases: Whether the locks of other databases are there.

        names: How many locks were asked for by name; 0 for all.

        paused: Whether the picture is to stay as it is.

        silent: How long the server owes an answer, in seconds.

        age: How old the picture is, in seconds.

        trouble: Why there is no newer one; empty while all is well.
    """

    every: float
    all_databases: bool = False
    names: int = 0
    paused: bool = False
    silent: float = 0.0
    age: float = 0.0
    trouble: str = ""

    @property
    def stale(self) -> bool:
        """Whether things may be different by now."""
        return self.paused or bool(self.trouble) or self.silent >= _SILENT


def head(seen: Snapshot | None, view: View, look: Look) -> list[tuple[list[Part], list[Part]]]:
    """What stands left and right, line for line."""
    first = [Part("advlock top", "title")]
    right = []
    if seen is not None:
        where = "all databases, by way of " if look.all_databases else ""
        first.append(Part(f"  {where}{visible(seen.database)} as {visible(seen.role)}", "less"))
        right = [Part(f"{seen.at.astimezone(UTC):%H:%M:%S} UTC", "less")]
    lines = [(first, right), (_counts(seen), _how(view, look))]
    if doubt := _doubt(look):
        lines.append(([doubt], []))
    return lines


def _counts(seen: Snapshot | None) -> list[Part]:
    if seen is None:
        return [Part("connecting …", "less")]
    waiting = sum(len(tree.waiters) for tree in seen.trees)
    parts = [Part(counted(len(seen.trees), "lock"))]
    if waiting:
        longest = max(longest_wait(tree, seen.at) for tree in seen.trees)
        parts.append(Part(f"  {waiting} waiting", "waiting"))
        parts.append(Part(f"  longest wait {brief(int(longest))}", "waiting"))
    if number := sum(stuck(tree) for tree in seen.trees):
        parts.append(Part(f"  {number} stuck", "stuck"))
    return parts


def _how(view: View, look: Look) -> list[Part]:
    parts = [f"by {view.sort}{' backwards' if view.backwards else ''}"]
    if view.waiting:
        parts.insert(0, "waiters only")
    if look.names:
        parts.insert(0, counted(look.names, "name"))
    shown = [Part("  ".join([*parts, f"every {brief(look.every)}"]), "less")]
    if view.words:
        shown.insert(0, Part(f"/{' '.join(view.words)}  ", "key"))
    return shown


def _doubt(look: Look) -> Part | None:
    """Why the picture may not be true any more."""
    if look.trouble:
        return Part(
            f"lost the database, trying again: {visible(look.trouble.removesuffix('; try again'))}",
            "stuck",
        )
    if look.silent >= _SILENT:
        return Part(f"no answer for {brief(int(look.silent))}; this is how it was before", "stuck")
    if look.paused:
        return Part(f"paused, {brief(int(look.age))} ago; Space goes on", "waiting")
    return None
