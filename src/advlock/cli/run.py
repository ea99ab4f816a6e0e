"""`advlock run NAME -- COMMAND`: hold a lock while a command runs."""

from __future__ import annotations

import contextlib
import math
import os
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advlock._duration import brief
from advlock._liveness import LIVENESS, LONGEST, SHORTEST_LEASE, SHORTEST_LIVENESS, Bounds
from advlock.cli import _checkin
from advlock.cli._acquire import Grant, Want
from advlock.cli._behind import Behind
from advlock.cli._child import NotStarted, adopt_orphans, has_terminal, spawn
from advlock.cli._names import registered_names
from advlock.cli._say import say
from advlock.cli._seek import Found, Seeker
from advlock.cli._signals import Inbox, Interrupted, raise_on_signals
from advlock.cli._story import Story, trace_context
from advlock.cli._supervise import Rules, supervise
from advlock.cli.exits import Exit, signalled
from advlock.errors import ConfigError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._dsn import Dsn
    from advlock._rate._rate import Rate
    from advlock._solo import SoloSession


def duration(text: str) -> float:
    """Seconds of a duration on the command line; 0 and more."""
    from advlock import _duration  # noqa: PLC0415 - for those who pass one

    try:
        return _duration.seconds(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def duration_between(least: float, most: float) -> Callable[[str], float]:
    """Make a reader of durations that are neither too short nor too long."""

    def read(text: str) -> float:
        seconds = duration(text)
        if not least <= seconds <= most:
            msg = f"{text!r} is not between {brief(least)} and {brief(most)}; write one that is"
            raise click.BadParameter(msg)
        return seconds

    read.__name__ = "duration"
    return read


def lock_name(text: str) -> str:
    """A name that a lock can have, whatever the server's encoding turns out to be."""
    from advlock._key import Key  # noqa: PLC0415 - not for --help

    try:
        Key.of(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return text


def rate_option(text: str) -> Rate:
    """A rate on the command line."""
    from advlock._rate._rate import rate  # noqa: PLC0415 - for those who pass one

    try:
        return rate(text, None)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


rate_option.__name__ = "rate"


class _Run(Behind):
    example = "advlock run nightly -- ./report.sh --all"


class _Options(NamedTuple):
    """The command line, understood."""

    want: Want
    wait: float | None
    command: tuple[str, ...]
    conflict: int
    close: bool
    rules: Rules
    bounds: Bounds
    dsn: str | None
    local: bool
    quiet: bool
    rate: Rate | None = None
    checkin: _checkin.Wanted | None = None

    def tell(self, message: str) -> None:
        """Say who is in the way, unless nobody wants to know."""
        if not self.quiet:
            say(message)


EPILOG = """\
\b
Durations: 5, 30s, 1.5m, 2h, 1d.
NAME is text, also when it looks like a number; from psql the same lock is
  SELECT pg_advisory_lock(hashtextextended('NAME', 0));

\b
Examples:
  advlock run nightly -- ./report.sh          wait for the lock, then run
  advlock run -n -E 0 nightly -- ./report.sh  skip when it runs elsewhere (cron)
  advlock run -w 30s deploy -- make deploy    wait at most 30 seconds
  advlock run --slots 3 encode -- ./encode    at most three at a time
  advlock run --rate 100/60s api -- ./call    at most 100 starts in any minute

\b
The command sees ADVLOCK_NAME, ADVLOCK_KEY, ADVLOCK_TOKEN (greater than that of
every earlier holder), ADVLOCK_RUN_ID and, with --slots, ADVLOCK_SLOT.
It inherits the lock's connection: if advlock itself is killed, the lock stays
until the command has ended. --close opts out.
"""

# What has no meaning where nothing is held while the command runs.
_ONLY_LOCKS = ("shared", "exclusive", "slots", "close", "max_runtime", "lease", *_checkin.WHO)
_KILL_AFTER = 10.0
_BOUNDS = Bounds()
_LETS_GO = float(_BOUNDS.user_timeout) / 1000  # the server, at the earliest
_OVERLAP = round(_BOUNDS.trust + _KILL_AFTER - _LETS_GO, 1)
_NO_OVERLAP = math.floor(2 * (_LETS_GO - _BOUNDS.trust)) / 2  # in halves: some of it is for us

WORST_CASE = f"""
\b
The lock is lost when the server ends our session, or when no word has come from
it for {_BOUNDS.trust:g} s: the command gets TERM, and KILL --kill-after later. A server that
hears nothing from us frees the lock after {_LETS_GO:g} to {_BOUNDS.liveness:g} s. So a command that
ignores TERM may run {_OVERLAP:g} s into somebody else's time; with --kill-after {_NO_OVERLAP:g}s it
does not. --liveness changes these times.

\b
--lease is for an advlock that may be frozen, as in a paused container. But the
command may still run when the lease ends, also after `kill -9` of advlock
alone: it is not for commands that must never run twice at a time.
"""


@click.command(
    cls=_Run,
    epilog=EPILOG + WORST_CASE,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("name", type=lock_name)
@click.option("-n", "--no-wait", "--nonblock", "no_wait", is_flag=True, help="Do not wait.")
@click.option("-w", "--wait", "--timeout", "wait", type=duration, help="Wait at most so long.")
@click.option("-s", "--shared", is_flag=True, help="Share the lock with others that share it.")
@click.option("-x", "--exclusive", is_flag=True, help="Share it with nobody (the default).")
@click.option(
    "-E",
    "--conflict-exit-code",
    "conflict",
    type=click.IntRange(0, 255),
    default=int(Exit.BUSY),
    show_default=True,
    help="The exit code when somebody else holds the lock.",
)
@click.option("-o", "--close", is_flag=True, help="Do not let the command inherit the lock.")
@click.option("--slots", type=click.IntRange(1, 1000), help="Let so many hold it at a time.")
@click.option(
    "--rate",
    metavar="N/TIME",
    type=rate_option,
    help="Take no lock; start the command when fewer than N others began within TIME.",
)
@click.option("--max-runtime", type=duration, help="Stop the command after so long; 0: never.")
@click.option(
    "-k",
    "--kill-after",
    type=duration,
    default=f"{_KILL_AFTER:g}s",
    show_default=True,
    help="Kill a command that was stopped and has not ended after so long.",
)
@click.option(
    "--on-lost",
    type=click.Choice(["kill", "continue"]),
    default="kill",
    show_default=True,
    help="What to do with the command when the lock is lost while it runs.",
)
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
@_checkin.options
@click.option("--dsn", metavar="DSN", help="The database: a URL, or libpq's key=value.")
@click.option("--local", is_flag=True, help="A private PostgreSQL, for trying things out.")
@click.option("-q", "--quiet", is_flag=True, help="Do not say who holds the lock.")
@click.pass_context
def run(ctx: click.Context, /, **given: Any) -> int:
    """Run a command while holding the lock NAME.

    Waits until the lock is free, runs the command, exits with its exit code. While it runs,
    nobody else who asks the same database for NAME gets it.
    """
    raise_on_signals()
    try:
        return _run(_understood(ctx, given))
    except Interrupted as interrupted:
        return signalled(interrupted.signum)


def _understood(ctx: click.Context, given: dict[str, Any]) -> _Options:
    for one, other in (
        ("no_wait", "wait"),
        ("shared", "exclusive"),
        ("shared", "slots"),
        ("dsn", "local"),
        *(("rate", other) for other in _ONLY_LOCKS),
    ):
        if all(given[flag] is not None and given[flag] is not False for flag in (one, other)):
            flags = (f"--{flag.replace('_', '-')}" for flag in (one, other))
            raise click.UsageError(f"{' and '.join(flags)} exclude each other; leave one out", ctx)
    patient = not given["no_wait"] and given["wait"] != 0
    return _Options(
        Want(given["name"], given["shared"], given["slots"], patient),
        given["wait"] or None,
        given["command"],
        given["conflict"],
        given["close"],
        Rules(
            given["max_runtime"],
            given["kill_after"],
            given["on_lost"] == "kill",
            f"the lock {given['name']!r}",
        ),
        Bounds(given["liveness"], given["lease"], inherited=not given["close"]),
        given["dsn"],
        given["local"],
        given["quiet"],
        given["rate"],
        _checkin.understood(given, ctx),
    )


def _run(options: _Options) -> int:
    from advlock import _label  # noqa: PLC0415 - the database is not needed for --help
    from advlock._solo import SoloSession  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        reporter = _checkin.Reporter(options.checkin, options.want.name)
        stack.enter_context(reporter)  # the first, so it is left last: when the lock is free again
        dsn, users = _database(stack, options)
        if options.rate is not None:
            return _at_rate(options.rate, options, dsn, users)
        names = registered_names(options.want.name, options.want.slots)
        # Our own start-up is not the caller's time: the wait begins with connecting.
        until = None if options.wait is None else time.monotonic() + options.wait
        name = _label.make(options.want.name)

        def connect() -> SoloSession:
            session = SoloSession.open(
                dsn, application_name=name, deadline=until, bounds=options.bounds
            )
            session.names = names
            return session

        seeker = Seeker(connect, options.want, until, options.tell, say)
        try:
            found = seeker.seek()
            if found is None:
                reporter.skipped()
                return options.conflict
            return reporter.ended(_under_lock(found, options, users, reporter))
        finally:
            # Whatever happened. Not a goodbye: a process that inherited the socket keeps the lock.
            seeker.discard()


def _at_rate(rate: Rate, options: _Options, dsn: Dsn, users: list[int]) -> int:
    from advlock.cli._rate_run import become, start_at  # noqa: PLC0415 - most runs have none

    if not start_at(rate, options.want, options.wait, dsn, options.tell):
        return options.conflict
    try:
        become(options.command, options.want.name, users)
    except NotStarted as failure:
        say(str(failure))
        return failure.code


def _database(stack: contextlib.ExitStack, options: _Options) -> tuple[Dsn, list[int]]:
    """Find the database; with --local also the descriptor that keeps its server running."""
    from advlock import _dsn  # noqa: PLC0415

    if options.local:
        from advlock import embedded  # noqa: PLC0415 - only --local pays for it

        server = stack.enter_context(embedded.local())
        return _dsn.Dsn(server.dsn, "--local"), [server.fileno()]
    return _dsn.resolve(options.dsn), []


def _under_lock(
    found: Found, options: _Options, users: list[int], reporter: _checkin.Reporter
) -> int:
    session, grant, token = found
    env = _environment(grant, options.want.name, token)
    terminal = has_terminal()
    inbox = Inbox(suspendable=not terminal)
    inherit = [] if options.close else [session.fileno(), *users]
    output = reporter.prepare(env["ADVLOCK_RUN_ID"])
    with inbox.opened():
        adopt_orphans()
        try:
            child = spawn(
                options.command, env=env, inherit=inherit, own_session=not terminal, **output
            )
        except NotStarted as failure:
            reporter.say(str(failure))
            return failure.code
        reporter.begun()
        story = Story(env, child.pid)
        session.record(grant.key)  # not before: the command does not wait for it
        code = supervise(child, session, options.rules, inbox, reporter.say)
        story.end(code)
        if not options.close:
            session.leave()
    if options.close and code != Exit.LOST and not _released(session, grant, options):
        reporter.say(f"lost {options.rules.what} before the command ended with exit code {code}")
        return Exit.LOST if options.rules.stop_when_lost else code
    return code


def _released(session: SoloSession, grant: Grant, options: _Options) -> bool:
    """Give the lock back, wait until the server has confirmed it; False: it was not ours."""
    try:
        was_held = session.unlock(grant.key, shared=options.want.shared)
        session.close()
    except DatabaseUnavailable:  # gone since we looked last; the command ended before that
        return True
    return was_held


def _environment(grant: Grant, name: str, token: int) -> dict[str, str]:
    env, parts = dict(os.environ), grant.key.parts
    env.pop("ADVLOCK_SLOT", None)  # that of another `advlock run` around this one
    env.pop(_checkin.PING_URL, None)  # a secret, and no other run's
    env["ADVLOCK_NAME"] = name
    env["ADVLOCK_KEY"] = ",".join(map(str, parts if isinstance(parts, tuple) else [parts]))
    env["ADVLOCK_TOKEN"] = str(token)
    env["ADVLOCK_RUN_ID"] = str(uuid.uuid4())
    if grant.slot is not None:
        env["ADVLOCK_SLOT"] = str(grant.slot)
    return env | trace_context()
