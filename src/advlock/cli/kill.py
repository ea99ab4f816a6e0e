"""`advlock kill`: end the session that holds a lock, after showing what it is."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from advlock.cli._say import marked, say
from advlock.cli.exits import Exit
from advlock.cli.locks._open import Sight, lock_name, looking, where
from advlock.cli.locks._text import folded, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock._inspect._kill import Signalled, Still, Target
    from advlock._inspect._tree import LockTree, Snapshot

NOTHING: Final = 1
NOT_ALLOWED: Final = 77  # EX_NOPERM of sysexits.h
_PATIENCE: Final = 5.0  # seconds for a session to end, or for what was cancelled to let go
_HANDOVER: Final = 1.0  # seconds for one of those who wait to be granted it
_PAUSE: Final = 0.05

EPILOG = """\
\b
Examples:
  advlock kill nightly             show who holds it, ask, and end that session
  advlock kill --pid 8812 nightly  that one of several; or of those who wait
  advlock kill --yes nightly       without asking, for scripts
"""


def exit_codes() -> list[tuple[str, str]]:
    """What `kill` says with its exit code."""
    return [
        ("0", "the session ended, or what it ran was cancelled, and the lock is off it"),
        ("1", "nothing was done: nobody holds the lock, or the answer was no"),
        ("64", "wrong usage; several sessions match, or there is nobody to ask and no --yes"),
        ("69", "the database cannot be reached"),
        ("75", "nothing was done: it is another session by now, or has let the lock go"),
        ("77", "nothing was done: this role may not end that session"),
        ("78", "bad configuration"),
        ("124", "it was told to end, and has the lock still"),
        ("128+n", "signal n ended it, as Ctrl-C does (130)"),
    ]


class _Kill(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(exit_codes())


@click.command(cls=_Kill, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=lock_name)
@click.option(
    "--cancel",
    is_flag=True,
    help="Cancel what it runs, and do not end it: frees who waits, and locks of a transaction.",
)
@click.option(
    "--pid",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="Of several sessions, the server process N; may be one that waits.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="What came of it, as JSON.")
@where
def kill(
    name: str,
    cancel: bool,  # noqa: FBT001
    pid: int | None,
    yes: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    **options: Any,
) -> int:
    """End the server session that holds the lock NAME, after showing what it is and asking.

    NAME is a name, a tool, or a key in any spelling, as for `advlock ps`. Its locks are free as
    soon as the session is gone. Nothing happens if by then it is another session, or has let go.
    """
    with looking("advlock kill", **options) as sight:
        deed = _Deed(sight, cancel=cancel, as_json=as_json)
        target = deed.find(name, pid)
        if target is None:
            return deed.finish("none", NOTHING)
        if (code := deed.refuse()) is not None:
            return code
        deed.show()
        if not yes and not _confirmed(deed.question, _again(name, pid, cancel=cancel)):
            say("nothing was done")
            return deed.finish("declined", NOTHING)
        return deed.do()


def _again(name: str, pid: int | None, *, cancel: bool) -> str:
    import shlex  # noqa: PLC0415 - for those who are not asked

    words = ["advlock", "kill", *(["--cancel"] if cancel else [])]
    words += ["--pid", str(pid)] if pid else []
    return shlex.join([*words, "--yes", *(["--"] if name.startswith("-") else []), name])


def _confirmed(question: str, command: str) -> bool:
    """Ask on the terminal; Ctrl-C passes through, the end of input is a no."""
    if not (sys.stdin.isatty() and os.isatty(2)):
        raise click.UsageError(
            "there is no terminal to ask on; if this is what you want, add --yes:"
            f" {visible(command)}"
        )
    os.write(2, marked(question).rstrip(b"\n") + b" [y/N] ")
    try:
        answer = _line()
    except KeyboardInterrupt:
        os.write(2, b"\n")
        raise
    if not answer:
        os.write(2, b"\n")
    return answer.strip().casefold() in {"y", "yes"}


def _line() -> str:
    """Read a line; a signal is heard, too, that comes just before the read begins to wait."""
    heard, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(tell)
    try:
        while sys.stdin not in select.select([sys.stdin, heard], [], [])[0]:
            os.read(heard, 64)
        return sys.stdin.readline()
    finally:
        signal.set_wakeup_fd(before)
        os.close(heard)
        os.close(tell)


class _Deed:
    """One session that is to be ended, and what comes of it."""

    def __init__(self, sight: Sight, *, cancel: bool, as_json: bool) -> None:
        self._sight = sight
        self._cancel = cancel
        self._as_json = as_json
        self._seen: Snapshot
        self._target: Target
        self._report: dict[str, Any] = {}

    @property
    def question(self) -> str:
        """What to ask."""
        pid = self._target.session.pid
        return f"Cancel what session {pid} runs?" if self._cancel else f"End session {pid}?"

    def find(self, name: str, pid: int | None) -> Target | None:
        """Find the one session that is meant.

        Raises:
            click.UsageError: there are several.
        """
        from advlock._inspect import _kill  # noqa: PLC0415 - not for --help
        from advlock.cli.locks import _pick  # noqa: PLC0415

        (word,) = self._sight.wanted([name])
        self._seen = self._sight.window.look()
        trees = _pick.chosen(self._seen, [word])[0].trees
        found = _kill.targets(trees, self._seen.trees, pid)
        if len({target.session.pid for target in found}) > 1:
            raise click.UsageError(_several(name, found, cancel=self._cancel))
        if not found:
            self._say_none(name, pid, trees)
            return None
        # Who shares it and wants it alone is both. What can be cancelled is that it waits.
        waiting = (one for one in found if self._cancel and one.session.waiting)
        self._target = next(waiting, found[0])
        return self._target

    def _say_none(self, name: str, pid: int | None, trees: Sequence[LockTree]) -> None:
        from advlock.cli.locks import _pick  # noqa: PLC0415 - not for --help

        shown = visible(name)
        if pid is not None and trees:
            say(f"session {pid} neither holds {shown} nor waits for it; see advlock ps")
            return
        close = _pick.close(name, self._seen.trees)
        meant = f"; did you mean {visible(' or '.join(close))}?" if close else ""
        say(f"nobody holds {shown}, so there is no session to end{meant}")

    def refuse(self) -> int | None:
        """Refuse what cannot work, and say why."""
        session = self._target.session
        if self._target.prepared:
            from advlock._inspect._why_words import literal  # noqa: PLC0415 - for few

            say(
                visible(
                    f"it is held by a transaction that was prepared for two-phase commit, which has"
                    f" no session. Ask whoever coordinates it, or type in its database: ROLLBACK"
                    f" PREPARED {literal(session.application)}"
                )
            )
            return self.finish("prepared", NOTHING)
        if self._cancel and self._target.idle:
            self.show()
            say(
                f"session {session.pid} is {session.state}: it runs nothing that could be"
                f" cancelled, and keeps the lock. Leave out --cancel to end it"
            )
            return self.finish("idle", NOTHING)
        return None

    def show(self) -> None:
        """Show exactly what it is."""
        from advlock.cli.locks import _about  # noqa: PLC0415 - not for --help

        for line in _about.about(self._target, self._seen.at):
            say(line)

    def do(self) -> int:
        """Send the signal, if it still is what was shown, and wait for what comes of it."""
        from advlock._inspect import _kill  # noqa: PLC0415 - not for --help

        result = self._sight.window.ask(_kill.signal(self._target, cancel=self._cancel))
        if result.outcome == "forbidden":
            say(_forbidden(self._target, result))
            return self.finish("forbidden", NOT_ALLOWED)
        if result.outcome != "sent":
            say(f"{self._changed(result.outcome)}; nothing was done, look again: advlock ps")
            return self.finish(result.outcome, Exit.BUSY)
        still = self._wait()
        if still.locked:
            say(self._stubborn())
            return self.finish("pending", Exit.TIMED_OUT)
        done = "cancelled" if self._cancel else "ended"
        told = f"session {self._target.session.pid} has ended"
        if self._cancel:
            told = f"what session {self._target.session.pid} ran was cancelled"
        say(folded(f"{told}; {self._now()}"))
        return self.finish(done, 0)

    def _changed(self, outcome: str) -> str:
        pid = self._target.session.pid
        return {
            "gone": f"session {pid} has ended by itself",
            "another": f"{pid} is another session by now, or another client has it",
            "released": f"session {pid} has nothing to do with the lock any more",
            "ourselves": f"session {pid} is the one that asks",
        }[outcome]

    def _wait(self) -> Still:
        from advlock._inspect import _kill  # noqa: PLC0415 - not for --help

        until = time.monotonic() + _PATIENCE
        while True:
            still = self._sight.window.ask(_kill.still(self._target))
            if not still.locked or time.monotonic() > until:
                return still
            time.sleep(_PAUSE)

    def _stubborn(self) -> str:
        session = self._target.session
        if self._cancel and not session.waiting:
            return (
                f"what session {session.pid} ran was cancelled, if it ran anything, and it keeps"
                " the lock: only one that belongs to a transaction ends with that. Leave out"
                " --cancel to end the session"
            )
        return (
            f"session {session.pid} was told to, and {_PATIENCE:g} s later it has not let go: it"
            " ends when the server process next looks, which it cannot do while it waits for the"
            " disk or is stuck in foreign code. See advlock ps; do not kill -9 it, which would"
            " restart the whole server"
        )

    def _now(self) -> str:
        """Say who has the lock now."""
        from advlock._inspect import _kill  # noqa: PLC0415 - not for --help
        from advlock._inspect import _why_words as words  # noqa: PLC0415 - not for --help
        from advlock._inspect._why import called  # noqa: PLC0415

        was, gone = self._target.tree, self._target.session
        until = time.monotonic() + _HANDOVER
        while True:
            trees = self._sight.window.look().trees
            now = next((tree for tree in trees if _kill.address(tree) == _kill.address(was)), None)
            if (now and now.holders) or not self._target.heirs or time.monotonic() > until:
                break
            time.sleep(_PAUSE)
        self._report["now"] = now
        name = called(was)
        if now is None or not now.holders:
            return f"{name} is free"
        told = f"{name} is held by {words.some(now.holders)} now"
        same = [one for one in now.holders if (one.host, one.process) == (gone.host, gone.process)]
        if same and gone.host and not gone.waiting:
            told += ": the same program has taken it again; stop that first"
        return told

    def finish(self, outcome: str, code: int) -> int:
        """Tell programs what came of it."""
        if self._as_json:
            from advlock.cli.locks import _json  # noqa: PLC0415 - for those who ask for it

            target: Target | None = getattr(self, "_target", None)
            now = self._report.get("now")
            click.echo(
                _json.text_of(
                    {
                        "outcome": outcome,
                        "lock": None if target is None else _json.of_tree(target.tree),
                        "session": None if target is None else _json.of_session(target.session),
                        "also_held": [] if target is None else [*map(_json.of_tree, target.others)],
                        "now": None if now is None else _json.of_tree(now),
                    }
                )
            )
        return code


def _several(name: str, found: Sequence[Target], *, cancel: bool) -> str:
    from advlock._inspect import _why_words as words  # noqa: PLC0415 - not for --help
    from advlock._inspect._why import spelled  # noqa: PLC0415

    flags = " --cancel" if cancel else ""
    one_lock = len({id(target.tree) for target in found}) == 1
    lines = [f"{visible(name)} means {len(found)} sessions; choose one:"]
    for target in found:
        tree = target.tree
        lock = spelled(tree) if one_lock else f"{tree.classid}/{tree.objid}/{tree.objsubid}"
        which = f"advlock kill{flags} --pid {target.session.pid} {lock}"
        if target.prepared:
            which = f"in psql: ROLLBACK PREPARED {words.literal(target.session.application)}"
        lines.append(folded(f"{which}  ({words.who(target.session)})"))
    return "\n  ".join(lines)


def _forbidden(target: Target, result: Signalled) -> str:
    pid = target.session.pid
    if result.superuser:
        return visible(
            f"session {pid} belongs to a superuser ({result.owner}), and only a superuser may end"
            f" it; this is {result.role}: name another role in --dsn"
        )
    return visible(
        f"{result.role} may not end sessions of {result.owner}. A superuser allows it with: GRANT"
        f" pg_signal_backend TO {result.role}; or makes it a member of that role: GRANT"
        f" {result.owner} TO {result.role}"
    )
