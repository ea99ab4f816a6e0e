"""The table: rows are drawn when they are seen, so ten thousand cost no more than twenty."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from advlock.cli._top._columns import GAP, Cell, Column, fit
from advlock.cli.locks._text import shortened

if TYPE_CHECKING:
    from datetime import datetime

    from textual import events

    from advlock.cli._top._view import Row

_MARGIN = 1
_NOTHING = 2  # the line that says so where there is no row


class Table(ScrollView, can_focus=True):
    """Rows below a head that stays, and a cursor that stays on its row when rows move."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"table--{role}"
        for role in ("head", "sorted", "cursor", "name", "less", "waiting", "stuck", "odd")
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1_000_000)", "First", show=False),
        Binding("end", "move(1_000_000)", "Last", show=False),
    ]

    class Moved(Message):
        """The cursor is on another row, or the row has changed."""

    class Chosen(Message):
        """The row with the cursor was clicked."""

    class HeadClicked(Message):
        """The head of a column that one can sort by was clicked."""

        def __init__(self, sort: str) -> None:
            super().__init__()
            self.sort = sort

    def __init__(self) -> None:
        super().__init__(id="table")
        self.rows: list[Row] = []
        self.cursor = 0
        self.sort = ""
        self.databases = False
        self.nothing = ""
        self._at: datetime | None = None
        self._columns: list[Column] = []

    @property
    def row(self) -> Row | None:
        """The row with the cursor."""
        return self.rows[self.cursor] if self.rows else None

    # -- what is shown -----------------------------------------------------------------------------

    def show(self, rows: list[Row], at: datetime) -> None:
        """Show other rows; the cursor stays on its own, and that at its place on the screen."""
        before, index = self.row, self.cursor
        self.rows, self._at = rows, at
        self.cursor = self._place_of(before)
        top = round(self.scroll_offset.y)
        self.virtual_size = Size(0, len(rows) + 1)
        # Scrolled down, what one reads must not move; at the top, news must come in sight.
        self._scroll(top + self.cursor - index if top else 0)
        self.refresh()
        self.post_message(self.Moved())

    def _place_of(self, before: Row | None) -> int:
        """Where a row is now; where it is gone, its lock; where that is, too, the same place."""
        if before is None or not self.rows:
            return 0
        places = {row.id: place for place, row in reversed(list(enumerate(self.rows)))}
        lock = (before.id[0], None, None)
        here = min(self.cursor, len(self.rows) - 1)
        return places.get(before.id, places.get(lock, here))

    def lay_out(self) -> None:
        """Choose the columns anew."""
        self._columns = fit(self._width, databases=self.databases)
        self.refresh()

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width - 2 * _MARGIN

    def on_resize(self) -> None:
        """Fit the columns, and keep the cursor in sight."""
        self.lay_out()
        self._scroll(round(self.scroll_offset.y))

    # -- the cursor --------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        """Move the cursor by so many rows."""
        self.cursor = max(min(self.cursor + step, len(self.rows) - 1), 0)
        self._scroll(round(self.scroll_offset.y))
        self.refresh()
        self.post_message(self.Moved())

    def action_page(self, step: int) -> None:
        """Move the cursor by a screenful."""
        self.action_move(step * max(self._visible - 1, 1))

    @property
    def _visible(self) -> int:
        return max(self.scrollable_content_region.height - 1, 1)

    def _scroll(self, top: int) -> None:
        """Scroll to `top`, or as near to it as the cursor allows."""
        top = max(min(top, self.cursor), self.cursor - self._visible + 1, 0)
        self.scroll_to(y=top, animate=False, force=True, immediate=True)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to what was clicked; a second click opens it; a head sorts."""
        place = event.get_content_offset(self)
        if place is None:
            return
        if place.y == 0:
            if sort := self._sort_at(place.x):
                self.post_message(self.HeadClicked(sort))
            return
        index = round(self.scroll_offset.y) + place.y - 1
        if index >= len(self.rows):
            return
        if index == self.cursor:
            self.post_message(self.Chosen())
        self.action_move(index - self.cursor)

    def _sort_at(self, x: int) -> str:
        left = _MARGIN
        for column in self._columns:
            if left <= x < left + column.width + GAP:
                return column.sort
            left += column.width + GAP
        return ""

    # -- drawing -----------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """Draw one line: the head, or the row that is scrolled to there."""
        if not self._columns:
            self._columns = fit(self._width, databases=self.databases)
        width = self.size.width
        if y == 0:
            return self._strip(self._heads(), self._style("head"), width)
        index = round(self.scroll_offset.y) + y - 1
        if not self.rows and y == _NOTHING:
            return self._line(self.nothing)
        if index >= len(self.rows) or self._at is None:
            return Strip.blank(width, self.rich_style)
        base = self.rich_style
        if index == self.cursor:
            base = self._style("cursor")
        cells = [column.cell(self.rows[index], self._at) for column in self._columns]
        return self._strip(cells, base, width, keep_colour=index == self.cursor)

    def _line(self, text: str) -> Strip:
        style = self.rich_style + self._style("less")
        strip = Strip([Segment(shortened(text, self._width).center(self._width + 2), style)])
        return strip.adjust_cell_length(self.size.width, self.rich_style)

    def _heads(self) -> list[Cell]:
        sorted_by = self.sort if self.sort != "wait" else ""
        return [
            Cell(column.head, "sorted" if column.sort and column.sort == sorted_by else "head")
            for column in self._columns
        ]

    def _style(self, role: str) -> Style:
        """What a role adds to a line, whose ground stays."""
        whole = self.get_component_rich_style(f"table--{role}")
        return whole if role == "cursor" else Style(color=whole.color, bold=whole.bold or None)

    def _strip(
        self, cells: list[Cell], base: Style, width: int, *, keep_colour: bool = False
    ) -> Strip:
        base = self.rich_style + base
        segments = [Segment(" " * _MARGIN, base)]
        for column, cell in zip(self._columns, cells, strict=True):
            style = base
            if cell.role and not (keep_colour and cell.role in {"less", "name"}):
                style = base + self._style(cell.role)
            segments += [Segment(_sized(cell.text, column), style), Segment(" " * GAP, base)]
        return Strip(segments).adjust_cell_length(width, base)


def _sized(text: str, column: Column) -> str:
    """Exactly as wide as its column."""
    text = shortened(text, column.width)
    # By Rich's idea of widths, which is the one that the rest of the screen is laid out by.
    sized = set_cell_size(text, column.width)
    spare = len(sized) - len(text)
    return " " * spare + text if column.right and spare > 0 else sized
