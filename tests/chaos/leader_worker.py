"""A candidate that leads when it can, and writes down when it believed so.

It ends with its stdin, and survives whatever the library raises on purpose. `world`, `dsn`,
`directory` and `name` are those of `chaos.worker`, and so is what it writes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import advlock

from .history import Diary
from .worker import _Confess

if TYPE_CHECKING:
    from .history import Page

LEAD = "lead"
LOOK = 0.003  # seconds between two looks
_PAUSE = 0.02


class Candidate:
    """What one process does when it leads: dice, thrown for each term."""

    def __init__(self, options: argparse.Namespace, diary: Diary) -> None:
        self._dice = random.Random(options.seed)  # noqa: S311
        self._options = options
        self._diary = diary

    def begin(self, term: Any) -> tuple[Page, float]:
        """A term has begun just now; its page, and when to end it."""
        page = self._diary.granted(LEAD)
        term.on_lost(lambda _: page.ends("told"))
        return page, time.monotonic() + self._dice.uniform(0.02, 0.5)

    def goes_on(self, term: Any, page: Page, until: float) -> bool:
        """Look once; whether to look again."""
        asked_at = time.monotonic_ns()
        if term.lost and not self._options.without_trust:
            page.ends("lost")
            return False
        page.told_yours(asked_at)
        if self._dice.random() < 0.002:
            term.leader.resign()
            self._diary.note("resigned", hold=page.hold)
        return time.monotonic() < until

    def trouble(self, error: advlock.LockError) -> None:
        """The library raised on purpose."""
        self._diary.note("trouble", kind=type(error).__name__, words=str(error))


def lead(options: argparse.Namespace, diary: Diary) -> None:
    """Lead, term by term, in this thread."""
    candidate = Candidate(options, diary)
    locks = advlock.Locks(options.dsn, **settings(options))
    while True:
        try:
            for term in locks.leader(LEAD, pause=_PAUSE).terms():
                page, until = candidate.begin(term)
                with contextlib.suppress(advlock.LockLost):
                    page.token(term.token())
                while candidate.goes_on(term, page, until):
                    time.sleep(LOOK)
        except advlock.LockError as error:
            candidate.trouble(error)
            time.sleep(_PAUSE)


async def alead(options: argparse.Namespace, diary: Diary) -> None:
    """Lead, term by term, in this task."""
    candidate = Candidate(options, diary)
    locks = advlock.AsyncLocks(options.dsn, **settings(options))
    while True:
        try:
            async for term in locks.leader(LEAD, pause=_PAUSE).terms():
                page, until = candidate.begin(term)
                with contextlib.suppress(advlock.LockLost):
                    page.token(await term.token())
                while candidate.goes_on(term, page, until):  # noqa: ASYNC110 - it looks
                    await asyncio.sleep(LOOK)
        except advlock.LockError as error:
            candidate.trouble(error)
            await asyncio.sleep(_PAUSE)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the client is made with."""
    made = {"liveness": options.liveness, "application_name": f"chaos-{options.name}"}
    return made | ({} if options.lease is None else {"lease": options.lease})


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def main() -> None:
    """Be a candidate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=("sync", "async"))
    parser.add_argument("dsn")
    parser.add_argument("directory", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--liveness", type=float, default=3.0)
    parser.add_argument("--lease", type=float)
    parser.add_argument("--without-trust", action="store_true", help="the control")
    options = parser.parse_args()
    diary = Diary(options.directory, options.name)
    library = logging.getLogger("advlock")
    library.propagate = False
    library.addHandler(_Confess(diary))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        if options.world == "async":
            asyncio.run(alead(options, diary))
        lead(options, diary)
    except Exception:  # noqa: BLE001 - the run's verdict names it
        diary.note("crash", trace=traceback.format_exc())


if __name__ == "__main__":
    main()
