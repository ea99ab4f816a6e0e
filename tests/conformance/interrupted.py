"""A process whose signal handler raises at random moments: `interrupted.py DSN NAME KIND COUNT`.

It prints the number of interruptions and how often a neighbour's lock was lost to one, then waits
for its end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random
import signal
import sys
import threading
import time

from advlock import DatabaseUnavailable, LockLost, Locks, LockTimeout

PATIENCE = 25.0
STALL = 4.0  # seconds; a section takes milliseconds, and reconnecting a second at most


class Interruption(BaseException):
    """What the signal handler raises, as KeyboardInterrupt is raised."""


class Interrupter:
    """Interrupts the main thread, between any two of its instructions, once for each arming."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGALRM, self._interrupt)

    def arm(self, longest: float) -> None:
        """Interrupt within `longest` seconds."""
        self._armed = True
        moment = random.uniform(0.00002, longest)  # noqa: S311 - jitter
        signal.setitimer(signal.ITIMER_REAL, moment)

    def disarm(self) -> None:
        """Do not interrupt any more."""
        self._armed = False

    def _interrupt(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise Interruption


class Neighbour:
    """A thread that uses the same client meanwhile, and perhaps the same lock."""

    def __init__(self, client: Locks, name: str) -> None:
        self.lost = 0
        self._client = client
        self._name = name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._use)
        self._thread.start()

    def _use(self) -> None:
        while not self._over.is_set():
            start = time.monotonic()
            try:
                with self._client.hold(self._name):
                    time.sleep(0.001)
            except (LockLost, DatabaseUnavailable):  # …or granted on a session that ended at once
                self.lost += 1
            assert time.monotonic() - start < STALL, "the neighbour stalled"
            time.sleep(0.0005)

    def stop(self) -> None:
        """End the thread, which must still be alive and well."""
        assert self._thread.is_alive(), "the neighbour has fallen"
        self._over.set()
        self._thread.join(10)
        if self._thread.is_alive():
            faulthandler.dump_traceback()
        assert not self._thread.is_alive(), "the neighbour hangs"


def section(client: Locks, name: str, kind: str) -> None:
    """Hold the lock once, in the way that is to be interrupted."""
    if kind == "all":
        with client.hold_all([name, f"{name}-2", f"{name}-3"], wait=0.02):
            pass
    elif kind.startswith("slot"):
        with client.semaphore(name, 1 if kind == "slot 0" else 2).hold(wait=0.02):
            pass
    elif kind == "object":
        with client.lock(name):
            pass
    else:
        with client.hold(name, wait=0.02):
            pass


def interrupt(interrupter: Interrupter, client: Locks, name: str, kind: str, wanted: int) -> int:
    """Interrupt sections; return how many of the interruptions met one that was under way."""
    interruptions = 0
    longest = 0.002
    began = time.monotonic()
    while interruptions < wanted and time.monotonic() - began < (8 if interruptions >= 100 else 18):
        hit, start = False, time.monotonic()
        try:
            interrupter.arm(longest)
            with contextlib.suppress(LockTimeout):
                section(client, name, kind)
            interrupter.disarm()
        except Interruption:
            hit = True
        assert time.monotonic() - start < STALL, "a section stalled"
        interruptions += hit
        # Three of four shall hit: then they fall into every part of a section, its end included.
        longest *= 1.01 if hit else 0.97
    return interruptions


def main(dsn: str, name: str, kind: str, wanted: int) -> None:
    """Interrupt sections, then show that the client and its other users are well."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # a hang should tell where
    interrupter = Interrupter()
    with Locks(dsn) as client:
        with client.hold(f"{name}-first"):
            pass
        neighbour = Neighbour(client, name if kind in ("queue", "slot 0") else f"{name}-neighbour")
        interruptions = interrupt(interrupter, client, name, kind, wanted)
        neighbour.stop()
        if kind == "rival":
            print("still busy", flush=True)  # noqa: T201 - the test reads it
            sys.stdin.readline()
        with client.hold(name, wait=5), client.hold(f"{name}-neighbour", wait=5):
            pass
        with client.hold_all([name, f"{name}-2", f"{name}-3"], wait=5):
            pass
        print(interruptions, neighbour.lost, flush=True)  # noqa: T201 - the test reads it
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))  # type: ignore[call-arg]
