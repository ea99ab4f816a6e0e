"""`advlock demo`: three hosts, one cron, two kills, on a PostgreSQL of its own."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any, Final, Self

import click

from advlock.cli._say import say
from advlock.cli._signals import Interrupted
from advlock.cli.exits import Exit, signalled

if TYPE_CHECKING:
    from advlock.cli._demo_count import Verdict
    from advlock.cli._demo_play import Pace
    from advlock.cli._demo_show import Show

SHORTEST: Final = 4  # seconds; more, as long as a takeover is still to be seen

EPILOG = """\
\b
A double is a run of a tick that had one already; a miss is a tick of which nobody
can say what became. Both are counted twice: from the table advlock.cron_run, and
from what the jobs noted themselves; the two have to agree.

\b
Exit codes: 0 when there was no double, no miss and no overlap, and both takeovers
were seen, else 70.
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--seconds",
    type=click.IntRange(min=SHORTEST),
    default=20,
    show_default=True,
    help="How long the hosts run, at least.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON Lines, the verdict last.")
@click.option("--without-lock", is_flag=True, help="The control: the same, with nothing shared.")
def demo(seconds: int, as_json: bool, without_lock: bool) -> int:  # noqa: FBT001
    """Watch three hosts run one cron, and two of them be killed.

    Each runs `advlock cron run jobs.toml`; the job is due every two seconds (every second if
    --seconds is less than 14), and each tick runs on one host. Then one is killed in the middle of
    its job, later the scheduler of one alone, whose job keeps the lock; others take over. It runs
    on a PostgreSQL of its own, and leaves neither a process nor a file behind.
    """
    from advlock.cli._demo_play import Pace  # noqa: PLC0415 - not for --help
    from advlock.cli._demo_show import JsonShow, TextShow  # noqa: PLC0415

    show: Show = JsonShow() if as_json else TextShow()
    with _Signals() as signals:
        try:
            verdict = _play(Pace.of(seconds), show, signals, locked=not without_lock)
        except (Interrupted, OSError):
            # A terminal that goes away can be written to no more, and says HUP.
            if signals.came is None:
                raise
            say("interrupted; stopped the hosts and the server, and removed their files")
            return signalled(signals.came)
    show.verdict(verdict)
    return 0 if verdict.good else Exit.BUG


def _play(pace: Pace, show: Show, signals: _Signals, *, locked: bool) -> Verdict:
    from advlock import embedded  # noqa: PLC0415 - not for --help
    from advlock.cli._child import adopt_orphans  # noqa: PLC0415
    from advlock.cli._demo_crew import Crew  # noqa: PLC0415
    from advlock.cli._demo_play import HOSTS, Play  # noqa: PLC0415
    from advlock.cli._demo_table import Table, split  # noqa: PLC0415

    show.opening(pace, locked=locked)
    with embedded.temporary() as server:
        signals.check()
        # After the server's start, or it would be adopted, too; before that of the hosts.
        adopt_orphans()
        # In the server's directory: what a `kill -9` of the demo leaves, the next one removes.
        directory = server.log_path.with_name("demo")
        directory.mkdir(mode=0o700)
        own = [server.dsn] if locked else split(server.dsn, len(HOSTS))
        each = own * (len(HOSTS) // len(own))
        with (
            contextlib.closing(Table(own)) as table,
            contextlib.closing(Crew(directory, each, pace.every, pace.work)) as crew,
        ):
            play = Play(crew, table, pace, show.event, signals.check, kills=locked)
            play.run()
            verdict = play.verdict()
            if locked and (wrong := show.history(crew, verdict.ticks)):
                verdict.failures.append(wrong)
            signals.check()
            return verdict


class _Signals:
    """Notes a signal that asks us to end; `check` raises it where nothing is half-way.

    A second one changes nothing: the clean-up is under way, and takes a second.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # An ignored SIGCHLD, which a parent may have left us, would hide every exit code.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup means it
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: object) -> None:
        self.came = self.came or signum

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.came is not None:
            raise Interrupted(self.came)
