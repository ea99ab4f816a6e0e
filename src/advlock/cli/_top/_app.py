"""`advlock top` on the screen: the keys, and what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import Binding, BindingType

from advlock.cli._top import _deed as deeds
from advlock.cli._top._detail import facts, free_sql, heading
from advlock.cli._top._picture import DARK, LIGHT, Picture
from advlock.cli._top._screens import Full, Kill, help_screen
from advlock.cli._top._view import lock_id

if TYPE_CHECKING:
    from textual.widgets import Input

    from advlock.cli._top._screens import Deed
    from advlock.cli._top._table import Table

EVERY: Final = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds: what + and - choose from


class Top(Picture):
    """The application."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause", key_display="space"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("f3,f4", "filter", "Filter", show=False),
        Binding("s", "sort(1)", "Sort"),
        Binding("greater_than_sign", "sort(1)", "Sort", show=False),
        Binding("less_than_sign", "sort(-1)", "Sort back", show=False),
        Binding("r", "backwards", "Reverse", show=False),
        Binding("w", "waiting", "Waiters"),
        Binding("enter", "full", "Details", key_display="↵"),
        Binding("i", "details", "Details beside", show=False),
        Binding("a", "databases", "All databases", show=False),
        Binding("t", "fold('')", "Fold", show=False),
        Binding("left", "fold('away')", "Fold", show=False),
        Binding("right", "fold('back')", "Unfold", show=False),
        Binding("k", "kill", "Kill"),
        Binding("f9", "kill", "Kill", show=False),
        Binding("y", "copy", "Copy the SQL", show=False),
        Binding("plus,equals_sign", "slower(1)", "Slower", show=False),
        Binding("minus", "slower(-1)", "Faster", show=False),
        Binding("d", "theme", "Dark or light", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("h,f1", "help", "Help", show=False),
        Binding("escape", "clear", "Clear the filter", show=False),
        Binding("q", "quit", "Quit"),
        Binding("f10", "quit", "Quit", show=False),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False),
    ]

    # -- how it is looked at -----------------------------------------------------------------------

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self.feed.paused = not self.feed.paused
        if not self.feed.paused:
            self.feed.look_now()
        self.show_head()

    def action_slower(self, step: int) -> None:
        """Look less often, or more often."""
        nearest = min(EVERY, key=lambda every: abs(every - self.feed.every))
        place = EVERY.index(nearest) + step
        self.feed.every = EVERY[max(min(place, len(EVERY) - 1), 0)]
        self.look_now()

    def action_databases(self) -> None:
        """Look at the locks of all databases, or of this one only."""
        self.feed.all_databases = not self.feed.all_databases
        self.look_now()

    def action_sort(self, step: int) -> None:
        """Sort by something else."""
        self.view.next_sort(step)
        self.show()

    def on_table_head_clicked(self, event: Table.HeadClicked) -> None:
        """Sort by the column; if it is that already, the other way round."""
        self.view.backwards = event.sort == self.view.sort and not self.view.backwards
        self.view.sort = event.sort
        self.show()

    def action_backwards(self) -> None:
        """Sort the other way round."""
        self.view.backwards = not self.view.backwards
        self.show()

    def action_waiting(self) -> None:
        """Show only locks that somebody waits for, or all."""
        self.view.waiting = not self.view.waiting
        self.show()

    def action_fold(self, way: str) -> None:
        """Fold the sessions of the lock under the cursor `away`, or `back`; '': the other way."""
        if (row := self.table.row) is None:
            return
        lock = lock_id(row.tree)
        away = way == "away" or (not way and lock not in self.view.folded)
        (self.view.folded.add if away else self.view.folded.discard)(lock)
        self.show()

    def action_theme(self) -> None:
        """Dark, or light."""
        self.theme = DARK if self.theme == LIGHT else LIGHT

    # -- the filter --------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Ask for words."""
        self.filter.add_class("-open")
        self.filter.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while one types."""
        self.view.words = tuple(event.value.lower().split())
        self.show()

    def on_input_submitted(self) -> None:
        """Go on with what is left."""
        self.action_keep_filter()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key means something: while one types a filter, `/` is a character."""
        if action == "filter" and self.filter.has_focus:
            return False
        return super().check_action(action, parameters)

    def action_keep_filter(self) -> None:
        """Go back to the table, which stays filtered."""
        self.filter.remove_class("-open")
        self.table.focus()

    def action_clear(self) -> None:
        """Show everything again."""
        self.filter.value = ""
        self.action_keep_filter()

    # -- what is on top ----------------------------------------------------------------------------

    def action_details(self) -> None:
        """Show or hide the details beside the table."""
        self.hides_details = not self.details.has_class("-off")
        self.place_details(self.size.width, self.size.height)

    def action_full(self) -> None:
        """Show the details with all the room there is."""
        if self.table.row is not None and self.seen is not None:
            row = self.table.row
            self.push_screen(Full(heading(row), facts(row, self.seen)))

    def on_table_chosen(self) -> None:
        """Do the same when a row is clicked again."""
        self.action_full()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(help_screen())

    def action_copy(self) -> None:
        """Copy the statement that ends what is under the cursor."""
        if self.table.row is not None and (sql := "; ".join(free_sql(self.table.row))):
            self.copy_to_clipboard(sql)
            self.notify(f"copied: {sql}", markup=False)

    # -- ending a session --------------------------------------------------------------------------

    def action_kill(self) -> None:
        """Ask whether the session under the cursor is to end, if it is clear which that is."""
        if self.everything is None or self.seen is None:
            return
        target = deeds.target_of(self.table.row, self.everything)
        if isinstance(target, str):
            self.notify(target, severity="warning", markup=False)
            return

        def answered(deed: Deed | None) -> None:
            if deed:
                self.do(target, cancel=deed == "cancel")
            self.look_again()

        self.push_screen(Kill(target, self.seen.at), answered)
