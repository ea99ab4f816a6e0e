"""`advlock cron run` and `advlock cron tick`."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._say import say
from advlock.cli._signals import Interrupted, heard, raise_on_signals
from advlock.cli.cron._files import load
from advlock.cli.cron._options import database
from advlock.cli.exits import signalled
from advlock.cli.run import duration
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advlock._cron._engine import Engine, Run
    from advlock._cron._facts import Claim
    from advlock._cron._job import JobSet

log = logging.getLogger("advlock.cron")
_ROOM: Final = 16  # runs at a time, unless the file says otherwise
_WAIT: Final = "25s"  # less than the 30 s that Kubernetes and Docker give, or have to be told
_FLUSH: Final = 2.0

RUN_EPILOG = """\
\b
Signals: TERM and INT begin nothing new, wait for what runs (--wait), then stop
it; a second one stops it at once. HUP reads the file again.

\b
The commands see ADVLOCK_JOB, ADVLOCK_SCHEDULED_AT, ADVLOCK_ATTEMPT, and what
`advlock run` sets. Each inherits the lock of its run: if this process is killed,
the lock stays until the command has ended, and no other host starts it.
"""


@click.command(epilog=RUN_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@database
@click.option(
    "--max-running",
    type=click.IntRange(min=1),
    help=f"How many jobs may run here at a time (default: the file's, or {_ROOM}).",
)
@click.option(
    "--wait",
    type=duration,
    default=_WAIT,
    show_default=True,
    help="How long to wait for what runs when asked to end.",
)
@click.option("--no-prefix", is_flag=True, help="Pass output on without the job's name in front.")
@click.option("-q", "--quiet", is_flag=True, help="Say warnings only.")
def run(file: str, max_running: int | None, wait: float, **given: Any) -> int:
    """Run the jobs of FILE, together with every other host that does.

    FILE is TOML, or a classic crontab. It goes on until it is asked to end.
    """
    return _interruptible(lambda: _serve(file, max_running, wait, **given))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@database
@click.option("--max-running", type=click.IntRange(min=1), help="As for `advlock cron run`.")
@click.option("--no-prefix", is_flag=True, help="Pass output on without the job's name in front.")
@click.option("-q", "--quiet", is_flag=True, help="Say warnings only.")
def tick(file: str, max_running: int | None, **given: Any) -> int:
    """Run what has become due since somebody looked last, and exit when it has ended.

    For a systemd timer or a Kubernetes CronJob that comes every minute. The first time it only
    takes note of the jobs. Exits with 1 if a job failed.
    """
    return _interruptible(lambda: _serve_once(file, max_running, **given))


def _interruptible(serve: Callable[[], int]) -> int:
    """Until the engine has handlers of its own, a signal ends us: also as PID 1."""
    raise_on_signals()
    try:
        return serve()
    except Interrupted as interrupted:
        return signalled(interrupted.signum)


def _serve(file: str, max_running: int | None, wait: float, **given: Any) -> int:
    from advlock import _plan  # noqa: PLC0415 - not for --help

    jobs = load(file)
    with (
        _engine(jobs, max_running, **given) as (engine, _),
        _signals(engine, lambda: load(file)) as hurried,
    ):
        engine.prepare(_plan.token())
        log.info("%s of %s; watching the clock", _count(jobs), file)
        engine.run()
        if not engine.idle:
            log.info("asked to end: beginning nothing new, waiting for what runs")
        engine.drain(0.0 if hurried() else wait)
    return 0


def _serve_once(file: str, max_running: int | None, **given: Any) -> int:
    from advlock import _plan  # noqa: PLC0415 - not for --help

    jobs = load(file)
    with _engine(jobs, max_running, **given) as (engine, failed):
        with _signals(engine, None):
            engine.prepare(_plan.token())
            engine.until_idle()
            engine.drain(0.0)
        return 1 if failed() else 0


def _count(jobs: JobSet) -> str:
    return f"{len(jobs.jobs)} job{'s' * (len(jobs.jobs) != 1)}"


@contextlib.contextmanager
def _engine(
    jobs: JobSet, max_running: int | None, *, no_prefix: bool, quiet: bool, **where: Any
) -> Iterator[tuple[Engine, Callable[[], bool]]]:
    from advlock._cron._engine import Engine  # noqa: PLC0415 - not for --help
    from advlock.cli._child import adopt_orphans  # noqa: PLC0415
    from advlock.cli.cron._command import CommandRun  # noqa: PLC0415
    from advlock.cli.cron._options import client_of, opened  # noqa: PLC0415
    from advlock.cli.cron._output import Printer  # noqa: PLC0415
    from advlock.cli.cron._reaper import Reaper  # noqa: PLC0415

    printer = Printer()
    outcomes = _speak(quiet=quiet)
    with opened(**where) as dsn:
        # An ignored SIGCHLD, which a parent may have left us, would take every exit code away.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        adopt_orphans()
        reaper = Reaper()

        def make(engine: Engine, claim: Claim) -> Run:
            return CommandRun(
                engine, claim, dsn=dsn, reaper=reaper, printer=printer, prefixed=not no_prefix
            )

        with client_of(dsn) as client:
            yield Engine(client, jobs, max_running or jobs.max_running or _ROOM, make), outcomes
    printer.flush(_FLUSH)


@contextlib.contextmanager
def _signals(engine: Engine, read: Callable[[], JobSet] | None) -> Iterator[Callable[[], bool]]:
    """Have signals end or reload; tell whether somebody is in a hurry."""
    came: list[int] = []

    def end(signum: int, _frame: object) -> None:
        came.append(signum)
        engine.stop()

    def reload(_signum: int, _frame: object) -> None:
        engine.soon(lambda: _reload(engine, read))

    def nothing(_signum: int, _frame: object) -> None:
        """Not ignored: the commands would inherit that."""

    handlers: dict[int, Callable[[int, Any], None]] = dict.fromkeys(heard(), end)
    handlers |= dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), nothing)
    if read is not None and signal.SIGHUP in handlers:
        handlers[signal.SIGHUP] = reload
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield lambda: len(came) > 1
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def _reload(engine: Engine, read: Callable[[], JobSet] | None) -> None:
    assert read is not None
    try:
        jobs = read()
    except ConfigError as error:
        say(f"not read again, going on with the jobs from before:\n{error}")
    else:
        engine.reload(jobs)
        log.info("read again: %s", _count(jobs))


class _Speaker(logging.Handler):
    """Says what the scheduler logs, and remembers whether a run failed."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        state = getattr(record, "state", None)
        self.failed = self.failed or state in {"failed", "timeout", "lost"}
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        say(text)


def _speak(*, quiet: bool) -> Callable[[], bool]:
    log = logging.getLogger("advlock")
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    speaker = _Speaker()
    log.handlers = [speaker]
    return lambda: speaker.failed
