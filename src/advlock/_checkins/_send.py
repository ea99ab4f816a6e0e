"""Check-ins on their way: each run's in a thread of its own, in their order, and never for long.

Whatever goes wrong here is said once, and reaches neither the run nor its lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from advlock._checkins._plan import LIMIT_HEADER
from advlock._masked import signals_blocked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from advlock._checkins._plan import Ending, Monitor, Post

    Complain = Callable[[str], object]

PAUSES: Final = (0.5, 1.5)  # seconds before each further try
PATIENCE: Final = 10.0  # seconds that the end of a process waits for what is still to be sent
_MOST: Final = 32  # threads; a monitor that does not answer must not gather them
_room = threading.BoundedSemaphore(_MOST)


class CheckIn:
    """What the monitors are told of one run; from any thread, and nothing of it waits."""

    def __init__(self, monitors: Iterable[Monitor], run: str, complain: Complain) -> None:
        """Tell nothing yet.

        Args:
            monitors: Who is told.
            run: The run's UUID.
            complain: Takes what went wrong, in words; from another thread.
        """
        self._lanes = [_Lane(monitor, run, complain) for monitor in monitors]
        self._over = False

    def begun(self) -> None:
        """Tell that the run has begun."""
        for lane in self._lanes:
            lane.put(lambda lane: lane.monitor.start(lane.run))

    def ended(self, ending: Ending) -> None:
        """Tell how it ended; only the first time."""
        if self._over:
            return
        self._over = True
        for lane in self._lanes:
            lane.put(lambda lane: lane.monitor.end(lane.run, ending, lane.limit), last=True)

    def skipped(self, why: str) -> None:
        """Tell that there was no run, those who have an ear for it."""
        self._over = True
        for lane in self._lanes:
            lane.put(lambda lane: lane.monitor.skip(lane.run, why), last=True)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return all(lane.idle for lane in self._lanes)

    def wait(self, seconds: float) -> bool:
        """Wait until everything is sent or given up, `seconds` at most; whether it is."""
        until = time.monotonic() + seconds
        return all(lane.wait(max(0.0, until - time.monotonic())) for lane in self._lanes)

    def give_up(self) -> None:
        """Say what is still on its way, as the process does not wait for it any more."""
        for lane in self._lanes:
            lane.give_up()


class _Lane:
    """The way to one monitor, for one run."""

    def __init__(self, monitor: Monitor, run: str, complain: Complain) -> None:
        self.monitor = monitor
        self.run = run
        self.limit: int | None = None
        self.idle = True
        self._complain = complain
        self._complained = False
        self._asks: deque[Callable[[_Lane], Post | None]] = deque()
        self._changed = threading.Condition()
        self._last = threading.Event()
        self._room = _room

    def put(self, ask: Callable[[_Lane], Post | None], *, last: bool = False) -> None:
        with self._changed:
            self._asks.append(ask)
            if last:
                self._last.set()  # no further try for the start: it must not delay the end
            if not self.idle:
                return
            self._room = _room
            if not self._room.acquire(blocking=False):
                self._asks.clear()
                self._say("too many are on their way already")
                return
            self.idle = False
        thread = threading.Thread(target=self._run, name="advlock-check-in", daemon=True)
        try:
            with signals_blocked():  # what is sent to the process is for threads that wait for it
                thread.start()
        except RuntimeError as error:  # no thread to be had
            self._done()
            self._say(str(error))

    def wait(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.idle, seconds)

    def give_up(self) -> None:
        if not self.idle:
            self._say("no answer in time")

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._asks:
                    self._done()
                    return
                ask = self._asks.popleft()
                last = self._last.is_set() and not self._asks
            try:
                post = ask(self)
                if post is not None:
                    self._deliver(post, last=last)
            except Exception as error:  # noqa: BLE001 - the words of others may have the URL in them
                self._say(type(error).__name__)

    def _done(self) -> None:
        with self._changed:
            self.idle = True
            self._asks.clear()
            self._room.release()
            self._changed.notify_all()

    def _deliver(self, post: Post, *, last: bool) -> None:
        from advlock._checkins._http import Failed, send  # noqa: PLC0415 - its weight is ours only

        for pause in (*PAUSES, None):
            try:
                headers = send(post)
            except Failed as failure:
                if pause is None or not failure.worth_another_try:
                    self._say(str(failure))
                    return
                if self._waits(pause, last=last):
                    continue
                self._say(str(failure))
                return
            told = headers.get(LIMIT_HEADER, "")
            if told.isascii() and told.isdigit():
                self.limit = int(told)
            return

    def _waits(self, pause: float, *, last: bool) -> bool:
        """Let the pause pass; False if the end of the run has come meanwhile."""
        if last:
            time.sleep(pause)
            return True
        return not self._last.wait(pause)

    def _say(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            self._complain(f"check-in not delivered to {self.monitor}: {why}")
