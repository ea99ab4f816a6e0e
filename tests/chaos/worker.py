"""A process full of threads, or of tasks, that hold locks and write down when they believed so.

It ends with its stdin, closes its client and ends at a SIGTERM, and survives whatever the library
raises on purpose; anything else is written down as a "crash", which fails the run.
`python -m chaos.worker --help` has the options.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import advlock

from . import naive
from .history import Diary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .history import Page

LOOK = 0.004  # seconds between two looks


class Plan:
    """What one thread or task does: dice, thrown for each hold.

    Args:
        options: The command line.

        number: Which thread or task of the process it is.
    """

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        self._dice = random.Random(options.seed + number)  # noqa: S311
        self._options = options

    def key(self) -> str:
        """What to hold."""
        return self._dice.choice(self._options.keys.split(","))

    def patience(self) -> float | None:
        """How long to wait: zero means to try once, None for ever."""
        if self._options.work is not None:
            return None
        return self._dice.choice((0.0, None, self._dice.uniform(0.05, 0.5), 3.0))

    def work(self) -> float:
        """How long to hold: mostly a moment, now and then longer than trust lasts."""
        if self._options.work is not None:
            return float(self._options.work)
        if self._dice.random() < 0.08:
            return self._dice.uniform(0.5, 1.5) * float(self._options.liveness)
        return self._dice.uniform(0.005, 0.3)

    def nap(self) -> float:
        """How long to stay away."""
        return self._dice.uniform(0.0, 0.05)

    def rudeness(self) -> float:
        """How long to block the event loop; rarely, and then for longer than trust lasts."""
        if self._options.work is not None or self._dice.random() > 0.003:
            return 0.0
        return 1.1 * float(self._options.liveness)

    def asks(self, held: Any) -> bool:
        """Whether the library says "still yours", by either of its two ways to ask."""
        if self._options.without_trust:
            return True
        if self._dice.random() < 0.5:
            return not held.lost
        try:
            held.check()
        except advlock.LockLost:
            return False
        return True


class Work:
    """The body of one hold: looks every few milliseconds until time is up, or the lock is lost."""

    def __init__(self, plan: Plan, held: Any, page: Page) -> None:
        self._plan, self._held, self._page = plan, held, page
        self._until = time.monotonic() + plan.work()
        held.on_lost(lambda _held: page.ends("told"))

    def goes_on(self) -> bool:
        """Look once; whether to look again."""
        asked_at = time.monotonic_ns()
        if not self._plan.asks(self._held):
            self._page.ends("lost")
            return False
        self._page.told_yours(asked_at)
        if time.monotonic() < self._until:
            return True
        self._page.ends("worked")
        return False


def hold(locks: advlock.Locks, diary: Diary, plan: Plan) -> None:
    """Hold one lock once."""
    key, patience = plan.key(), plan.patience()
    with locks.attempt(key) if patience == 0 else locks.hold(key, wait=patience) as held:
        if held is None:
            return
        page = diary.granted(key)
        work = Work(plan, held, page)
        page.token(held.token())
        while work.goes_on():
            time.sleep(LOOK)
    page.ends("released")


async def ahold(locks: advlock.AsyncLocks, diary: Diary, plan: Plan) -> None:
    """Hold one lock once, and now and then block the loop meanwhile."""
    key, patience = plan.key(), plan.patience()
    async with locks.attempt(key) if patience == 0 else locks.hold(key, wait=patience) as held:
        if held is None:
            return
        page = diary.granted(key)
        work = Work(plan, held, page)
        page.token(await held.token())
        if rudeness := plan.rudeness():
            diary.note("blocked", hold=page.hold)
            time.sleep(rudeness)  # noqa: ASYNC251 - the point
        while work.goes_on():  # noqa: ASYNC110 - looking is what it is here for
            await asyncio.sleep(LOOK)
    page.ends("released")


def _trouble(diary: Diary, error: advlock.LockError) -> None:
    diary.note("trouble", kind=type(error).__name__, words=str(error))


def live(diary: Diary, plan: Plan, once: Callable[[], None]) -> None:
    """Do it for ever."""
    while True:
        try:
            once()
        except advlock.LockError as error:
            _trouble(diary, error)
        except Exception:  # noqa: BLE001 - the run's verdict names it
            diary.note("crash", trace=traceback.format_exc())
        time.sleep(plan.nap())


async def alive(diary: Diary, plan: Plan, once: Callable[[], Awaitable[None]]) -> None:
    """Do it for ever."""
    while True:
        try:
            await once()
        except advlock.LockError as error:
            _trouble(diary, error)
        except Exception:  # noqa: BLE001
            diary.note("crash", trace=traceback.format_exc())
        await asyncio.sleep(plan.nap())


def wonder(locks: advlock.Locks, key: str) -> None:
    """Ask who holds the key, for ever: so the session is busy with more than heartbeats."""
    while True:
        with contextlib.suppress(advlock.LockError):
            locks.holders(key)
        time.sleep(LOOK)


async def awonder(locks: advlock.AsyncLocks, key: str) -> None:
    """Do the same."""
    while True:
        with contextlib.suppress(advlock.LockError):
            await locks.holders(key)
        await asyncio.sleep(LOOK)


class _Confess(logging.Handler):
    """Writes down what the library itself calls an error."""

    def __init__(self, diary: Diary) -> None:
        super().__init__(logging.ERROR)
        self._diary = diary

    def emit(self, record: logging.LogRecord) -> None:
        self._diary.note("crash", trace=self.format(record))


def _client(options: argparse.Namespace) -> dict[str, Any]:
    settings = {"liveness": options.liveness, "application_name": f"chaos-{options.name}"}
    return settings | ({} if options.lease is None else {"lease": options.lease})


async def crowd(options: argparse.Namespace, diary: Diary) -> None:
    """Run the tasks of one async client."""

    def say(_loop: object, context: dict[str, Any]) -> None:
        diary.note("crash", trace=repr(context))

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(say)
    me: Any = asyncio.current_task()
    _when_dismissed(lambda: loop.call_soon_threadsafe(me.cancel))
    plans = [Plan(options, number) for number in range(options.crowd)]
    async with advlock.AsyncLocks(options.dsn, **_client(options)) as locks:
        jobs = [alive(diary, plan, lambda p=plan: ahold(locks, diary, p)) for plan in plans]  # type: ignore[misc]
        if options.curious:
            jobs.append(awonder(locks, options.keys.split(",")[0]))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*jobs)


def threads(options: argparse.Namespace, diary: Diary) -> None:
    """Run the threads of one sync client."""
    locks: Any = (
        naive.Locks(options.dsn)
        if options.naive
        else advlock.Locks(options.dsn, **_client(options))
    )
    _when_dismissed(lambda: (locks.close(), os._exit(0)))
    for number in range(options.crowd):
        plan = Plan(options, number)
        arguments = (diary, plan, lambda p=plan: hold(locks, diary, p))  # type: ignore[misc]
        threading.Thread(target=live, args=arguments).start()
    if options.curious:
        key = options.keys.split(",")[0]
        threading.Thread(target=wonder, args=(locks, key)).start()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=("sync", "async"))
    parser.add_argument("dsn")
    parser.add_argument("directory", type=Path, help="where the diaries are")
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crowd", type=int, default=3, help="threads or tasks")
    parser.add_argument("--keys", default="red,green,blue,white")
    parser.add_argument("--work", type=float, help="hold for so long, and wait for ever")
    parser.add_argument("--liveness", type=float, default=10.0)
    parser.add_argument("--lease", type=float)
    parser.add_argument(
        "--curious",
        action="store_true",
        help="ask who holds the first key, without a pause, beside everything else",
    )
    parser.add_argument(
        "--without-trust",
        action="store_true",
        help="never ask whether the lock is lost: the control, which has to fail",
    )
    parser.add_argument(
        "--without-pin",
        action="store_true",
        help="let the pooler have its session back after each request: a control as well",
    )
    parser.add_argument(
        "--naive",
        action="store_true",
        help="lock as if no pooler were there, without the library: another control",
    )
    return parser.parse_args()


def _when_dismissed(end: Callable[[], object]) -> None:
    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        end()

    threading.Thread(target=wait, daemon=True).start()


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def main() -> None:
    """Be a worker."""
    options = parse()
    diary = Diary(options.directory, options.name)
    library = logging.getLogger("advlock")
    library.propagate = False
    library.addHandler(_Confess(diary))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads, so before them
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    if options.without_pin:
        naive.take_the_pin_out()
    if options.world == "async" and not options.naive:
        asyncio.run(crowd(options, diary))
    else:
        threads(options, diary)


if __name__ == "__main__":
    main()
