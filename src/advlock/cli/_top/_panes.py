"""What stands around the table: the head, and the facts about what is under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from advlock.cli._top._detail import LABEL, Fact
from advlock.cli.locks._text import shortened, width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advlock.cli._top._headline import Part

# Styles of the theme, by what a text means. Given as styles: foreign text is never markup.
STYLES: Final = {
    "": "",
    "less": "$foreground 60%",
    "sql": "$text-success",
    "stuck": "bold $text-error",
    "waiting": "$text-warning",
    "key": "bold $text-primary",
    "title": "bold",
}


def content(facts: Sequence[Fact], columns: int, label: int, role: str) -> Content:
    """Lay out facts in so many cells: labels, and texts that stay clear of them."""
    lines = []
    for fact in facts:
        indent = label if fact.label else 0
        text = Content.styled(fact.text, STYLES[fact.role])
        for number, line in enumerate(text.wrap(max(columns - indent, 20))):
            head = fact.label if number == 0 else ""
            space = " " * (indent - width(head))
            lines.append(Content.assemble((head, STYLES[role]), space, line))
    return Content("\n").join(lines)


class Facts(Static):
    """Facts, laid out anew when there is more or less room."""

    def __init__(
        self, facts: Sequence[Fact] = (), *, label: int = LABEL, role: str = "less"
    ) -> None:
        super().__init__(markup=False)
        self._facts, self._label, self._role = facts, label, role

    def tell(self, facts: Sequence[Fact]) -> None:
        """Show other facts."""
        if facts != self._facts:
            self._facts = facts
            self._lay_out()

    def on_resize(self) -> None:
        """Wrap the lines anew."""
        self._lay_out()

    def _lay_out(self) -> None:
        if self.size.width:
            self.update(content(self._facts, self.size.width, self._label, self._role))


class Details(VerticalScroll):
    """The facts about what is under the cursor, beside the table or below it."""

    def __init__(self) -> None:
        super().__init__(id="details")
        self._facts = Facts()

    def compose(self) -> list[Facts]:
        """Have them in here."""
        return [self._facts]

    def tell(self, heading: str, facts: Sequence[Fact]) -> None:
        """Show the facts about something."""
        title = Content(shortened(heading, max(self.size.width - 6, 10)))
        if self.border_title != title.markup:
            self.scroll_home(animate=False)
        self.border_title = title  # Content is no markup
        self._facts.tell(facts)


class Head(Static):
    """The lines at the top: left what is there, right how one looks at it."""

    def __init__(self) -> None:
        super().__init__(id="head", markup=False)
        self._lines: list[tuple[list[Part], list[Part]]] = []

    def tell(self, lines: list[tuple[list[Part], list[Part]]]) -> None:
        """Show other lines."""
        if lines != self._lines:
            if len(lines) != len(self._lines):
                self.styles.height = len(lines)
            self._lines = lines
            self.on_resize()

    def on_resize(self) -> None:
        """Put what stands right at the right again; what stands left gives way."""
        if columns := self.size.width:
            self.update(Content("\n").join(_line(*line, columns) for line in self._lines))


def _line(left: list[Part], right: list[Part], columns: int) -> Content:
    room = columns - sum(width(part.text) for part in right) - 1
    shown: list[tuple[str, str]] = []
    for part in left:
        text = shortened(part.text, max(room, 0))
        room -= width(text)
        shown.append((text, STYLES[part.role]))
    ends = [(part.text, STYLES[part.role]) for part in right]
    return Content.assemble(*shown, " " * (max(room, 0) + 1), *ends)
