"""Where the filter is typed."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input


class Filter(Input):
    """A line for words; what to do with them is the application's."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep it", key_display="↵"),
        Binding("escape", "app.clear", "Clear it"),
        Binding("down,up", "app.keep_filter", "To the table", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(
            id="filter",
            placeholder="filter: words in names, keys, sessions …",
            compact=True,
            select_on_focus=False,
        )
