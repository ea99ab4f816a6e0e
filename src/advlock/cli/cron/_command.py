"""One run of a command: the lock on a session of its own, which the command inherits."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from advlock import _label
from advlock._cron._engine import Grip, Run
from advlock._cron._life import Outcome
from advlock._cron._shell import STOPPED, log
from advlock._liveness import Bounds
from advlock._solo import SoloSession
from advlock.cli._child import NotStarted
from advlock.cli._signals import Arrival, Stop
from advlock.cli._supervise import Rules, supervise
from advlock.cli.cron._output import LOOK_EVERY, Stream, Tail
from advlock.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._cron._engine import Engine
    from advlock._cron._facts import Claim
    from advlock._dsn import Dsn
    from advlock._key import Key
    from advlock._plan import SessionPlan
    from advlock.cli.cron._output import Drainer, Printer
    from advlock.cli.cron._reaper import Reaped, Reaper

_CD: Final = 'unset CDPATH; cd -- "$0" && exec "$@"'
_PATIENCE: Final = 10.0  # seconds for a session


class SoloGrip(Grip):
    """A lock on a session of its own."""

    def __init__(self, session: SoloSession, key: Key) -> None:
        self.session = session
        self.key = key
        self.token = session.token()

    @property
    def lost(self) -> bool:
        """Whether the session has ended."""
        return not self.session.alive()

    def ask(self, plan: SessionPlan[Any]) -> Any:
        """Drive a plan on the session, or beside it where a pooler wants it so."""
        return self.session.beside(plan, time.monotonic() + _PATIENCE)


class CommandRun(Run):
    """Executes the job's command.

    Args:
        engine: Whose run it is.
        claim: Which tick of which job.
        dsn: The database.
        reaper: Starts processes.
        printer: Writes what they say.
        drainer: Reads what those say that they leave in the background.
        prefixed: Whether the job's name is put before each line.
    """

    def __init__(  # noqa: PLR0913 - what a command needs, each once
        self,
        engine: Engine,
        claim: Claim,
        *,
        dsn: Dsn,
        reaper: Reaper,
        printer: Printer,
        drainer: Drainer,
        prefixed: bool,
    ) -> None:
        super().__init__(engine, claim)
        self._dsn = dsn
        self._reaper = reaper
        self._printer = printer
        self._drainer = drainer
        self._prefix = f"{claim.job.name} | ".encode() if prefixed else b""
        self._tail = Tail(claim.job.output)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Grip | str]:
        """Take the lock on a new session."""
        name = self.claim.job.lock_name(self.claim.scheduled_at)
        session = SoloSession.open(
            self._dsn,
            application_name=_label.make(name),
            deadline=time.monotonic() + _PATIENCE,
            bounds=Bounds(inherited=True),
        )
        try:
            key = session.key(name)
            if session.try_lock(key, shared=False, deadline=time.monotonic() + _PATIENCE):
                session.set_application_name(_label.make(name, since=time.time()))
                yield SoloGrip(session, key)
            else:
                holding = [one for one in session.holders(key) if not one.waiting]
                yield f"its lock is held by {holding[0]}" if holding else "its lock was held"
                session.close()
        finally:
            # Not a goodbye: a process that inherited the socket keeps the lock.
            session.discard()

    def work(self, grip: Grip, attempt: int) -> Outcome:
        """Execute the command once, and look after it."""
        assert isinstance(grip, SoloGrip)
        session = grip.session
        out, err = (Stream(self._prefix, fd, self._printer, self._tail) for fd in (1, 2))
        mailbox = Mailbox(self, session, [out, err])
        try:
            if not session.alive():
                return Outcome("lost", f"the lock was lost before it began: {session.why}")
            child = self._reaper.spawn(
                self._words(),
                env=self._environment(grip, attempt),
                inherit=[session.fileno()],
                streams=(out.theirs, err.theirs),
                ended=self.bell.ring,
            )
            out.started()
            err.started()
            mailbox.child = child
            log.info("%s: started (pid %d)", self.claim.job.name, child.pid, extra=self._facts())
            code = supervise(child, session, self._rules(), mailbox, self._say)
        except NotStarted as failure:
            return Outcome("failed", str(failure), failure.code)
        finally:
            self._drainer.take(out)
            self._drainer.take(err)
        return self._outcome(session, child, code)

    def _words(self) -> tuple[str, ...]:
        job = self.claim.job
        if job.cwd is None:
            return job.command
        return ("/bin/sh", "-c", _CD, job.cwd, *job.command)

    def _environment(self, grip: SoloGrip, attempt: int) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if key != "ADVLOCK_SLOT"}
        job = self.claim.job
        return {
            **ours,
            **dict(job.env),
            "ADVLOCK_NAME": job.lock_name(self.claim.scheduled_at),
            "ADVLOCK_KEY": str(grip.key.value),
            "ADVLOCK_TOKEN": str(grip.token),
            "ADVLOCK_RUN_ID": self.claim.run_id,
            "ADVLOCK_JOB": job.name,
            "ADVLOCK_SCHEDULED_AT": self.claim.scheduled_at.isoformat(),
            "ADVLOCK_ATTEMPT": str(attempt),
        }

    def _rules(self) -> Rules:
        job = self.claim.job
        return Rules(
            job.timeout,
            job.kill_after,
            job.on_lost == "kill",
            f"the lock {job.lock_name(self.claim.scheduled_at)!r}",
            limit="its timeout",
            on_lost='on_lost = "continue"',
        )

    def _outcome(self, session: SoloSession, child: Reaped, code: int) -> Outcome:
        output, own = self._tail.text(), child.code
        if isinstance(code, Exit) and self.stopped:
            state = "lost" if self.stopped == STOPPED else "failed"
            return Outcome(state, self.stopped, own, output)
        if code is Exit.TIMED_OUT:
            return Outcome("timeout", "its timeout was over", own, output)
        if code is Exit.LOST:
            return Outcome("lost", f"the lock was lost: {session.why}", own, output)
        if code == 0:
            return Outcome("succeeded", None, own, output)
        if code > Exit.SIGNALLED and code - Exit.SIGNALLED in set(signal.Signals):
            name = signal.Signals(code - Exit.SIGNALLED).name
            return Outcome("failed", f"ended by {name}", own, output)
        return Outcome("failed", f"exit code {code}", own, output)

    def _say(self, message: str) -> None:
        log.warning("%s: %s", self.claim.job.name, message, extra=self._facts())

    def _facts(self) -> dict[str, Any]:
        return self.facts("command")


class Mailbox:
    """Where the supervisor of a command hears of everything, in a thread among others."""

    def __init__(self, run: CommandRun, session: SoloSession, streams: list[Stream]) -> None:
        self.child: Reaped | None = None
        self._run = run
        self._session = session
        self._streams = streams
        self._told = False

    @contextlib.contextmanager
    def listening(self, _fd: int) -> Iterator[None]:
        """Hear of the lock's socket: `wait` polls it."""
        yield

    def wait(self, deadline: float | None) -> Arrival | Stop | None:
        """Wait for the next message, and pass on what the command writes meanwhile."""
        if self._run.stopped and not self._told:
            self._told = True
            return Stop(self._run.stopped)
        ready = self._poll(deadline)
        if self._run.bell.fileno() in ready:
            self._run.bell.hush()
            return Arrival(signal.SIGCHLD)
        for stream in self._streams:
            if stream.fd in ready:
                stream.pump()
        return Arrival(signal.SIGIO) if self._session_fd() in ready else None

    def _poll(self, deadline: float | None) -> set[int]:
        poll = select.poll()
        poll.register(self._run.bell.fileno(), select.POLLIN)
        if (fd := self._session_fd()) is not None:
            poll.register(fd, select.POLLIN)
        left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
        for stream in self._streams:
            if stream.open and stream.has_room():
                poll.register(stream.fd, select.POLLIN)
            elif stream.open:
                left = min(left, LOOK_EVERY)
        return {fd for fd, _ in poll.poll(None if math.isinf(left) else math.ceil(left * 1000))}

    def _session_fd(self) -> int | None:
        return None if self._session.lost else self._session.fileno()
