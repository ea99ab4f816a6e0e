"""`advlock cron run` and `advlock cron tick`."""

from __future__ import annotations

import contextlib
import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._database import database
from advlock.cli._signals import Interrupted, heard, raise_on_signals
from advlock.cli.cron._files import load
from advlock.cli.exits import signalled
from advlock.cli.run import duration
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from advlock._cron._engine import Engine
    from advlock._cron._job import JobSet
    from advlock.cli.cron._output import Printer

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
    with _Signals() as signals, _engine(jobs, max_running, **given) as (engine, _):
        signals.end = engine.stop
        signals.reload = lambda: engine.soon(lambda: _reload(engine, file, max_running))
        engine.prepare(_plan.token())
        log.info("%s of %s; watching the clock", _count(jobs), file)
        engine.run()
        if not engine.idle:
            log.info("asked to end: beginning nothing new, waiting for what runs")
        engine.drain(wait)
    return 0


def _serve_once(file: str, max_running: int | None, **given: Any) -> int:
    from advlock import _plan  # noqa: PLC0415 - not for --help

    jobs = load(file)
    with _Signals() as signals, _engine(jobs, max_running, **given) as (engine, failed):
        signals.end = signals.reload = engine.stop
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
    from advlock.cli._database import client_of, opened  # noqa: PLC0415
    from advlock.cli.cron._command import CommandRun  # noqa: PLC0415
    from advlock.cli.cron._output import Drainer, Printer  # noqa: PLC0415
    from advlock.cli.cron._reaper import Reaper  # noqa: PLC0415

    printer = Printer()
    outcomes = _speak(printer, quiet=quiet)
    try:
        with opened(**where) as dsn:
            # An ignored SIGCHLD, which a parent may have left us, would take every exit code away.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            adopt_orphans()
            make = partial(
                CommandRun,
                dsn=dsn,
                reaper=Reaper(),
                printer=printer,
                drainer=Drainer(),
                prefixed=not no_prefix,
            )

            with client_of(dsn) as client:
                yield Engine(client, jobs, _room(jobs, max_running), make), outcomes
    finally:
        printer.flush(_FLUSH)


def _room(jobs: JobSet, given: int | None) -> int:
    return given or jobs.max_running or _ROOM


class _Signals:
    """Until there is an engine, a signal ends us by an exception; then the engine hears of it.

    The handlers stay until everything is closed: a second signal must not kill us in the middle.
    """

    end: Callable[[], object] | None = None
    reload: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        self._before = {signum: signal.signal(signum, self._hear) for signum in heard()}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _hear(self, signum: int, _frame: object) -> None:
        if signum in {signal.SIGUSR1, signal.SIGUSR2}:
            return  # not ignored: the commands would inherit that
        call = self.reload if signum == signal.SIGHUP else self.end
        if call is None:
            raise Interrupted(signum)
        call()


def _reload(engine: Engine, file: str, max_running: int | None) -> None:
    try:
        jobs = load(file, log.warning)
    except ConfigError as error:
        log.warning("not read again, going on with the jobs from before:\n%s", error)
    else:
        engine.reload(jobs, _room(jobs, max_running))
        log.info("read again: %s", _count(jobs))


class _Speaker(logging.Handler):
    """Says what the scheduler logs, and remembers whether a run failed."""

    def __init__(self, printer: Printer) -> None:
        super().__init__()
        self.failed = False
        self._printer = printer

    def emit(self, record: logging.LogRecord) -> None:
        state = getattr(record, "state", None)
        self.failed = self.failed or state in {"failed", "timeout", "lost"}
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._printer.say(text)


def _speak(printer: Printer, *, quiet: bool) -> Callable[[], bool]:
    log = logging.getLogger("advlock")
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    speaker = _Speaker(printer)
    log.handlers = [speaker]
    return lambda: speaker.failed
