"""Look again and again, on a terminal or into a pipe, until somebody has seen enough."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from advlock.cli._say import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._inspect._tree import Snapshot

# Home first and to the end of the screen last: nothing flickers. No other mode of the terminal is
# touched, so that however we end, there is nothing to put back.
_CLEAR: Final = "\x1b[H\x1b[2J"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_RESET: Final = "\x1b[0m\n"  # in case that something was half written


def watch(
    look: Callable[[], Snapshot],
    draw: Callable[[Snapshot | None, str | None], list[str]],
    seconds: float,
    *,
    screen: bool,
) -> int:
    """Look every so many seconds; a server that is away is tried again.

    Args:
        look: What to do each time. The first time it has to succeed.
        draw: Makes the lines of what was seen last, with why nothing was seen since, if so.
        seconds: The pause.
        screen: Whether to draw each over the last.
    """
    if not screen:
        return _into_a_pipe(look, draw, seconds)
    from advlock.errors import DatabaseUnavailable  # noqa: PLC0415 - not for --help

    last = None
    trouble = None
    start = _CLEAR
    try:
        while True:
            try:
                last, trouble = look(), None
            except DatabaseUnavailable as error:
                if last is None:
                    raise
                trouble = str(error)
            _show(draw(last, trouble), start)
            start = _HOME
            if _pause(seconds):
                return 0
    except KeyboardInterrupt:
        sys.stdout.write(_RESET)
        raise


def on_screen() -> bool:
    """Whether stdout is a terminal on which the cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _into_a_pipe(
    look: Callable[[], Snapshot],
    draw: Callable[[Snapshot | None, str | None], list[str]],
    seconds: float,
) -> int:
    from advlock.errors import DatabaseUnavailable  # noqa: PLC0415 - not for --help

    last = None
    lost = False
    while True:
        try:
            last = look()
        except DatabaseUnavailable as error:
            if last is None:
                raise
            if not lost:
                say(f"lost the database, trying again: {error}")
            lost = True
        else:
            if lost:
                say("the database is back")
            lost = False
            click.echo("\n".join(draw(last, None)))
        time.sleep(seconds)


def _show(lines: list[str], start: str) -> None:
    """Draw a screenful in one write."""
    context = click.get_current_context(silent=True)
    if context is not None and context.color is False:  # click would take the cursor's, too
        lines = [click.unstyle(line) for line in lines]
    drawn = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
    sys.stdout.write(start + drawn + _REST_OF_SCREEN)
    sys.stdout.flush()


def _pause(seconds: float) -> bool:
    """Wait; on a terminal Enter looks at once, and q with Enter ends it."""
    until = time.monotonic() + seconds
    while sys.stdin is not None and sys.stdin.isatty():
        left = until - time.monotonic()
        if left <= 0:
            return False
        # In slices: Ctrl-C just before a wait begins is heard at its end only.
        if not select.select([sys.stdin], [], [], min(left, 1.0))[0]:
            continue
        line = sys.stdin.readline()
        if not line:  # closed: nobody will type any more
            break
        return line.strip().casefold() in {"q", "quit"}
    time.sleep(max(0.0, until - time.monotonic()))
    return False
