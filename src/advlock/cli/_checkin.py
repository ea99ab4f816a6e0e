"""Check-ins of `advlock run`: its options, and what the monitors are told of its command."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from advlock.cli._say import say
from advlock.cli.exits import Exit
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from advlock._checkins._plan import Monitor
    from advlock._checkins._send import CheckIn
    from advlock.cli._tee import Tee

PING_URL = "ADVLOCK_PING_URL"
WHO = ("ping", "sentry_monitor")  # the options that say who is told


def _ping_url(text: str) -> str:
    """The URL of a ping."""
    from advlock._checkins import _plan  # noqa: PLC0415 - for those who pass one

    return _checked(_plan.read_url, text)


def _slug(text: str) -> str:
    """The slug of a monitor."""
    from advlock._checkins import _plan  # noqa: PLC0415 - for those who pass one

    return _checked(_plan.read_slug, text)


def _checked(read: Callable[[str], str], text: str) -> str:
    try:
        return read(text)
    except ConfigError as error:
        raise click.BadParameter(f"it {error}") from None


_OPTIONS = (
    click.option(
        "--ping",
        metavar="URL",
        type=_ping_url,
        envvar=PING_URL,
        show_envvar=True,
        help="Tell a check of Healthchecks when the command begins, and how it ends.",
    ),
    click.option(
        "--ping-output",
        is_flag=True,
        help="Send the end of what the command writes, too; it then sees no terminal.",
    ),
    click.option(
        "--ping-skips",
        is_flag=True,
        help="Send a /log, which is no success, when somebody else holds the lock.",
    ),
    click.option(
        "--sentry-monitor",
        metavar="SLUG",
        type=_slug,
        help="Check in with a cron monitor of Sentry.",
    ),
    click.option(
        "--sentry-dsn",
        metavar="DSN",
        envvar="SENTRY_DSN",
        show_envvar=True,
        help="The monitor's project.",
    ),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of check-ins to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Wanted(NamedTuple):
    """Who is to be told of a command, and what."""

    ping: str | None
    output: bool
    skips: bool
    monitor: str | None
    dsn: str | None


def understood(given: Mapping[str, Any], ctx: click.Context) -> Wanted | None:
    """Read the options; None if nobody is to be told."""
    ping, monitor = given["ping"], given["sentry_monitor"]
    for flag in ("ping_output", "ping_skips"):
        if given[flag] and ping is None:
            name = f"--{flag.replace('_', '-')}"
            raise click.UsageError(f"{name} goes with --ping URL, or {PING_URL}", ctx)
    if ping is None and monitor is None:
        return None
    if monitor is not None and not given["sentry_dsn"]:
        raise click.UsageError("--sentry-monitor needs --sentry-dsn, or SENTRY_DSN", ctx)
    return Wanted(ping, given["ping_output"], given["ping_skips"], monitor, given["sentry_dsn"])


class Reporter:
    """Tells of one command; where nobody is to be told, it does nothing.

    Around everything, so that what is still to be told is told without the lock:
    leaving the block waits for it, for some seconds at most.
    """

    def __init__(self, wanted: Wanted | None, name: str) -> None:
        """Check what is wanted.

        Args:
            wanted: Who is to be told.
            name: The lock's.

        Raises:
            ConfigError: the monitor's address is none.
        """
        self._wanted = wanted
        self._name = name
        self._monitors = [] if wanted is None else _monitors(wanted, name)
        self._said: list[str] = []
        self._run_id = ""
        self._tee: Tee | None = None
        self._checkin: CheckIn | None = None
        self._began: float | None = None
        self._end: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        """Do nothing yet."""
        return self

    def say(self, message: str) -> None:
        """Say it to people; it is told with the command's end."""
        if self._wanted is not None:
            self._said.append(message)
        say(message)

    def prepare(self, run_id: str) -> dict[str, Any]:
        """Take note of the run; what `spawn` is to be told of the command's output."""
        self._run_id = run_id
        if self._wanted is None or not self._wanted.output:
            return {}
        from advlock._checkins._plan import MOST  # noqa: PLC0415 - most runs have none
        from advlock.cli._tee import Tee  # noqa: PLC0415

        self._tee = Tee(MOST)
        return {"streams": (*self._tee.streams, 0)}

    def begun(self) -> None:
        """Tell that the command runs. Where signals are blocked, as a thread of ours begins."""
        self._began = time.monotonic()
        if self._tee is not None:
            self._tee.started()
        if self._wanted is not None:
            self._opened().begun()

    def ended(self, code: int) -> int:
        """Note how the command ended, or that it could not be started; told when the lock is gone.

        Returns:
            The code.
        """
        self._end = (int(code), time.monotonic())
        return code

    def skipped(self) -> None:
        """Note that somebody else holds the lock."""
        if self._wanted is not None and self._wanted.skips:
            import uuid  # noqa: PLC0415 - not for --help

            self._run_id = str(uuid.uuid4())
            why = f"{self._name!r} was not run on {os.uname().nodename}: somebody else holds it"
            self._opened().skipped(why)

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        """Tell how it ended, and wait until that is told, or cannot be."""
        from advlock.cli._signals import Interrupted  # noqa: PLC0415 - not for --help

        try:
            output = None if self._tee is None else self._tee.finish()
            if kind is not None and self._began is not None and self._end is None:
                self._said.append(f"advlock failed: {error}")
                self.ended(Exit.BUG)
            if self._end is not None and self._wanted is not None:
                self._tell(*self._end, output)
            if self._checkin is not None:
                from advlock._checkins._send import PATIENCE  # noqa: PLC0415 - it is loaded

                self._checkin.wait(PATIENCE)
        except Interrupted:  # the command has ended, and its exit code is what counts
            pass
        if self._checkin is not None:
            self._checkin.give_up()

    def _tell(self, code: int, at: float, output: str | None) -> None:
        from advlock._checkins._plan import Ending  # noqa: PLC0415 - most runs have none
        from advlock._duration import brief  # noqa: PLC0415

        if self._began is None:
            seconds, how = 0.0, "was not started"
        else:
            seconds = at - self._began
            how = f"ended with exit code {code} after {brief(seconds)}"
        first = f"{self._name!r} on {os.uname().nodename} {how}"
        summary = "\n".join([first, *self._said])
        self._opened().ended(Ending(code, summary, output, seconds))

    def _opened(self) -> CheckIn:
        if self._checkin is None:
            from advlock._checkins._send import CheckIn  # noqa: PLC0415 - most runs have none

            self._checkin = CheckIn(self._monitors, self._run_id, say)
        return self._checkin


def _monitors(wanted: Wanted, name: str) -> list[Monitor]:
    from advlock._checkins._plan import Healthchecks, Sentry, named  # noqa: PLC0415

    found: list[Monitor] = []
    if wanted.ping is not None:
        found.append(Healthchecks(named(wanted.ping, name)))
    if wanted.monitor is not None:
        environment = os.environ.get("SENTRY_ENVIRONMENT")
        found.append(Sentry(wanted.dsn or "", named(wanted.monitor, name), environment))
    return found
