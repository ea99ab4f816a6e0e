"""Run the screen without a terminal, read what it shows, and show it pictures made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from waiting import aeventually

from advlock import Key
from advlock._dsn import Dsn
from advlock._holder import Holder, Waiter
from advlock._inspect._tree import LockTree, Snapshot
from advlock.cli._top._app import Top
from advlock.cli._top._picture import Options
from advlock.cli.top import _Door

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    import psycopg
    from textual.pilot import Pilot

NOW = datetime(2026, 11, 26, 3, 0, 0, tzinfo=UTC)
SMALL, LARGE = (80, 24), (200, 60)


def ago(seconds: float) -> datetime:
    """So long before the picture."""
    return NOW - timedelta(seconds=seconds)


def holder(pid: int, host: str = "web-1", **more: Any) -> Holder:
    """One that holds."""
    return Holder(pid, **{"host": host, "process": pid + 1, "user": "app", "state": "idle"} | more)


def waiter(pid: int, waits: float, **more: Any) -> Waiter:
    """One that waits since so many seconds."""
    about = {"host": "web-9", "process": pid + 1, "user": "app", "state": "active"}
    return Waiter(pid, since=ago(waits), **about | more)


def tree(name: str | None, *sessions: Holder, number: int = 0, **more: Any) -> LockTree:
    """A lock, held and waited for by these."""
    key = Key.of(name if name is not None else number)
    kind = "recorded" if name is not None else "unknown"
    return LockTree(
        key.classid,
        key.objid,
        key.objsubid,
        **{
            "key": key,
            "database": "shop",
            "name": name,
            "kind": kind,
            "holders": tuple(one for one in sessions if not one.waiting),
            "waiters": tuple(one for one in sessions if isinstance(one, Waiter)),
        }
        | more,
    )


def snapshot(*trees: LockTree, **more: Any) -> Snapshot:
    """A picture."""
    return Snapshot(**{"at": NOW, "database": "shop", "role": "oncall", "trees": trees} | more)


USUAL = snapshot(
    tree("nightly", holder(10, since=ago(720)), waiter(11, 700), waiter(12, 60)),
    tree("books", holder(20, "db-1", flags=("idle-in-transaction",)), waiter(21, 90)),
    tree("import", holder(30, shared=True), holder(31, "web-2", shared=True), waiter(32, 5)),
    tree("deploy", holder(40, "ci-7", since=ago(95))),
    tree(None, holder(50, host=None, application="psql"), number=42),
)


def is_idle(admin: psycopg.Connection[Any], pid: int) -> bool:
    """Tell whether a server process has had nothing to do for a while."""
    query = """SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'idle'
        AND state_change < clock_timestamp() - interval '0.5 s'"""
    return admin.execute(query, [pid]).fetchone() is not None


class ByHand:
    """Answers with whatever picture is put here; `block` keeps an answer back."""

    def __init__(self, seen: Snapshot = USUAL) -> None:
        self.seen = seen
        self.error: Exception | None = None
        self.asked: list[bool] = []
        self.looks = 0
        self.gate = threading.Event()
        self.gate.set()

    @contextlib.contextmanager
    def opened(self, all_databases: bool) -> Iterator[ByHand]:
        """Connect."""
        self.asked.append(all_databases)
        yield self

    def look(self) -> Snapshot:
        """Tell what is there now."""
        self.looks += 1
        self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.seen

    def ask(self, plan: Any) -> Any:
        """Nothing but looking is possible here."""
        raise NotImplementedError


class Screen:
    """A running application, and what it shows."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        await self.pilot.press(*keys)
        # Twice: what a key does may send messages of its own.
        await self.pilot.pause()
        await self.pilot.pause()

    @property
    def lines(self) -> list[str]:
        """Every line of what is on top, as it stands on the screen."""
        compositor = self.app.screen._compositor
        return ["".join(part.text for part in strip) for strip in compositor.render_strips()]

    @property
    def text(self) -> str:
        """The same in one piece."""
        return "\n".join(self.lines)

    @property
    def table(self) -> list[str]:
        """The lines of the table below its head."""
        region = self.app.table.region
        rows = self.lines[region.y + 1 : region.bottom]
        return [row[region.x : region.right].rstrip() for row in rows]

    @property
    def names(self) -> list[str]:
        """What stands first in each line of the table, without the tree."""
        if not self.app.table.rows:
            return []
        return [row.lstrip(" ▾▸├└│─").split()[0] for row in self.table if row.strip(" ▁▂▃▄▅▆▇█")]

    @property
    def here(self) -> str:
        """What stands first in the line with the cursor."""
        row = self.app.table.row
        assert row is not None
        region = self.app.table.region
        y = self.app.table.cursor - round(self.app.table.scroll_offset.y)
        return self.lines[region.y + 1 + y].strip(" ▾▸├└│─").split()[0]

    async def sees(self, source: ByHand, seen: Snapshot) -> None:
        """Have the next picture be this one, now."""
        source.seen = seen
        self.app.look_now()
        await self.until(lambda: seen in {self.app.everything, self.app._kept})

    async def until(self, condition: Callable[[], object], **how: Any) -> None:
        """Wait for it."""

        async def seen() -> object:
            await self.pilot.pause(0.005)
            return condition()

        await aeventually(seen, message=self.text, **how)

    async def shows(self, text: str, **how: Any) -> None:
        """Wait until it stands on the screen."""
        await self.until(lambda: text in self.text, **how)

    async def told(self, words: str) -> None:
        """Wait until a notification says so; it wraps its lines as there is room."""
        await self.until(lambda: any(words in one.message for one in self.app._notifications))


@contextlib.asynccontextmanager
async def running(
    source: ByHand | str, size: tuple[int, int] = SMALL, **options: Any
) -> AsyncIterator[Screen]:
    """Run it on pictures made by hand, or on a database; it has seen the first picture."""
    if isinstance(source, str):
        door = _Door(Dsn(source, "the test"), None, ())
        app = Top(door.open, Options(**{"every": 0.1} | options), door.pick)
    else:
        app = Top(source.opened, Options(**{"every": 60.0} | options))
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            screen = Screen(app, pilot)
            await screen.until(lambda: app.seen is not None)
            await pilot.pause()
            yield screen
    finally:
        app.feed.stop(within=5)
    if app.failure is not None:
        raise app.failure


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test that is a coroutine."""
    asyncio.run(test)
