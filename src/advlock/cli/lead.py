"""`advlock lead NAME -- COMMAND`: run a command on one of many hosts, the leader."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from advlock._backoff import Backoff
from advlock._liveness import LIVENESS, LONGEST, SHORTEST_LEASE, SHORTEST_LIVENESS, Bounds
from advlock.cli._acquire import Want
from advlock.cli._behind import Behind
from advlock.cli._lead_rules import Policy, Restart
from advlock.cli._lead_status import Status
from advlock.cli._lead_term import Plan, Term
from advlock.cli._say import say
from advlock.cli._seek import Found, Seeker
from advlock.cli._signals import Interrupted, raise_on_signals
from advlock.cli.exits import signalled
from advlock.cli.run import _database, _environment, duration, duration_between, lock_name
from advlock.errors import ConfigError, DatabaseUnavailable, UnsafeServer

if TYPE_CHECKING:
    from advlock._dsn import Dsn
    from advlock._solo import SoloSession


class _Lead(Behind):
    example = "advlock lead scheduler -- ./scheduler.sh"


class _Options(NamedTuple):
    """The command line, understood."""

    plan: Plan
    restart: Restart
    bounds: Bounds
    probe: tuple[str, int] | None
    dsn: str | None
    local: bool
    quiet: bool


def _address(text: str) -> tuple[str, int]:
    from advlock.cli._probe import read_address  # noqa: PLC0415 - an HTTP server is not light

    try:
        return read_address(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


_address.__name__ = "[host:]port"

EPILOG = """\
\b
Every host runs the same line. One of them leads: it runs COMMAND. The others
stand by, and one of them leads when the leader ends or is lost. A leader that
loses the lock gets TERM, and KILL --kill-after later, and stands by again.

\b
When COMMAND ends by itself, the lead is given up, and --restart decides:
  always       campaign again, at the end of the queue
  on-failure   the same after a failure; exit with 0 after a success
  never        exit with its exit code
Before each new campaign there is a pause: 1 s, doubling up to 60 s, for a
COMMAND that keeps ending within a minute.

\b
Hooks are lines for /bin/sh. COMMAND and hooks see ADVLOCK_NAME, ADVLOCK_KEY,
ADVLOCK_TOKEN (greater than that of every earlier leader) and ADVLOCK_RUN_ID.
A failing --on-acquire gives the lead up; --on-release runs after each term,
also after one that was lost or whose --on-acquire failed.

\b
Probes: /livez is 200; /readyz is 200 while there is a session with the
database, whoever leads; /leader is 200 on the leader and 503 elsewhere.
A PORT alone listens on all addresses, as Kubernetes asks from outside.

\b
Examples:
  advlock lead scheduler -- ./scheduler.sh
  advlock lead --restart always beat -- celery -A app beat
  advlock lead --probe-port 8080 --on-acquire './label.sh leader' web -- ./web
"""


@click.command(cls=_Lead, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=lock_name)
@click.option(
    "--restart",
    type=click.Choice([one.value for one in Restart]),
    default=Restart.ON_FAILURE.value,
    show_default=True,
    help="Whether to campaign again when the command has ended by itself.",
)
@click.option("--on-acquire", metavar="LINE", help="Run this before the command; then lead.")
@click.option("--on-release", metavar="LINE", help="Run this after the command; then let go.")
@click.option(
    "--hook-timeout",
    type=duration_between(0.1, LONGEST),
    default="10s",
    show_default=True,
    help="Stop a hook after so long.",
)
@click.option("--probe-port", "probe", type=_address, help="Answer HTTP probes there.")
@click.option(
    "-k",
    "--kill-after",
    type=duration,
    default="10s",
    show_default=True,
    help="Kill a command that was stopped and has not ended after so long.",
)
@click.option("-o", "--close", is_flag=True, help="Do not let the command inherit the lock.")
@click.option(
    "--liveness",
    type=duration_between(SHORTEST_LIVENESS, LONGEST),
    default=f"{LIVENESS:g}s",
    show_default=True,
    help="When the network or this host vanishes, the server frees the lock within so long.",
)
@click.option(
    "--lease",
    type=duration_between(SHORTEST_LEASE, LONGEST),
    help="Free the lock when advlock is frozen or killed for so long; the command may still run.",
)
@click.option("--dsn", metavar="DSN", help="The database: a URL, or libpq's key=value.")
@click.option("--local", is_flag=True, help="A private PostgreSQL, for trying things out.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say who leads.")
@click.pass_context
def lead(ctx: click.Context, /, **given: Any) -> int:
    """Run a command on the leader: of all hosts that run this, on one at a time.

    Waits until nobody leads NAME, runs the command, and stops it when the lead is lost; then waits
    again. Signals go to the command; TERM, INT and QUIT also end advlock, when it has ended.
    """
    raise_on_signals()
    try:
        return _run(_understood(ctx, given))
    except Interrupted as interrupted:
        return signalled(interrupted.signum)


def _understood(ctx: click.Context, given: dict[str, Any]) -> _Options:
    if given["dsn"] is not None and given["local"]:
        raise click.UsageError("--dsn and --local exclude each other; leave one out", ctx)
    plan = Plan(
        given["name"],
        given["command"],
        given["on_acquire"],
        given["on_release"],
        given["hook_timeout"],
        given["kill_after"],
        given["close"],
    )
    return _Options(
        plan,
        Restart(given["restart"]),
        Bounds(given["liveness"], given["lease"], inherited=not given["close"]),
        given["probe"],
        given["dsn"],
        given["local"],
        given["quiet"],
    )


def _run(options: _Options) -> int:
    with contextlib.ExitStack() as stack:
        status = _status(options)
        dsn, users = _database(stack, cast("Any", options))  # it looks at `dsn` and `local`
        candidate = stack.enter_context(contextlib.closing(_Candidate(options, dsn, status)))
        policy = Policy(options.restart)
        while True:
            found = candidate.campaign()
            env = _environment(found.grant, options.plan.name, found.token)
            if not options.quiet:
                say(f"leading {options.plan.name!r} with token {found.token}")
            end = Term(options.plan, found, env, status, users).serve()
            if not policy.again(end):
                return end.code
            pause = policy.pause(end)
            if not options.quiet:
                why = "" if end.lost or end.resigned else f" ended with exit code {end.code}"
                what = f"the command{why}; " if why else ""
                say(f"{what}campaigning for {options.plan.name!r} again in {pause:g} s")
            time.sleep(pause)


def _status(options: _Options) -> Status:
    status = Status(options.plan.name)
    if options.probe is not None:
        from advlock.cli._probe import serve  # noqa: PLC0415 - an HTTP server is not light

        where = serve(options.probe, status)
        say(f"answering probes on http://{where}/ (livez, readyz, leader)")
    return status


class _Candidate:
    """Gets the lead, as often as it is wanted, through outages of the database."""

    def __init__(self, options: _Options, dsn: Dsn, status: Status) -> None:
        from advlock import _label  # noqa: PLC0415 - the database is not needed for --help
        from advlock.cli._names import registered_names  # noqa: PLC0415

        self._options = options
        self._dsn = dsn
        self._status = status
        self._label = _label
        self._names = registered_names(options.plan.name, None)
        self._met = False  # whether there ever was a session
        self._seeker: Seeker | None = None

    def campaign(self) -> Found:
        """Wait until we lead.

        Raises:
            DatabaseUnavailable: there is no session, and there never was one.
            UnsafeServer: the first connection led to where locks would not be safe.
        """
        want = Want(self._options.plan.name, shared=False, slots=None, patient=True)
        backoff, told = Backoff(), False
        while True:
            self._seeker = Seeker(self._connect, want, None, self._tell, self._warn)
            try:
                found = self._seeker.seek()
            except (DatabaseUnavailable, UnsafeServer) as error:
                self.close()
                if not self._met:
                    raise
                if not told:
                    self._warn(f"no database to lead with, trying again: {error}")
                told = True
                backoff.note(time.monotonic(), failed=True)
                time.sleep(backoff.pause(time.monotonic()))
            else:
                assert found is not None  # it waits for ever
                return found

    def close(self) -> None:
        """Close our end of the session. Not a goodbye: who inherited the socket keeps the lock."""
        self._status.connected = False
        if self._seeker is not None:
            self._seeker.discard()

    def _connect(self) -> SoloSession:
        from advlock._solo import SoloSession  # noqa: PLC0415

        self._status.connected = False
        session = SoloSession.open(
            self._dsn,
            application_name=self._label.make(self._options.plan.name),
            deadline=None,
            bounds=self._options.bounds,
        )
        session.names = self._names
        self._met = self._status.connected = True
        return session

    def _tell(self, message: str) -> None:
        if not self._options.quiet:
            say(message)

    def _warn(self, message: str) -> None:
        self._status.connected = False
        say(message)
