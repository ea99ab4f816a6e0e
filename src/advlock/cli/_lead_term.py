"""One term of `advlock lead`: the hook, the command, the other hook, and the lock meanwhile."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from advlock.cli._child import NotStarted, adopt_orphans, has_terminal, spawn
from advlock.cli._lead_rules import End
from advlock.cli._say import say
from advlock.cli._signals import Inbox, Stop
from advlock.cli._supervise import Rules, supervise
from advlock.cli.exits import Exit, signalled
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._solo import SoloSession
    from advlock.cli._lead_status import Status
    from advlock.cli._seek import Found
    from advlock.cli._signals import Arrival
    from advlock.cli._supervise import Watched

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_A_WHILE = 60.0  # seconds


class Plan(NamedTuple):
    """What a leader does.

    Attributes:
        name: What is led.

        command: The command.

        on_acquire: A shell's line to run before it; None for none.

        on_release: A shell's line to run after it; None for none.

        hook_timeout: How long either may take, in seconds.

        kill_after: Seconds between TERM and KILL.

        close: Whether the command does not inherit the lock.
    """

    name: str
    command: Sequence[str]
    on_acquire: str | None
    on_release: str | None
    hook_timeout: float
    kill_after: float
    close: bool


class _Inbox(Inbox):
    """An inbox that remembers what it forwarded."""

    def __init__(self, *, suspendable: bool) -> None:
        super().__init__(suspendable=suspendable)
        self.heard: set[int] = set()

    def wait(self, deadline: float | None) -> Arrival | None:
        arrival = super().wait(deadline)
        if arrival is not None and not isinstance(arrival, Stop):
            self.heard.add(arrival.signum)
        return arrival

    def asked(self, code: int) -> int | None:
        """The signal that asked us to end, if any did; HUP did, if the command died of it."""
        for signum in (*_ENDING, signal.SIGHUP):
            if signum in self.heard and (signum in _ENDING or code == signalled(signum)):
                return signum
        return None


class _Seat:
    """The lock that the lead hangs on; tells the probes when it is gone."""

    def __init__(self, session: SoloSession, status: Status) -> None:
        self._session = session
        self._status = status
        self.fileno, self.look_again = session.fileno, session.look_again

    def alive(self) -> bool:
        alive = self._session.alive()
        if not alive:
            self._status.lost()
        return alive

    @property
    def why(self) -> str:
        return self._session.why


class _NoLock:
    """What a hook is watched over with when the lock is gone."""

    why = ""

    def __init__(self) -> None:
        self._ends = socket.socketpair()
        self.fileno = self._ends[0].fileno

    def alive(self) -> bool:
        return True

    def look_again(self) -> float:
        return time.monotonic() + _A_WHILE


class Term:
    """Leads once."""

    def __init__(
        self,
        plan: Plan,
        found: Found,
        env: dict[str, str],
        status: Status,
        users: Sequence[int] = (),
    ) -> None:
        """Lead with what was found.

        Args:
            plan: What to do.
            found: The lock.
            env: The environment of the command and of the hooks.
            status: What the probes tell.
            users: Descriptors that the command inherits besides the lock.
        """
        self._plan = plan
        self._session, self._grant, token = found
        self._env = env
        self._status = status
        self._users = users
        self._seat = _Seat(self._session, status)
        self._terminal = has_terminal()
        self._inbox = _Inbox(suspendable=not self._terminal)
        status.elected(token)

    def serve(self) -> End:
        """Serve to its end; afterwards others may lead."""
        with self._inbox.opened():
            adopt_orphans()
            code = self._hook(self._plan.on_acquire)
            asked = self._inbox.asked(code)  # also where the hook made light of the signal
            end = self._command() if code == 0 and asked is None else self._not_begun()
            self._status.term = None
            self._hook(self._plan.on_release, after=True)
            lost = self._leave() or end.lost
            self._status.lost()
        asked = asked or self._inbox.asked(end.code)
        if asked is not None and end.resigned:
            return end._replace(asked=True, code=signalled(asked))
        return end._replace(lost=lost, asked=asked is not None)

    def _not_begun(self) -> End:
        if self._session.lost:
            return End(Exit.LOST, lost=True)
        return End(Exit.LOST, resigned=True)

    def _command(self) -> End:
        if not self._seat.alive():  # to say who leads may have taken long: nobody read our stderr
            say(f"lost the lead of {self._plan.name!r}: {self._seat.why}")
            return End(Exit.LOST, lost=True)
        inherit = [] if self._plan.close else [self._session.fileno(), *self._users]
        try:
            child = spawn(
                self._plan.command, env=self._env, inherit=inherit, own_session=not self._terminal
            )
        except NotStarted as failure:
            say(str(failure))
            return End(failure.code)
        began = time.monotonic()
        self._session.record(self._grant.key)  # not before: the command does not wait for it
        rules = Rules(kill_after=self._plan.kill_after, what=f"the lead of {self._plan.name!r}")
        code = supervise(child, self._seat, rules, self._inbox, say)
        return End(code, time.monotonic() - began, lost=self._session.lost)

    def _hook(self, line: str | None, *, after: bool = False) -> int:
        """Run a hook, and see that it ends; its exit code, or ours for it."""
        if line is None:
            return 0
        which = "--on-release" if after else "--on-acquire"
        lock: Watched = _NoLock() if self._session.lost else self._seat
        rules = Rules(
            max_runtime=self._plan.hook_timeout,
            kill_after=self._plan.kill_after,
            stop_when_lost=not after,
            what=f"the lead of {self._plan.name!r}",
            limit=f"--hook-timeout ({which})",
            on_lost=which,
        )
        argv, quiet = ["/bin/sh", "-c", line], (2, 2)  # stdout is the command's
        try:
            child = spawn(argv, env=self._env, inherit=[], own_session=True, streams=quiet)
            code = supervise(child, lock, rules, self._inbox, say)
        except NotStarted as failure:
            say(str(failure))
            code = failure.code
        if code and not self._session.lost:
            say(f"{which} failed with exit code {code}{'' if after else '; resigning'}")
        return code

    def _leave(self) -> bool:
        """Let go of the lock; True if it turns out that it was not ours."""
        session = self._session
        if session.lost:
            return False  # if only since the command ended, that had its end as the leader
        if not self._plan.close:
            session.leave()  # whoever else inherited the socket keeps the lock until it ends
            return False
        try:
            released = session.unlock(self._grant.key, shared=False)
            session.close()
        except DatabaseUnavailable:  # gone since we looked last; the command ended before that
            return False
        return not released
