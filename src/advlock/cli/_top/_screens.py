"""What lies on top of the table: details in full, the keys, the question before the deed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from advlock.cli._top._detail import Fact
from advlock.cli._top._panes import Facts
from advlock.cli.locks import _about
from advlock.cli.locks._table import name_of
from advlock.cli.locks._text import folded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from textual import events
    from textual.app import ComposeResult

    from advlock._inspect._kill import Target

Deed = Literal["", "cancel", "terminate"]

KEYS: Final = (
    ("↑ ↓ PgUp PgDn", "move the cursor; it stays on its lock when rows move"),
    ("Enter", "all details of what is under the cursor"),
    ("i", "show or hide the details beside the table"),
    ("/", "filter: every word must be found; Enter keeps it, Escape clears it"),
    ("w", "only locks that somebody waits for"),
    ("a", "the locks of all databases"),
    ("s < >", "sort by longest wait, age, name, or number of waiters"),
    ("r", "sort the other way round"),
    ("← → t", "fold the sessions of a lock away, show them, either"),
    ("k", "end the session under the cursor, or what it runs; asks first"),
    ("y", "copy the SQL that ends it"),
    ("Space", "pause: the picture stays as it is"),
    ("- +", "look more often, less often"),
    ("d", "dark or light"),
    ("? h", "this"),
    ("q Ctrl+C", "quit"),
)
_KEY_COLUMN: Final = 16
_TOPIC_COLUMN: Final = 13
_BESIDE_FACTS: Final = 7  # lines of the question that are no facts: its frame, lock and buttons
_ROLES: Final = {"then": "waiting", "flags": "stuck", "beware": "stuck", "query": "sql"}


class Full(ModalScreen[None]):
    """Facts with all the room there is; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,h", "close", "Close", show=False),
    ]

    def __init__(self, title: str, facts: Sequence[Fact], *, label: int | None = None) -> None:
        super().__init__()
        self.follows = label is None  # whether it is about what is under the cursor
        self._title = title
        self._facts = Facts(facts) if label is None else Facts(facts, label=label, role="key")

    def compose(self) -> ComposeResult:
        """A box that scrolls."""
        with VerticalScroll(classes="box") as box:
            box.border_title = Content(self._title)  # not markup
            box.border_subtitle = "Esc: back"
            yield self._facts

    def tell(self, facts: Sequence[Fact]) -> None:
        """Show how it stands now."""
        self._facts.tell(facts)

    def action_close(self) -> None:
        """Go back to the table."""
        self.dismiss()


def help_screen() -> Full:
    """The keys."""
    facts = [Fact(key, text) for key, text in KEYS]
    return Full("advlock top: keys", facts, label=_KEY_COLUMN)


class Kill(ModalScreen[Deed]):
    """Shows exactly whom it would meet, and does nothing unless told to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n,q", "answer('')", "No", show=False),
        Binding("c", "answer('cancel')", "Cancel", show=False),
        Binding("t", "answer('terminate')", "Terminate", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    def __init__(self, target: Target, at: datetime) -> None:
        super().__init__()
        self._target, self._at = target, at

    def compose(self) -> ComposeResult:
        """The facts, and three buttons: the first of them, which has the focus, does nothing."""
        one, tree = self._target.session, self._target.tree
        verb = "waits for" if one.waiting else "shares" if one.shared else "holds"
        with Vertical(classes="box -danger") as box:
            box.border_title = Content(f"End server session {one.pid}?")  # not markup
            yield Static(Content.styled(f"It {verb} {name_of(tree)}.", "bold"), classes="about")
            with VerticalScroll(classes="facts", can_focus=False):
                yield Facts(question(self._target, self._at), label=_TOPIC_COLUMN)
            with Horizontal(classes="buttons"):
                yield Button("No (n)", id="no", compact=True)
                yield Button(
                    "Cancel its statement (c)",
                    id="cancel",
                    variant="warning",
                    compact=True,
                    disabled=self._target.idle,
                )
                yield Button("Terminate it (t)", id="terminate", variant="error", compact=True)

    def on_mount(self) -> None:
        """Enter means no."""
        self.query_one("#no").focus()

    def on_resize(self, event: events.Resize) -> None:
        """Let the facts scroll before the buttons are out of sight."""
        room = event.size.height - _BESIDE_FACTS
        self.query_one(".facts").styles.max_height = max(room, 1)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do what the button says."""
        deeds: dict[str | None, Deed] = {"cancel": "cancel", "terminate": "terminate"}
        self.action_answer(deeds.get(event.button.id, ""))

    def action_answer(self, deed: Deed) -> None:
        """Close with an answer."""
        if deed == "cancel" and self._target.idle:
            return
        self.dismiss(deed)


def question(target: Target, at: datetime) -> list[Fact]:
    """What one has to know before one ends a session: what `advlock kill` shows."""
    said = [
        Fact(topic, folded(fact), _ROLES.get(topic, ""))
        for topic, fact in _about._facts(target, at)
        if fact
    ]
    if target.idle:
        said.append(Fact("cancel", "it runs nothing, so there is nothing to cancel"))
    return said
