"""What happens in `advlock demo`, and when: the race, the two kills, the takeovers."""

from __future__ import annotations

import time
from bisect import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from advlock.cli._demo_count import Takeover, Verdict, empty_ticks, overlaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock.cli._demo_crew import Attempt, Crew

WORKERS: Final = (1, 2, 3)
JOB_SECONDS: Final = 0.6
# Of the one that loses its wrapper or its life: long enough for a successor to get in line, and
# for the next tick to come while the orphan is still at work; longer where processes start slowly.
_LONG_JOB_SECONDS: Final = 1.8
_LOOK_EVERY: Final = 0.01
_NS: Final = 1_000_000_000
# How much longer a slow machine may race, and then may take to end what was started; in seconds.
_OVERTIME: Final = 10


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: What.

        at: When, in seconds since the first tick.

        tick: During which tick.

        worker: To whom; None for what concerns everybody.

        details: The rest, by name.
    """

    kind: str
    at: float
    tick: int
    worker: int | None
    details: dict[str, Any]


@dataclass(slots=True)
class Act:
    """One kill and the takeover after it; tried again at the next tick if it came too late."""

    kills: str  # `wrapper` or `everything`
    due: int  # from when on; in monotonic nanoseconds
    victim: Attempt | None = None
    successor: Attempt | None = None
    waiting: bool = False
    killed: int = 0  # when; in monotonic nanoseconds
    takeover: Takeover | None = None

    def start_over(self) -> None:
        """Wait for another victim."""
        self.victim = self.successor = None
        self.waiting = False


class Play:
    """Runs the demo once; `tell` hears what happens, `check` may end it by an exception."""

    def __init__(
        self,
        crew: Crew,
        seconds: int,
        tell: Callable[[Event], None],
        check: Callable[[], None],
        *,
        kills: bool,
    ) -> None:
        self._crew = crew
        self._seconds = seconds
        self._tell = tell
        self._check = check
        self._start = time.monotonic_ns()
        self._ticks: list[int] = []
        self._slowest_start = 0.0
        self._acts: list[Act] = []
        if kills:
            self._acts.append(Act("wrapper", self._start + int(seconds * 0.32 * _NS)))
            self._acts.append(Act("everything", self._start + int(seconds * 0.62 * _NS)))

    def run(self) -> Verdict:
        """Play until the time is over and everybody is done."""
        give_up = self._start + (self._seconds + 2 * _OVERTIME) * _NS
        while True:
            now = time.monotonic_ns()
            racing = self._is_racing(now)
            if not racing and (self._all_over() or now > give_up):
                break
            self._check()
            self._look()
            self._advance()
            if racing and self._tick_is_due(now):
                self._tick()
            time.sleep(_LOOK_EVERY)
        return self._verdict(time.monotonic_ns())

    # -- the race --------------------------------------------------------------------------------

    def _is_racing(self, now: int) -> bool:
        """Until the time is over; somewhat longer if a takeover is still to be seen."""
        late = 0 if self._act() is None else _OVERTIME
        return now < self._start + (self._seconds + late) * _NS

    def _tick_is_due(self, now: int) -> bool:
        """Every second, but not before everybody has an answer: machines can be slow."""
        if not self._ticks:
            return True
        racing = any(not (a.patient or a.decided) for a in self._crew.attempts)
        return now >= self._ticks[-1] + _NS and not racing

    def _tick(self) -> None:
        self._ticks.append(time.monotonic_ns())
        act = self._act()
        seconds = JOB_SECONDS
        if act is not None and act.victim is None and self._ticks[-1] >= act.due:
            seconds = max(_LONG_JOB_SECONDS, round(1 + 2 * self._slowest_start, 1))
        for worker in WORKERS:
            self._crew.start(len(self._ticks), worker, seconds)
        self._say("tick", self._ticks[-1])

    def _all_over(self) -> bool:
        return all(attempt.over for attempt in self._crew.attempts)

    def _look(self) -> None:
        for event, attempt in self._crew.look():
            if not attempt.patient and (event == "began" or attempt.skipped):
                took = (time.monotonic_ns() - self._ticks[attempt.tick - 1]) / _NS
                self._slowest_start = max(self._slowest_start, took)
            if event == "began":
                facts = {"job": attempt.job, "patient": attempt.patient, "seconds": attempt.seconds}
                self._say_of(attempt, event, attempt.begun, **facts)
            elif event == "ended":
                self._say_of(attempt, event, attempt.ended)
            elif attempt.skipped or attempt.failed:
                kind = "skipped" if attempt.skipped else "failed"
                said = attempt.said().removeprefix("advlock: ")
                self._say_of(attempt, kind, code=attempt.code, said=said)

    # -- the kills -------------------------------------------------------------------------------

    def _act(self) -> Act | None:
        return next((act for act in self._acts if act.takeover is None), None)

    def _advance(self) -> None:
        """Do what the act at hand needs next, as soon as it can be done."""
        act = self._act()
        if act is None or time.monotonic_ns() < act.due:
            return
        if act.victim is None:
            act.victim = self._victim()
        elif act.successor is None:
            worker = act.victim.worker % len(WORKERS) + 1
            tick = act.victim.tick
            act.successor = self._crew.start(tick, worker, JOB_SECONDS, patient=True)
        elif act.victim.shot:
            self._take_over(act, act.victim, act.successor)
        elif act.victim.finish is not None or act.successor.decided:
            act.start_over()  # too late for this one
        elif act.waiting:
            self._kill(act, act.victim)
        elif "waiting" in act.successor.said():
            act.waiting = True
            self._say_of(act.successor, "waiting")

    def _victim(self) -> Attempt | None:
        """Who has begun a long job."""
        for attempt in self._crew.attempts:
            at_work = attempt.begun is not None and attempt.finish is None and not attempt.shot
            if at_work and attempt.seconds > JOB_SECONDS:
                return attempt
        return None

    def _kill(self, act: Act, victim: Attempt) -> None:
        act.killed = time.monotonic_ns()
        if act.kills == "wrapper":
            self._crew.kill_wrapper(victim)
        else:
            self._crew.kill_everything(victim)
        self._say_of(victim, "killed", act.killed, what=act.kills, job=victim.job)

    def _take_over(self, act: Act, victim: Attempt, successor: Attempt) -> None:
        if successor.begun is None or victim.finish is None:
            if successor.code is not None:  # it gave up
                act.start_over()
            return
        if victim.finish < act.killed:  # it had ended by itself when we killed it
            act.start_over()
            return
        seconds = (successor.begun - victim.finish) / _NS
        act.takeover = Takeover(act.kills, seconds)
        self._say_of(
            successor,
            "took_over",
            successor.begun,
            killed=act.kills,
            predecessor=victim.worker,
            after=round(seconds, 6),
        )

    # -- the account -----------------------------------------------------------------------------

    def _verdict(self, now: int) -> Verdict:
        attempts, spans = self._crew.attempts, self._crew.spans(now)
        return Verdict(
            ticks=len(self._ticks),
            runs=len(spans),
            overlaps=overlaps(spans),
            empty_ticks=empty_ticks(self._ticks, now, spans),
            skips=sum(attempt.skipped for attempt in attempts),
            failures=sum(attempt.failed for attempt in attempts),
            takeovers=[act.takeover for act in self._acts if act.takeover is not None],
            due=2,
        )

    def _say_of(self, attempt: Attempt, kind: str, at: int | None = None, **details: Any) -> None:
        at = time.monotonic_ns() if at is None else at
        facts = {"run": attempt.number, "pid": attempt.process.pid} | details
        self._say(kind, at, attempt.worker, **facts)

    def _say(self, kind: str, at: int, worker: int | None = None, **details: Any) -> None:
        seconds = round((at - self._ticks[0]) / _NS, 6)
        self._tell(Event(kind, seconds, bisect(self._ticks, at), worker, details))
