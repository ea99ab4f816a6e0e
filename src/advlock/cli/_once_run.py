"""Look, take the lock, look again, run the command, and record that it is done."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, TypeVar

from advlock import _label
from advlock._once import _plan
from advlock._once._done import Done, Run
from advlock._plan import Refused
from advlock._solo import SoloSession
from advlock.cli import run as _run
from advlock.cli._child import NotStarted, adopt_orphans, has_terminal, spawn
from advlock.cli._say import say
from advlock.cli._seek import Found, Seeker
from advlock.cli._signals import Inbox
from advlock.cli._supervise import supervise
from advlock.cli.exits import Exit
from advlock.errors import DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._dsn import Dsn
    from advlock._plan import SessionPlan
    from advlock._registry._names import Names
    from advlock.cli._checkin import Reporter
    from advlock.cli.once import Options

R = TypeVar("R")


class AlreadyDone(Exception):  # noqa: N818 - an answer, not a failure
    """There is nothing to do; `done` says when and by whom it was done."""

    def __init__(self, done: Done) -> None:
        super().__init__(done)
        self.done = done


class Turns(Seeker):
    """Seeks the lock as `advlock run` does; looks before whether it was done, and begins then."""

    def __init__(
        self, options: Options, dsn: Dsn, names: Names | None, until: float | None
    ) -> None:
        """Seek what is wanted in the database `dsn`, until `until` (`time.monotonic` seconds)."""
        self._options, self._dsn, self._names = options, dsn, names
        self._run: Run | None = None
        self._run_id = str(uuid.uuid4())
        run = options.run
        super().__init__(self._connected, run.want, until, run.tell, say)

    def begun(self) -> Run:
        """Return the turn that was begun with the lock that was found."""
        assert self._run is not None
        return self._run

    @property
    def _recorded_as(self) -> str:
        return self._options.wanted.recorded_as(self._names.namespace if self._names else "")

    def _connected(self) -> SoloSession:
        label = _label.make(self._options.wanted.lock)
        session = SoloSession.open(
            self._dsn,
            application_name=label,
            deadline=self._until,
            bounds=self._options.run.bounds,
        )
        session.names = self._names
        done = ask(session, _plan.look(self._recorded_as, self._options.wanted.per))
        if done is not None:
            session.close()
            raise AlreadyDone(done)
        return session

    def _once(self) -> Found | None:
        found = super()._once()
        if found is None:
            return None
        session, grant, token = found
        plan = _plan.begin(
            self._recorded_as,
            self._options.wanted.per,
            grant.key,
            token=token,
            run_id=self._run_id,
        )
        begun = ask(session, plan)
        if isinstance(begun, Done):
            session.close()
            raise AlreadyDone(begun)
        self._run = begun
        return found


def ask(session: SoloSession, plan: SessionPlan[R]) -> R:
    """Drive a plan on the session of the lock.

    Raises:
        DatabaseUnavailable: the session ended.
        ConfigError: the table is not there, or not for this role.
    """
    try:
        return session.beside(plan)
    except Refused as refusal:
        session.discard()
        raise _plan.refused(refusal) from None
    except LockError:
        session.discard()
        raise


def under_lock(
    found: Found, run: Run, options: Options, users: list[int], reporter: Reporter
) -> int:
    """Run the command; record that it is done if it ended well; return the exit code.

    Args:
        found: The lock.
        run: Our turn, as it is recorded.
        options: The command line.
        users: Descriptors that keep the server of --local running.
        reporter: Tells monitors of it.
    """
    session, grant, token = found
    env = _run._environment(grant, options.wanted.name, token) | {"ADVLOCK_RUN_ID": run.run_id}
    output = reporter.prepare(run.run_id)
    terminal = has_terminal()
    inbox = Inbox(suspendable=not terminal)
    with inbox.opened():
        adopt_orphans()
        inherit = [session.fileno(), *users]
        command = options.run.command
        try:
            child = spawn(command, env=env, inherit=inherit, own_session=not terminal, **output)
        except NotStarted as failure:
            reporter.say(str(failure))
            return failure.code
        reporter.begun()
        session.record(grant.key)  # not before: the command does not wait for it
        code = supervise(child, session, options.run.rules, inbox, reporter.say)
        # Here, where no signal interrupts: what was done is worth the moment that this takes.
        code = code or _recorded(session, run, reporter.say)
        session.leave()
    return code


def _recorded(session: SoloSession, run: Run, say: Callable[[str], None]) -> int:
    why: object
    try:
        if ask(session, _plan.mark(run)):
            return 0
        why = _plan.overtaken(run.name)
    except LockError as error:
        if isinstance(error, DatabaseUnavailable) and error.sqlstate is None:
            why = _plan.in_doubt(run.name, session.why)
        else:  # the server has answered
            why = f"{run.name!r} is not recorded as done: {error}"
    say(f"the command has ended well, but {why}")
    return Exit.LOST
