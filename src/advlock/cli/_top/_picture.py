"""What the feed tells, on the screen: the table, its head, and the details. Without any keys."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from textual.app import App, ScreenStackError
from textual.containers import Container
from textual.message import Message
from textual.widgets import Footer, Static

from advlock._inspect import _kill
from advlock.cli._top import _deed as deeds
from advlock.cli._top import _feed as feeds
from advlock.cli._top._detail import facts, heading
from advlock.cli._top._filter import Filter
from advlock.cli._top._headline import Look, head
from advlock.cli._top._panes import Details, Head
from advlock.cli._top._screens import Full, Kill
from advlock.cli._top._table import Table
from advlock.cli._top._view import View
from advlock.cli.locks._text import visible

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from textual import events
    from textual.app import ComposeResult

    from advlock._inspect._kill import Target
    from advlock._inspect._tree import Snapshot

_BESIDE: Final = 140  # columns from which on there is room for the details beside the table
_BELOW: Final = 18  # lines from which on there is room for them below it
_TICK: Final = 0.25  # seconds between two looks at how old the picture is
_SOON: Final = 0.05  # seconds until the next look, while a session is about to end
DARK: Final = "textual-dark"
LIGHT: Final = "textual-light"


class Heard(Message):
    """There is news from the feed."""

    def __init__(self, news: feeds.News) -> None:
        super().__init__()
        self.news = news


class Options(NamedTuple):
    """How to begin.

    Attributes:
        every: Seconds between two looks.

        waiting: Only locks that somebody waits for.

        all_databases: The locks of all databases.

        light: Dark text on a light ground.

        named: How many locks were asked for by name; 0 for all.
    """

    every: float = 1.0
    waiting: bool = False
    all_databases: bool = False
    light: bool = False
    named: int = 0


class Picture(App[None]):
    """The application, but for what can be done with it.

    Args:
        opened: Connects; told whether to look at the locks of all databases.

        options: How to begin.

        pick: Keeps the locks that were asked for.

    Attributes:
        everything: What was seen last.

        seen: Of that, the locks that were asked for.

        failure: What ended it, if that was an error.

        signum: What ended it, if that was a signal.
    """

    TITLE = "advlock top"
    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self,
        opened: Callable[[bool], AbstractContextManager[feeds.Source]],
        options: Options | None = None,
        pick: Callable[[Snapshot], Snapshot] | None = None,
    ) -> None:
        super().__init__()
        self.options = options or Options()
        self.failure: Exception | None = None
        self.signum: int | None = None
        self.everything: Snapshot | None = None
        self.seen: Snapshot | None = None
        self.view = View(waiting=self.options.waiting)
        self.feed = feeds.Feed(
            opened,
            self._hear,
            every=self.options.every,
            all_databases=self.options.all_databases,
        )
        self.hides_details: bool | None = None  # None: as there is room
        self._pick = pick
        self._heard_at = 0.0
        self._trouble = ""
        self._once = True  # whether a picture is wanted, though the app is paused
        self._kept: Snapshot | None = None  # what came while a question was open
        self._asked: list[deeds.Doing] = []  # not answered yet, so no look tells what came of it
        self._doing: list[deeds.Doing] = []
        # Kept, because what is on top of the screen hides them from a query.
        self.head, self.hidden = Head(), Static(id="hidden", markup=False)
        self.table, self.details, self.filter = Table(), Details(), Filter()
        self.body = Container(id="body")
        self.theme = LIGHT if self.options.light else DARK

    def _hear(self, news: feeds.News) -> None:
        # Called in the feed's thread, to which nobody listens any more once the screen is gone.
        with contextlib.suppress(RuntimeError):
            self.post_message(Heard(news))

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield self.head
        yield self.hidden
        with self.body:
            yield self.table
            yield self.details
        yield self.filter
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to ask."""
        self.table.focus()
        self.set_interval(_TICK, self.show_head)
        self.show_head()
        self._obey_signals()
        self.feed.start()

    def _obey_signals(self) -> None:
        """End as with `q` when told to by a signal, so that the terminal is left as it was."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Only the main thread can; elsewhere nobody sends us any.
            with contextlib.suppress(RuntimeError, ValueError):
                loop.add_signal_handler(signum, self._on_signal, signum)

    def _on_signal(self, signum: int) -> None:
        self.signum = signum
        self.exit()

    def on_resize(self, event: events.Resize) -> None:
        """Put the details where there is room for them."""
        self.place_details(event.size.width, event.size.height)

    def place_details(self, columns: int, lines: int) -> None:
        beside = columns >= _BESIDE
        self.body.set_class(beside, "-beside")
        self.body.set_class(not beside, "-below")
        hidden = self.hides_details
        if hidden is None:
            hidden = not beside and lines < _BELOW
        self.details.set_class(hidden, "-off")

    # -- news --------------------------------------------------------------------------------------

    def on_heard(self, event: Heard) -> None:
        """Show what the feed has heard."""
        if not self.shown:
            return
        match event.news:
            case feeds.Seen(snapshot):
                self._on_seen(snapshot)
            case feeds.Lost(error):
                self._trouble = str(error)
                if self.seen is None:
                    self._fail(error)
            case feeds.Failed(error):
                self._fail(error)
            case feeds.Answered(plan, verdict):
                self._on_answer(plan, verdict)
        self.show_head()

    @property
    def shown(self) -> bool:
        """Whether there is a screen still; the feed may tell something a moment later."""
        try:
            return self.screen is not None
        except ScreenStackError:
            return False

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.exit()

    def _on_seen(self, snapshot: Snapshot) -> None:
        self._trouble = ""
        if isinstance(self.screen, Kill):
            self._kept = snapshot
            return
        if self.feed.paused and not self._once:
            return
        self._once = False
        self.everything, self.seen = snapshot, self._pick(snapshot) if self._pick else snapshot
        self._heard_at = time.monotonic()
        self.show()
        self._see_what_came_of(snapshot)

    def show(self) -> None:
        if self.seen is None:
            return
        self.table.databases = self.feed.all_databases
        self.table.sort = self.view.sort
        self.table.nothing = self.view.nothing(self.seen)
        self.table.lay_out()
        self.table.show(self.view.rows(self.seen), self.seen.at)
        self.hidden.display = bool(self.seen.hidden)
        self.hidden.update("; ".join(map(visible, self.seen.hidden)))
        self.show_head()

    def show_head(self) -> None:
        look = Look(
            every=self.feed.every,
            all_databases=self.feed.all_databases,
            names=self.options.named,
            paused=self.feed.paused,
            silent=self.feed.silent_for(),
            age=time.monotonic() - self._heard_at,
            trouble=self._trouble,
        )
        self.head.tell(head(self.seen, self.view, look))
        self.table.set_class(look.stale, "-stale")

    def on_table_moved(self) -> None:
        """Tell about what is under the cursor now."""
        row, seen = self.table.row, self.seen
        if row is None or seen is None:
            self.details.tell("", [])
            return
        about = facts(row, seen)
        self.details.tell(heading(row), about)
        if isinstance(self.screen, Full) and self.screen.follows:
            self.screen.tell(about)

    # -- what was done -----------------------------------------------------------------------------

    def do(self, target: Target, *, cancel: bool) -> None:
        """End a session, or what it runs; what came of it is told later."""
        plan = _kill.signal(target, cancel=cancel)
        self._asked.append(deeds.Doing(target, cancel, plan, time.monotonic()))
        self._once = True
        self.feed.do(plan)

    def _on_answer(self, plan: object, verdict: Any) -> None:
        doing = next(one for one in self._asked if one.plan is plan)
        self._asked.remove(doing)
        if isinstance(verdict, Exception):
            text = f"nobody knows whether that was done: {verdict}"
        elif verdict.outcome == "forbidden":
            from advlock.cli.kill import _forbidden  # noqa: PLC0415 - only where need be

            text = _forbidden(doing.target, verdict)
        elif not (text := deeds.refused(doing, verdict)):
            self._doing.append(doing)
            self._once = True  # the feed looks at once
            return
        self.notify(visible(text), severity="error", markup=False, timeout=10)

    def _see_what_came_of(self, snapshot: Snapshot) -> None:
        for doing in [*self._doing]:
            came = deeds.outcome(doing, snapshot, time.monotonic())
            if came is None:
                self.set_timer(_SOON, self.look_now)
                continue
            self._doing.remove(doing)
            text, done = came
            self.notify(
                text, severity="information" if done else "warning", markup=False, timeout=10
            )

    def look_now(self) -> None:
        """Look at once, also while paused."""
        self._once = True
        self.feed.look_now()
        self.show_head()

    def look_again(self) -> None:
        """Show what came while a question was open."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._on_seen(kept)
