"""Semaphores: what a slot costs beside a plain lock, how fast one changes hands, and how fair."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING, Any

from advlock import Locks

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue

    from advlock._held import Hold
    from advlock._semaphore._semaphore import SlotHold

_CYCLES = 300
_HANDOVERS = 60
_HOLD = 0.03  # seconds that the slot is held before it changes hands
_CROWD, _SLOTS, _TURNS, _WORK = 8, 3, 40, 0.004


def report(dsn: str, *, rounds: int) -> None:
    """Print three tables."""
    _costs(dsn, rounds)
    _handovers(dsn)
    _fairness(dsn)


def _costs(dsn: str, rounds: int) -> None:
    with Locks(dsn) as locks, Locks(dsn) as other:
        semaphore = locks.semaphore("bench", 4)
        ways: dict[str, Callable[[], Any]] = {
            "plain lock": lambda: locks.hold("bench-lock"),
            "two locks, hold_all": lambda: locks.hold_all(["bench-a", "bench-b"]),
            "semaphore of 4": semaphore.hold,
            "semaphore of 4, 3 taken": semaphore.hold,
        }
        print("take and release, µs a cycle (median of rounds)")
        for title, way in ways.items():
            others = [other.semaphore("bench", 4).hold() for _ in range(3 * ("taken" in title))]
            for one in others:
                one.__enter__()
            times = [_cycles(way) for _ in range(max(2, rounds // 6))]
            for one in others:
                one.__exit__(None, None, None)
            print(f"  {title:28}{statistics.median(times):8.0f}")


def _cycles(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(_CYCLES):
        with way():
            pass
    return (time.perf_counter() - start) / _CYCLES * 1e6


def _handovers(dsn: str) -> None:
    """From the moment that release() is called to the moment that the other process is inside."""
    print(f"\nhand-over to another process, ms, {_HANDOVERS} of each (median, 95th percentile)")
    for slots in (0, 1, 4):
        told: Queue[float] = multiprocessing.Queue()
        go: Queue[str] = multiprocessing.Queue()
        process = multiprocessing.Process(target=_receive, args=(dsn, slots, told, go))
        process.start()
        gaps = []
        with Locks(dsn) as locks, Locks(dsn) as others:
            full = [others.semaphore("hand", slots).hold() for _ in range(slots - 1)]
            for one in full:
                one.__enter__()
            for _ in range(_HANDOVERS):
                with _way(locks, slots):
                    go.put("on")
                    time.sleep(_HOLD)
                    left = time.time()
                gaps.append((told.get() - left) * 1000)
            for one in full:
                one.__exit__(None, None, None)
        go.put("")
        process.join()
        gaps.sort()
        title = f"semaphore of {slots}" if slots else "plain lock"
        print(f"  {title:28}{statistics.median(gaps):8.1f}{gaps[int(0.95 * len(gaps))]:8.1f}")


def _way(locks: Locks, slots: int) -> Hold | SlotHold:
    return locks.semaphore("hand", slots).hold() if slots else locks.hold("hand-lock")


def _receive(dsn: str, slots: int, told: Queue[float], go: Queue[str]) -> None:
    with Locks(dsn) as locks:
        while go.get():
            with _way(locks, slots):
                inside = time.time()
            told.put(inside)


def _fairness(dsn: str) -> None:
    """How often somebody got in who had asked later than somebody who still waited."""
    print(f"\n{_CROWD} processes, {_SLOTS} slots, {_TURNS} turns each of {_WORK * 1000:g} ms")
    for title, target in (("in the queue", _turns), ("trying again and again", _scramble)):
        notes: Queue[list[tuple[float, float]]] = multiprocessing.Queue()
        crowd = [multiprocessing.Process(target=target, args=(dsn, notes)) for _ in range(_CROWD)]
        for one in crowd:
            one.start()
        turns = [turn for _ in crowd for turn in notes.get()]
        for one in crowd:
            one.join()
        overtaken = [sum(a > asked and i < inside for a, i in turns) for asked, inside in turns]
        waits = [inside - asked for asked, inside in turns]
        print(
            f"  {title:28}overtaken at most {max(overtaken)} times; waited {max(waits):.2f} s at"
            f" most, {statistics.median(waits) * 1000:.0f} ms in the median"
        )


def _turns(dsn: str, notes: Queue[list[tuple[float, float]]]) -> None:
    with Locks(dsn) as locks:
        semaphore = locks.semaphore("fair", _SLOTS)
        notes.put([_turn(semaphore.hold) for _ in range(_TURNS)])


def _turn(way: Callable[[], Any]) -> tuple[float, float]:
    asked = time.time()
    with way():
        inside = time.time()
        time.sleep(_WORK)
    return asked, inside


def _scramble(dsn: str, notes: Queue[list[tuple[float, float]]]) -> None:
    """Without a queue: whoever tries at the right moment gets it."""
    with Locks(dsn) as locks:
        semaphore = locks.semaphore("scramble", _SLOTS)
        turns = []
        while len(turns) < _TURNS:
            asked = time.time()
            while True:
                with semaphore.attempt() as slot:
                    if slot is not None:
                        turns.append((asked, time.time()))
                        time.sleep(_WORK)
                        break
                time.sleep(0.01)
        notes.put(turns)
