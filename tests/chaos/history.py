"""Who believed when to hold which key: a log that survives `kill -9`, and the checker of it.

An interval of belief runs from the instant after a grant to the last instant at which its worker
asked and was told "still yours". Both clocks are read on the safe side, so an interval never claims
more than the library had vouched for: the start is read *after* the grant has returned, the end
*before* each look. As what is lost stays lost, a look that says "yours" vouches for every instant
since the grant. A stopped process does not look: if it is told "yours" once it goes on, its
interval spans the stop, as it must, for nothing had kept it from acting a moment earlier.

The clock is CLOCK_MONOTONIC, which all processes of a machine share. Each process appends whole
lines to a file of its own, one write each; the time of the last look of each hold lies beside it,
eight bytes a hold, rewritten in place: neither is lost with the process.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_WORD = 8
_APPEND = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND


class Diary:
    """What one process writes; threads may share it.

    Args:
        directory: Where everybody's files are.

        worker: Who writes, for the reader.
    """

    def __init__(self, directory: Path, worker: str) -> None:
        path = directory / f"{worker}-{os.getpid()}.jsonl"
        self.looks = os.open(path.with_suffix(".looks"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        self._lines = os.open(path, _APPEND)
        self._about = {"worker": worker, "pid": os.getpid()}
        self._numbers = itertools.count()

    def note(self, event: str, **facts: Any) -> None:
        """Append a line."""
        line = json.dumps({"event": event, "at": time.monotonic_ns(), **self._about, **facts})
        os.write(self._lines, line.encode() + b"\n")

    def granted(self, key: str) -> Page:
        """Write down that a lock was granted just now; call it right after."""
        page = Page(self, next(self._numbers))
        self.note("granted", key=key, hold=page.hold)
        return page


class Page:
    """What a process writes about one hold."""

    def __init__(self, diary: Diary, hold: int) -> None:
        self._diary = diary
        self.hold = hold

    def told_yours(self, asked_at: int) -> None:
        """Write down a look that was answered "still yours".

        Args:
            asked_at: The monotonic clock, in nanoseconds, from before the look.
        """
        os.pwrite(self._diary.looks, asked_at.to_bytes(_WORD, "little"), _WORD * self.hold)

    def token(self, token: int) -> None:
        """Write down the fencing token."""
        self._diary.note("token", hold=self.hold, token=token)

    def ends(self, how: str) -> None:
        """Write down how it ended, such as "released" or "lost"."""
        self._diary.note(how, hold=self.hold)


@dataclass(slots=True)
class Hold:
    """One hold, as its worker saw it; times are nanoseconds of the monotonic clock.

    Attributes:
        worker: Who held.

        pid: Its process.

        key: What it held.

        start: From when on it believed.

        until: Until when it surely did; None when it never looked.

        token: Its fencing token, if it drew one.

        released: Whether the server confirmed that its worker gave it back.
    """

    worker: str
    pid: int
    key: str
    start: int
    until: int | None = None
    token: int | None = None
    released: bool = False

    def __str__(self) -> str:
        until = "no look" if self.until is None else f"{self.until / 1e9:.6f} s"
        return f"{self.worker} [{self.pid}] {self.start / 1e9:.6f} s to {until}, token {self.token}"


class History:
    """All that was written in a directory, read on while it grows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self._holds: dict[tuple[Path, int], Hold] = {}
        self.events: list[dict[str, Any]] = []

    def read_on(self) -> list[dict[str, Any]]:
        """Read what was added, and return it."""
        added = []
        for path in self._directory.glob("*.jsonl"):
            for event in self._lines(path):
                added.append(event)
                self._enter(path, event)
        self.events += added
        return added

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        offset = self._offsets.setdefault(path, 0)
        if path.stat().st_size == offset:
            return
        with path.open("rb") as file:
            file.seek(offset)
            whole, newline, _half = file.read().rpartition(b"\n")
        self._offsets[path] += len(whole) + len(newline)
        yield from map(json.loads, whole.splitlines())

    def _enter(self, path: Path, event: dict[str, Any]) -> None:
        if event["event"] == "granted":
            self._holds[path, event["hold"]] = Hold(
                event["worker"], event["pid"], event["key"], event["at"]
            )
        elif event["event"] == "token":
            self._holds[path, event["hold"]].token = event["token"]
        elif event["event"] == "released":
            self._holds[path, event["hold"]].released = True

    def holds(self) -> list[Hold]:
        """Every hold, with its last look as it is now."""
        self.read_on()
        looks = {path: path.with_suffix(".looks").read_bytes() for path in self._offsets}
        for (path, number), hold in self._holds.items():
            word = looks[path][_WORD * number : _WORD * (number + 1)]
            hold.until = int.from_bytes(word, "little") or None
        return list(self._holds.values())


@dataclass(frozen=True, slots=True)
class Violation:
    """Two holds that cannot both be right.

    Attributes:
        kind: "overlap" or "token".

        earlier: The one that began first.

        later: The other one.
    """

    kind: str
    earlier: Hold
    later: Hold

    @property
    def seconds(self) -> float:
        """For how long both believed."""
        ends = [hold.until or hold.start for hold in (self.earlier, self.later)]
        return (min(ends) - self.later.start) / 1e9

    def __str__(self) -> str:
        what = f"believed at once for {self.seconds * 1000:.3f} ms"
        if self.kind == "token":
            what = f"tokens {self.earlier.token} and then {self.later.token}"
        return f"{self.later.key}: {what}:\n  {self.earlier}\n  {self.later}"


def check(holds: Iterable[Hold]) -> list[Violation]:
    """Find what must not be: two believers of a key at one instant, or a token out of order."""
    by_key: dict[str, list[Hold]] = {}
    for hold in sorted(holds, key=lambda hold: hold.start):
        by_key.setdefault(hold.key, []).append(hold)
    found = []
    for row in by_key.values():
        found += _overlaps(row)
        found += _disorder(row)
    return found


def _overlaps(row: list[Hold]) -> Iterator[Violation]:
    """Compare each hold with the one before it that was believed in longest."""
    last: Hold | None = None
    for hold in row:
        if hold.until is None:
            continue  # nobody ever said that it was held
        if last and last.until and hold.start <= last.until:
            yield Violation("overlap", last, hold)
        if last is None or (last.until or 0) < hold.until:
            last = hold


def _disorder(row: list[Hold]) -> Iterator[Violation]:
    """Compare each token with the greatest one before it.

    The order of the starts is the order on the server, for every hold with a token: the token was
    drawn after the start, and drawing proves that the lock was still held then.
    """
    highest: Hold | None = None
    for hold in row:
        if hold.token is None:
            continue
        if highest is not None and hold.token <= (highest.token or 0):
            yield Violation("token", highest, hold)
        else:
            highest = hold
